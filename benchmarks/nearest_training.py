"""Overfitting watch: how near results come to the photographs that the model learned from.

    python benchmarks/nearest_training.py PHOTOS --cache CACHE [--count 200] [--model builtin] [--seed 0] [--sheet PNG]

PHOTOS are faces that were not trained on; CACHE is what the model was trained from, of which the first, plain crop of
each photograph counts. Faces of PHOTOS are replaced until there are --count results, in as many rounds with other seeds
as that takes, and for each the training face with the highest cosine of the recogniser's embeddings is looked up. All
faces are seen alike: as crops of the cache's size, by the points of their own mesh. Prints JSON.

How to read it. ``over_threshold`` counts faces whose nearest training face the recogniser takes for the same person.
Its threshold holds for one pair. With N training faces each face is compared N times: at a false match rate of 1e-3 and
N = 6,000, six false matches are expected for somebody who is in no training photograph. So copies show against a chance
line, not against zero:

- ``originals`` has the same figures for the faces that were replaced; they cannot be in the training set.
- ``beyond_originals`` counts results nearer than 95 % of the originals; without copies about 5 % are expected.
- ``median_difference`` is the median of nearest(result) - nearest(its original), with a 95 % interval from resampling
  photographs.
- ``gap_median`` is how far the nearest training face stands out from the tenth nearest. A result that is merely of the
  training set's kind (its ages, its softness) is near to many training faces, a copy to one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deid_diffusion import images
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.analysis import analyse_face
from deid_diffusion.faces.crop import extract
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.faces.landmarks import Landmarker, five_points
from deid_diffusion.identity.recognition import FALSE_MATCH_RATE, DlibRecogniser, face_chip
from deid_diffusion.options import Options
from deid_diffusion.training.data import FaceCache

SMALLEST = 64  # pixels: a box under this is no fair likeness of what the generator painted
ROUND = 10_000  # more than the faces of a photo: how far the seeds of two calls lie apart
SHOWN = 12  # pairs on the sheet


@dataclass(frozen=True)
class Pair:
    """A replaced face: crops (S, S, 3) uint8 before and after; the result's is None when it shows no mesh."""

    photo: str
    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray] | None


