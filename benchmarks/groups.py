"""Group photos made of face crops, de-identified, and searched for faces that nobody dealt with.

    python benchmarks/groups.py FACES.tar --count 40

Each picture holds 2 to 12 crops from a tar of aligned face crops (the face about 55 % of a crop's side), the faces 24
to 400 pixels high, on a coloured ground. As it is known where the faces are, so is whether any is left as it was; the
second look's own finds are counted. Prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.options import Options

FACE = 0.55  # share of a crop's side that its face takes
SMALLEST, LARGEST = 24, 400  # height of a face, in pixels

Box = tuple[int, int, int, int]


def crops(path: Path, rng: np.random.Generator) -> list[np.ndarray]:
    """500 pictures of a tar, drawn at random, RGB uint8."""
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        chosen = rng.choice(len(members), min(500, len(members)), replace=False)
        data = [archive.extractfile(members[k]) for k in chosen]
        return [np.asarray(Image.open(io.BytesIO(one.read())).convert("RGB")) for one in data if one is not None]


def compose(faces: list[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, list[Box]]:
    """A picture, (H, W, 3) uint8, and the boxes x0, y0, x1, y1 of the faces in it; crops do not overlap."""
    height, width = int(rng.integers(700, 1500)), int(rng.integers(900, 2000))
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = rng.integers(40, 216, 3)
    taken = np.zeros((height, width), bool)
    boxes: list[Box] = []
    wanted = int(rng.integers(2, 13))
    for _ in range(200):
        if len(boxes) == wanted:
            break
        high = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
        side = round(high / FACE)
        if side >= min(height, width):
            continue
        top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
        place = slice(top, top + side), slice(left, left + side)
        if taken[place].any():
            continue
        crop = faces[int(rng.integers(len(faces)))]
        kind = cv2.INTER_AREA if side < len(crop) else cv2.INTER_CUBIC
        picture[place], taken[place] = cv2.resize(crop, (side, side), interpolation=kind), True
        edge = round(side * (1 - FACE) / 2)
        boxes.append((left + edge, top + edge, left + side - edge, top + side - edge))
    return picture, boxes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    faces = crops(args.faces, rng)
    anonymizer = Anonymizer.from_pretrained(args.model)
    actions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    there, untouched, second = 0, [], 0
    for _ in range(args.count):
        picture, boxes = compose(faces, rng)
        made = anonymizer(picture, Options())
        changed = (np.asarray(made.image) != picture).any(-1)
        actions.update(face.action for face in made.faces)
        reasons.update(face.reason.partition(" (")[0] for face in made.faces if face.reason)
        second += sum("second look" in (face.reason or "") for face in made.faces)
        there += len(boxes)
        untouched += [y1 - y0 for x0, y0, x1, y1 in boxes if changed[y0:y1, x0:x1].mean() < 0.5]
    figures = {
        "pictures": args.count,
        "faces": there,
        "actions": dict(actions),
        "found_by_the_second_look": second,
        "left_original": len(untouched),
        "heights_of_those": sorted(untouched),
        "reasons": dict(reasons),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
