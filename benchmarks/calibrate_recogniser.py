"""Measure the recogniser's thresholds on photographs of known people.

    python benchmarks/calibrate_recogniser.py FOLDER
    python benchmarks/calibrate_recogniser.py FOLDER --groups labels.csv
    python benchmarks/calibrate_recogniser.py --cohort CACHE deid_diffusion/identity/cohort.npy

FOLDER holds a sub-folder per person, or files named PERSON_NUMBER.jpg. The largest face of every photograph counts. All
pairs of photographs of one person are genuine pairs, all others impostor pairs. Prints JSON: for every false match rate
the cosine threshold, the equivalent distance of unit vectors, and the TPR. Rates that would rest on fewer than ten
false matches are left out.

--groups is a table with the columns ``file`` and ``age_group``, one photograph per person: prints the false match rate
within every group at the recogniser's threshold, and at the threshold raised by similarity to the cohort.

--cohort writes the embeddings of the synthetic people in a cache of ``deid-diffusion prepare``, one per person; see
`deid_diffusion.identity.recognition`.

The pairs are not independent, and the result depends on the mix of people: false matches are more frequent among people
of the same age, sex and descent.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.pairing import face_mesh, largest
from deid_diffusion.evaluation.statistics import enough
from deid_diffusion.faces.detection import EnsembleDetector
from deid_diffusion.faces.landmarks import FaceMesh, five_points
from deid_diffusion.identity.recognition import (
    SAME_MARGIN,
    DlibRecogniser,
    dlib_cohort,
    face_chip,
    similarity_of_strangers,
)
from deid_diffusion.io import images
from deid_diffusion.training.data import FaceCache

RATES = (1e-1, 5e-2, 1e-2, 1e-3, 1e-4)


def photographs(folder: Path) -> list[tuple[str, Path]]:
    """List (person, file) of a folder; the person is the sub-folder, or the name before the last underscore."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.READABLE)
    return [(path.parent.name if path.parent != folder else path.stem.rpartition("_")[0], path) for path in files]


def largest_face(photo: np.ndarray, detector: EnsembleDetector, landmarker: FaceMesh) -> np.ndarray | None:
    """Return five points of the largest face, (5, 2) photo pixels, from its mesh or the detector, or None."""
    face = largest(detector(photo))
    if face is None:
        return None
    mesh = face_mesh(photo, face, landmarker)
    return face.points if mesh is None else five_points(mesh)


def thresholds(vectors: np.ndarray, people: list[str]) -> dict[str, object]:
    """Compute threshold and TPR for all `RATES`.

    Args:
        vectors: (N, D) float32, rows of length 1.
        people: N names.
    """
    first, second = np.triu_indices(len(people), 1)
    cosines = (vectors @ vectors.T)[first, second]
    same = np.array(people)[first] == np.array(people)[second]
    genuine, impostor = cosines[same], cosines[~same]
    rows = []
    for rate in RATES:
        if enough(len(impostor), rate) and len(genuine):
            cut = float(np.quantile(impostor, 1 - rate))
            tpr = float((genuine > cut).mean())
            rows.append({"fmr": rate, "cosine": cut, "distance": float(np.sqrt(2 - 2 * cut)), "tpr": tpr})
    return {"genuine_pairs": len(genuine), "impostor_pairs": len(impostor), "thresholds": rows}


def group_rates(vectors: np.ndarray, groups: list[str]) -> dict[str, dict[str, float]]:
    """Compute the false match rates within groups, with and without the cohort.

    Args:
        vectors: (N, D) float32, rows of length 1, of N people.
        groups: N names.
    """
    similarity = np.array([similarity_of_strangers(vector, dlib_cohort()) for vector in vectors])
    raised, rates = np.maximum(DlibRecogniser.threshold, similarity + SAME_MARGIN), {}
    for group in sorted(set(groups)):
        rows = np.flatnonzero(np.array(groups) == group)
        others, cosines = ~np.eye(len(rows), dtype=bool), vectors[rows] @ vectors[rows].T
        rates[group] = {
            "people": len(rows),
            "fmr": float((cosines > DlibRecogniser.threshold)[others].mean()),
            "fmr_with_cohort": float((cosines > raised[rows, None])[others].mean()),
        }
    return rates


def write_cohort(cache: FaceCache, out: Path) -> int:
    """Write the embeddings of the synthetic people of a cache, (N, D) float16, and return N."""
    first = {row["file"]: k for k, row in reversed(list(enumerate(cache.rows))) if row.get("kind") == "synthetic"}
    chips = [face_chip(cache.crops[k], five_points(cache.meshes[k])) for k in sorted(first.values())]
    np.save(out, DlibRecogniser().embed_chips(np.stack(chips)).astype(np.float16))
    return len(chips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--groups", type=Path, metavar="CSV")
    parser.add_argument("--cohort", type=Path, nargs=2, metavar=("CACHE", "OUT"))
    args = parser.parse_args()
    if args.cohort is not None:
        print(f"{args.cohort[1]}: {write_cohort(FaceCache(args.cohort[0]), args.cohort[1])} people")
        return
    if args.folder is None:
        parser.error("name a folder of photographs, or --cohort")
    detector, landmarker, recogniser = EnsembleDetector(), FaceMesh(), DlibRecogniser()
    vectors, people, files, without, seconds = [], [], [], [], []
    for person, path in photographs(args.folder):
        photo = images.read(path).pixels
        points = largest_face(photo, detector, landmarker)
        if points is None:
            without.append(path.name)
            continue
        begun = time.perf_counter()
        vectors.append(recogniser(photo, points))
        seconds.append(time.perf_counter() - begun)
        people.append(person)
        files.append(path.name)
    if args.groups is not None:
        with args.groups.open(newline="") as file:
            group = {row["file"]: row["age_group"] for row in csv.DictReader(file)}
        print(json.dumps(group_rates(np.stack(vectors), [group[name] for name in files]), indent=1))
        return
    if len(set(people)) < 2:
        parser.error(f"{args.folder}: faces of {len(set(people))} people detected, at least 2 are needed")
    figures = {
        "recogniser": recogniser.name,
        "photographs": len(people),
        "people": len(set(people)),
        "without_face": without,
        **thresholds(np.stack(vectors), people),
        "seconds_per_face_median": float(np.median(seconds)),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
