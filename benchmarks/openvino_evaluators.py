"""Independent evaluators, which this package never uses: YuNet, and networks of Open Model Zoo.

The latter need the ``openvino`` package.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from deid_diffusion.evaluation.onnx import Reading, face_square
from deid_diffusion.evaluation.pairing import Pair, largest, nearest
from deid_diffusion.faces.boxes import Detection, FaceDetector
from deid_diffusion.io import images

MARGIN = 1.2  # side of the square that is read, in longer sides of the face box
MAX_SIDE = 640  # of the image that YuNet sees, in pixels

ALIGNED = np.array(
    [(0.3156, 0.4616), (0.6826, 0.4616), (0.5003, 0.6405), (0.3495, 0.8247), (0.6534, 0.8232)], np.float32
)
"""Eyes, nose and mouth corners in the recogniser's 128 px input, as shares of its side (Open Model Zoo's reid-0095)."""

SAME_PERSON = 0.401
"""Threshold of that recogniser for a false match rate of 1e-3 (grey LFW pairs)."""

Box = tuple[float, float, float, float]


class Detector:
    """YuNet, an ONNX file for ``cv2.FaceDetectorYN``, as a `FaceDetector`."""

    def __init__(self, path: Path) -> None:
        self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.5, 0.3, 500)

    def __call__(self, image: np.ndarray) -> list[Detection]:
        scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
        small = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._net.setInputSize(small.shape[1::-1])
        faces = self._net.detect(small)[1]
        rows = [] if faces is None else (faces / np.array([scale] * 14 + [1])).tolist()
        return [
            Detection((x, y, x + w, y + h), score, "yunet", np.array(points, np.float32).reshape(5, 2))
            for x, y, w, h, *points, score in rows
        ]


class Recogniser:
    """face-reidentification-retail-0095, (1, 3, 128, 128) BGR, as a `Recogniser`."""

    name = "face-reidentification-retail-0095"
    threshold = SAME_PERSON

    def __init__(self, path: Path) -> None:
        import openvino

        self._net = openvino.Core().compile_model(str(path), "CPU")

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        matrix, _ = cv2.estimateAffinePartial2D(points.astype(np.float32), ALIGNED * 128, method=cv2.LMEDS)
        crop = cv2.warpAffine(photo[..., ::-1], matrix, (128, 128), borderMode=cv2.BORDER_REPLICATE)
        vector = self._net(crop.transpose(2, 0, 1)[None].astype(np.float32))[0].reshape(-1)
        return vector / np.linalg.norm(vector)


class NoMesh:
    """`Landmarker` without a mesh: faces are aligned by the detector's points."""

    def __call__(self, crop: np.ndarray) -> None:
        return None


class Network:
    """OpenVINO network on the square around a face, BGR, 0 to 255."""

    def __init__(self, path: Path) -> None:
        import openvino

        self._net = openvino.Core().compile_model(str(path), "CPU")
        self._size = int(self._net.input(0).shape[-1])
        self.name = path.stem

    def read(self, photo: np.ndarray, box: Box) -> dict[str, np.ndarray]:
        """Run the network on the face in a box of a photo, (H, W, 3) uint8 RGB: output name to values."""
        crop = face_square(photo, box, MARGIN, self._size)[..., ::-1]
        outputs = self._net(crop.transpose(2, 0, 1)[None].astype(np.float32))
        return {output.any_name: value.reshape(-1) for output, value in outputs.items()}


class AgeGender(Network):
    """age-gender-recognition-retail-0013 as an `AttributeReader`."""

    def __call__(self, photo: np.ndarray, box: Box) -> Reading:
        sizes = {len(value): value for value in self.read(photo, box).values()}
        return Reading(age=float(sizes[1][0]) * 100, female=float(sizes[2][0]))


class HeadPose(Network):
    """head-pose-estimation-adas-0001: yaw, pitch and roll in degrees."""

    def __call__(self, photo: np.ndarray, box: Box) -> tuple[float, float, float]:
        outputs = self.read(photo, box)
        yaw, pitch, roll = (next(v for n, v in outputs.items() if f"angle_{axis}_" in n) for axis in "ypr")
        return float(yaw[0]), float(pitch[0]), float(roll[0])


def yaw_errors(pairs: Sequence[Pair], detector: FaceDetector, pose: HeadPose) -> list[float | None]:
    """Return the yaw errors of the largest faces in degrees; None if it, or the new face, is not detected."""
    errors: list[float | None] = []
    for pair in pairs:
        photo, result = images.read(pair.original).pixels, images.read(pair.result).pixels
        before = largest(detector(photo))
        after = None if before is None else nearest(detector(result), np.array(before.box))
        errors.append(
            None if before is None or after is None else abs(pose(photo, before.box)[0] - pose(result, after.box)[0])
        )
    return errors


def add_sets_and_evaluators(parser: argparse.ArgumentParser) -> None:
    """Add the options for data sets and evaluators."""
    for name in ("--people", "--photos", "--detector", "--recogniser", "--attributes", "--pose"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="number of photos per folder")
