"""A contact sheet without a photograph: the model invents people, and then de-identifies its own inventions.

    python benchmarks/synthetic_sheet.py -o docs/synthetic.png [--rows 6] [--seed 0]

An invented picture is made with everything masked, a mean face's map and a text. The sheet shows, twice a row, the
semantic map that is found in it and two results of de-identifying it. Nobody on it ever lived, so it can be shown
anywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from deid_diffusion import images
from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from deid_diffusion.options import Options

PEOPLE = (
    "colour photo of a woman, young, smiling, facing the camera",
    "colour photo of a man, middle-aged, facing the camera",
    "colour photo of a woman, elderly, light skin",
    "colour photo of a man, young, brown skin",
    "colour photo of a girl, child",
    "colour photo of a man, elderly, smiling, mouth closed",
)
_SIDE, _TRIES = 192, 6


def invent(anonymizer: Anonymizer, text: str, seed: int) -> np.ndarray | None:
    """(256, 256, 3) uint8 picture of a new person, the first of a few tries in which one face with a mesh is found."""
    pipeline = anonymizer.pipeline
    size = pipeline.crop_size
    control = torch.from_numpy(control_image(draw_semantic_map(mean_mesh(size), size))).permute(2, 0, 1)[None] / 255
    for attempt in range(_TRIES):
        made = pipeline(
            image=torch.full((1, 3, size, size), 0.5),
            mask_image=torch.ones(1, 1, size, size),
            control_image=control,
            prompt=text,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(1000 * seed + attempt),
            output_type="np",
            return_dict=False,
        )[0][0]
        picture = cv2.resize((made * 255).round().astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
        found = anonymizer.analyse(picture)
        if len(found) == 1 and found[0].mesh is not None:
            return picture
    return None


def row(anonymizer: Anonymizer, picture: np.ndarray, seed: int) -> np.ndarray:
    """Semantic map and two results side by side."""
    face = anonymizer.analyse(picture)[0]
    matrix = cv2.invertAffineTransform(face.matrix)
    drawn = cv2.warpAffine(control_image(face.semantic_map), matrix, (_SIDE, _SIDE), flags=cv2.INTER_NEAREST)
    results = [np.asarray(anonymizer(picture, Options(seed=seed + k)).image) for k in range(2)]
    return np.hstack([drawn, *results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    anonymizer = Anonymizer.from_pretrained(args.model)
    texts = [PEOPLE[k % len(PEOPLE)] for k in range(args.rows)]
    pictures = [invent(anonymizer, text, args.seed + k) for k, text in enumerate(texts)]
    rows = [row(anonymizer, picture, args.seed) for picture in pictures if picture is not None]
    if not rows:
        raise SystemExit("the model invented no face that its own detector finds")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pairs = [np.hstack(rows[k : k + 2]) for k in range(0, len(rows) - 1, 2)]
    images.write(args.out, np.vstack(pairs or rows), overwrite=True)


if __name__ == "__main__":
    main()
