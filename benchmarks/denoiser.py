r"""Measure what the denoiser's last steps change of the composites that they start from, per strength.

    python benchmarks/denoiser.py PHOTOS --detector yunet.onnx --recogniser reid.xml --attributes age-gender.xml \
        [--model builtin] [--strengths 0 0.25 0.5] [--limit 60] [--page docs/benchmarks.md]

A strength s runs the last s of the model's steps; 0 returns the composite. All rows have the same seed. The largest
face of every photo is compared with its result. Evaluators as in ``benchmarks/kept.py``. Writes its part of --page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from benchmark_page import machine, put
from openvino_evaluators import AgeGender, Detector, Recogniser

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.evaluation.measure import Evaluators, PairMeasurement, measure_pair
from deid_diffusion.evaluation.pairing import Pair
from deid_diffusion.evaluation.utility import age_error, same_sex
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.io import images
from deid_diffusion.options import Options

SEED = 7
COLUMNS = (
    "strength", "faces", "step at the rim, CIELAB", "sharpness, result over original", "cosine to the original",
    "sex agrees", "age error, years", "smile error, mouth widths", "yaw error, degrees", "s per photo",
)  # fmt: skip


def mean(values: Iterable[float | None]) -> float:
    """Average the known values; NaN if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def row(strength: float, photos: list[PairMeasurement], seconds: float) -> list[str]:
    """Format one line of the table, from the photos with a face in original and result."""
    faces = [photo.face for photo in photos if photo.face is not None and photo.face.detected]
    pairs = [face.embeddings[0] for face in faces]
    readings = [face.readings for face in faces if face.readings is not None]
    errors = [face.errors for face in faces if face.errors is not None]
    values = (
        mean(photo.rim for photo in photos),
        float(np.median([face.sharpness_ratio for face in faces if face.sharpness_ratio is not None])),
        mean(float(a @ b) for a, b in pairs if a is not None and b is not None),
        mean(float(same_sex(*reading)) for reading in readings),
        mean(age_error(*reading) for reading in readings),
        mean(error.smile for error in errors),
        mean(error.yaw for error in errors),
        seconds,
    )
    return [f"{strength:g}", str(len(faces)), *(f"{value:.2f}" for value in values)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    for name in ("--detector", "--recogniser", "--attributes"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()

    recognisers = (Recogniser(args.recogniser),)
    evaluators = Evaluators(Detector(args.detector), FaceMesh(), recognisers, AgeGender(args.attributes))
    anonymizer = Anonymizer.from_pretrained(args.model, device=args.device)
    paths = sorted(path for path in args.photos.iterdir() if path.suffix.lower() in images.READABLE)
    paths = paths[:: max(1, len(paths) // args.limit)][: args.limit]
    rows = []
    for strength in args.strengths:
        anonymizer.pipeline.register_to_config(default_strength=strength)
        measured, seconds = [], 0.0
        for path in paths:
            photo, start = images.read(path).pixels, time.perf_counter()
            result = np.asarray(anonymizer(photo, Options(seed=SEED)).image)
            seconds += time.perf_counter() - start
            measured.append(measure_pair(Pair(path.stem, path.stem, path, path), photo, result, evaluators))
        rows.append(row(strength, measured, seconds / len(paths)))
        print(" | ".join(rows[-1]), flush=True)
    lines = [
        "## With and without the denoiser",
        "",
        f"`benchmarks/denoiser.py` with {args.model}, {len(paths)} photos of {args.photos.name}, seed {SEED}: the last "
        "steps from the same composites; 0 is the composite itself, the built-in model's default. The step at the rim "
        "is that of the result minus that of the original: negative if the result is smoother.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        f"Machine: {machine(anonymizer.pipeline.device)}.",
    ]
    if args.page is not None:
        put(args.page, "denoiser", "\n".join(lines))


if __name__ == "__main__":
    main()