def look(
    photo: np.ndarray, face: DetectedFace, landmarker: Landmarker, size: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """A face as the cache would hold it: (size, size, 3) uint8 and its five points (5, 2); None without a mesh."""
    seen = analyse_face(photo, face, landmarker, size)
    return None if seen.mesh is None else (extract(photo, seen.matrix, size), five_points(seen.mesh))


def replaced(anonymizer: Anonymizer, paths: list[Path], size: int, seed: int) -> Iterator[Pair]:
    """Faces with a mesh that the model replaces, photo by photo, round by round; ends when a round gives none."""
    step = seed
    while True:
        given = 0
        for path in paths:
            photo = images.read(path).pixels
            made = anonymizer(photo, Options(seed=step))
            step += ROUND
            done = {face.box for face in made.faces if face.action == "replaced"}
            for one in anonymizer.analyse(photo):
                x0, y0, x1, y1 = one.face.box
                before = look(photo, one.face, anonymizer.landmarker, size)
                if one.face.box in done and before is not None and min(x1 - x0, y1 - y0) >= SMALLEST:
                    given += 1
                    yield Pair(path.name, before, look(np.asarray(made.image), one.face, anonymizer.landmarker, size))
        if not given:
            return


def plain_crops(cache: FaceCache) -> list[int]:
    """Index of each photograph's first crop, which is the plain one; the others follow it."""
    names = [(row.get("tar"), row["file"]) for row in cache.rows]
    return [k for k, name in enumerate(names) if k == 0 or name != names[k - 1]]


def nearest(vectors: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: index and cosine of the nearest training face, and how far the tenth nearest lies behind it."""
    cosines = vectors @ training.T
    tenth = np.sort(cosines, axis=1)[:, -min(10, len(training))]
    return cosines.argmax(1), cosines.max(1), cosines.max(1) - tenth


def figures(near: np.ndarray, gap: np.ndarray, threshold: float) -> dict[str, float]:
    """What is printed of the nearest cosines (N,) of a group of faces."""
    return {
        "compared": len(near),
        "over_threshold": int((near > threshold).sum()),
        "highest": float(near.max()),
        "median": float(np.median(near)),
        "gap_median": float(np.median(gap)),
        "gap_highest": float(gap.max()),
    }


def median_interval(values: np.ndarray, photos: list[str], seed: int) -> tuple[float, float]:
    """95 % interval of the median of (N,) values, from 2,000 samples of their photographs."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(np.array(photos) == name) for name in sorted(set(photos))]
    samples = (np.concatenate([rows[k] for k in rng.integers(0, len(rows), len(rows))]) for _ in range(2000))
    low, high = np.quantile([np.median(values[sample]) for sample in samples], (0.025, 0.975))
    return float(low), float(high)


def sheet(results: list[np.ndarray], training: list[np.ndarray], cosines: list[float]) -> np.ndarray:
    """(H, W, 3) uint8: result | nearest training face with their cosine, four pairs a row."""
    cells = []
    for result, face, cosine in zip(results, training, cosines, strict=True):
        pair = cv2.copyMakeBorder(np.hstack([result, face]), 4, 20, 4, 4, cv2.BORDER_CONSTANT, value=(255,) * 3)
        cells.append(cv2.putText(pair, f"{cosine:.3f}", (6, len(pair) - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0)))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % 4)
    return np.vstack([np.hstack(cells[k : k + 4]) for k in range(0, len(cells), 4)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write a picture of the nearest pairs here; it shows training faces")
    args = parser.parse_args()
    cache, recogniser = FaceCache(args.cache), DlibRecogniser()
    anonymizer = Anonymizer.from_pretrained(args.model, device=args.device)
    paths = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in images.READABLE)

    pairs: list[Pair] = []
    for pair in replaced(anonymizer, paths, cache.size, args.seed):
        pairs.append(pair)
        if len(pairs) == args.count:
            break
    whole = [(pair.photo, pair.before, pair.after) for pair in pairs if pair.after is not None]
    if not whole:
        parser.error(f"{args.photos}: no face that could be replaced and looked at again")

    index = plain_crops(cache)
    chips = np.stack([face_chip(cache.crops[k], five_points(cache.meshes[k])) for k in index])
    training = recogniser.embed_chips(chips)
    which, near, gap = nearest(np.stack([recogniser(*after) for _, _, after in whole]), training)
    _, near_before, gap_before = nearest(np.stack([recogniser(*before) for _, before, _ in whole]), training)
    low, high = median_interval(near - near_before, [photo for photo, _, _ in whole], args.seed)
    printed = {
        "model": anonymizer.model_name,
        "recogniser": recogniser.name,
        "threshold": recogniser.threshold,
        "threshold_fmr": FALSE_MATCH_RATE,
        "training_faces": len(training),
        "outputs": len(pairs),
        "outputs_without_mesh": len(pairs) - len(whole),
        "results": figures(near, gap, recogniser.threshold),
        "originals": figures(near_before, gap_before, recogniser.threshold),
        "beyond_originals": int((near > np.quantile(near_before, 0.95)).sum()),
        "beyond_originals_expected": 0.05 * len(near),
        "median_difference": float(np.median(near - near_before)),
        "median_difference_95": (low, high),
    }
    print(json.dumps(printed, indent=1))
    if args.sheet:
        order = np.argsort(-near)[:SHOWN]
        found = [np.array(cache.crops[index[which[k]]]) for k in order]
        images.write(args.sheet, sheet([whole[k][2][0] for k in order], found, near[order].tolist()), overwrite=True)


if __name__ == "__main__":
    main()
