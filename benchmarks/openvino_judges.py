"""Judges of Open Model Zoo that the product never uses: a reader of age and sex, and one of the head's pose.

Both run on the ``openvino`` package. `attacks.Detector` and `attacks.Recogniser` are the other two.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deid_diffusion.evaluation.onnx import Reading, face_square
from deid_diffusion.evaluation.pairing import Pair, largest, nearest
from deid_diffusion.faces.boxes import FaceDetector
from deid_diffusion.io import images

MARGIN = 1.2  # side of the square that both networks see, in larger sides of the face's box

Box = tuple[float, float, float, float]


class Network:
    """An OpenVINO file that sees the square around a face, BGR, 0 to 255."""

    def __init__(self, path: Path) -> None:
        import openvino

        self._net = openvino.Core().compile_model(str(path), "CPU")
        self._size = int(self._net.input(0).shape[-1])
        self.name = path.stem

    def read(self, photo: np.ndarray, box: Box) -> dict[str, np.ndarray]:
        """Name of an output to its numbers, of the face in a box of a photo, (H, W, 3) uint8 RGB."""
        crop = face_square(photo, box, MARGIN, self._size)[..., ::-1]
        found = self._net(crop.transpose(2, 0, 1)[None].astype(np.float32))
        return {output.any_name: value.reshape(-1) for output, value in found.items()}


class AgeGender(Network):
    """age-gender-recognition-retail-0013 as an `AttributeReader`."""

    def __call__(self, photo: np.ndarray, box: Box) -> Reading:
        sizes = {len(value): value for value in self.read(photo, box).values()}
        return Reading(age=float(sizes[1][0]) * 100, female=float(sizes[2][0]))


class HeadPose(Network):
    """head-pose-estimation-adas-0001: yaw, pitch and roll in degrees."""

    def __call__(self, photo: np.ndarray, box: Box) -> tuple[float, float, float]:
        found = self.read(photo, box)
        yaw, pitch, roll = (next(v for n, v in found.items() if f"angle_{axis}_" in n) for axis in "ypr")
        return float(yaw[0]), float(pitch[0]), float(roll[0])


def yaw_errors(pairs: Sequence[Pair], detector: FaceDetector, pose: HeadPose) -> list[float | None]:
    """Degrees by which the largest face of each photo turned; None where it, or its successor, is not found."""
    errors: list[float | None] = []
    for pair in pairs:
        photo, result = images.read(pair.original).pixels, images.read(pair.result).pixels
        before = largest(detector(photo))
        after = None if before is None else nearest(detector(result), np.array(before.box))
        errors.append(
            None if before is None or after is None else abs(pose(photo, before.box)[0] - pose(result, after.box)[0])
        )
    return errors


def add_sets_and_judges(parser: argparse.ArgumentParser) -> None:
    """The options that say what a comparison works on, and who judges it."""
    for name in ("--people", "--photos", "--detector", "--recogniser", "--attributes", "--pose"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="number of photos of each folder")
