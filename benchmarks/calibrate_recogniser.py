"""Thresholds of the recogniser, measured on photographs of known people.

    python benchmarks/calibrate_recogniser.py FOLDER
    python benchmarks/calibrate_recogniser.py FOLDER --groups labels.csv
    python benchmarks/calibrate_recogniser.py --cohort CACHE deid_diffusion/identity/cohort.npy

FOLDER holds a sub-folder per person, or files named PERSON_NUMBER.jpg. Of each photograph the largest face counts.
Every two photographs of one person are a genuine pair, every two of different people an impostor pair. Prints JSON: for
each false match rate the cosine over which it is met, the distance of unit vectors that is the same, and the share of
the genuine pairs that pass (TPR). A rate that would rest on fewer than ten false matches is left out.

With --groups, a table with the columns ``file`` and ``age_group`` of photographs of one person each, it prints how
often strangers of one group match at the recogniser's threshold, and at one that their likeness to the cohort raises.

With --cohort it writes the embeddings of the synthetic people in a cache of faces, made by ``deid-diffusion
prepare``, once each; see `deid_diffusion.identity.recognition`.

The pairs are not independent and a folder has its own mix of people: false matches are more frequent among people who
are alike in age, sex and descent than among strangers drawn from all.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from deid_diffusion.faces.alignment import invert, transform
from deid_diffusion.faces.analysis import analyse_face
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
FEWEST = 10  # false matches that a threshold rests on


def photographs(folder: Path) -> list[tuple[str, Path]]:
    """(person, file) of every photograph in a folder, by sub-folder or by the name before the last underscore."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.READABLE)
    return [(path.parent.name if path.parent != folder else path.stem.rpartition("_")[0], path) for path in files]


def largest_face(photo: np.ndarray, detector: EnsembleDetector, landmarker: FaceMesh) -> np.ndarray | None:
    """(5, 2) photo pixels: the points of the largest face, from its mesh, else the detector's; None without either."""
    faces = detector(photo)
    if not faces:
        return None
    face = max(faces, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
    seen = analyse_face(photo, face, landmarker, 128)
    return face.points if seen.mesh is None else five_points(transform(seen.mesh, invert(seen.matrix)))


def thresholds(vectors: np.ndarray, people: list[str]) -> dict[str, object]:
    """Pair counts and, for each rate of `RATES`, threshold and TPR.

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
        if len(impostor) * rate >= FEWEST and len(genuine):
            cut = float(np.quantile(impostor, 1 - rate))
            tpr = float((genuine > cut).mean())
            rows.append({"fmr": rate, "cosine": cut, "distance": float(np.sqrt(2 - 2 * cut)), "tpr": tpr})
    return {"genuine_pairs": len(genuine), "impostor_pairs": len(impostor), "thresholds": rows}


def group_rates(vectors: np.ndarray, groups: list[str]) -> dict[str, dict[str, float]]:
    """False match rates among strangers of each group, with and without the cohort.

    Args:
        vectors: (N, D) float32, rows of length 1, of N people.
        groups: N names.
    """
    likeness = np.array([similarity_of_strangers(vector, dlib_cohort()) for vector in vectors])
    raised, rates = np.maximum(DlibRecogniser.threshold, likeness + SAME_MARGIN), {}
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
    """Write (N, D) float16 embeddings of the synthetic people of a cache; returns N."""
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
        parser.error(f"{args.folder}: faces of {len(set(people))} people found, at least 2 are needed")
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
