"""Judges that a user brings as ONNX files: a face recogniser, a reader of age and sex."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import UsageError
from ..faces.crop import extract, similarity
from ..identity.recognition import fit_similarity
from .onnx_network import OnnxNetwork

#: Eyes, nose and mouth corners as shares of the side of the picture: the template of ArcFace's training crops (Deng et
#: al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019), which most open recognisers share.
ARCFACE_POINTS = (
    (0.34192, 0.46157), (0.65653, 0.45983), (0.50022, 0.64050), (0.37098, 0.82469), (0.63152, 0.82325),
)  # fmt: skip


class OnnxRecogniser:
    """A `Recogniser` from an ONNX file: (1, 3, S, S) aligned face in, one embedding out.

    Defaults are ArcFace's: RGB, (value - 127.5) / 127.5, aligned to `ARCFACE_POINTS`. The JSON file beside it may say
    otherwise: ``colour``, ``mean``, ``scale``, ``size``, ``points`` (five x, y as shares of the side: the subject's
    right eye, left eye, nose tip, right and left mouth corner), and ``threshold``, the cosine for a false match rate of
    1e-3, which is used where the photos are too few to fix one on them. Without it, ``threshold`` is NaN.
    """

    def __init__(self, path: Path) -> None:
        """Load a file. Raises UsageError for one that does not do."""
        defaults = {"colour": "rgb", "mean": 127.5, "scale": 127.5, "size": None, "points": ARCFACE_POINTS}
        self._net = OnnxNetwork(path, {**defaults, "threshold": float("nan")})
        points = np.asarray(self._net.settings["points"], np.float64)
        if points.shape != (5, 2):
            raise UsageError(f"{path.with_suffix('.json')}: points: expected five pairs of numbers")
        self._points = points * self._net.size
        self.name = path.stem
        self.threshold = float(self._net.settings["threshold"])

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(D,) float32 of length 1. See `Recogniser`."""
        crop = extract(photo, fit_similarity(points, self._points), self._net.size)
        vector = self._net(crop)[0]
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@dataclass(frozen=True)
class Reading:
    """What a network makes of a face.

    Attributes:
        age: in years.
        female: 0 to 1.
    """

    age: float
    female: float


class AttributeReader(Protocol):
    """Reads age and sex off a face; it should have had no part in the making of the results.

    Attributes:
        name: as reports call it.
    """

    name: str

    def __call__(self, photo: np.ndarray, box: tuple[float, float, float, float]) -> Reading:
        """The reading of the face in a box, x0, y0, x1, y1 in pixels, of a photo, (H, W, 3) uint8 RGB."""
        ...


class OnnxAgeGender:
    """An `AttributeReader` from an ONNX file: (1, 3, S, S) upright face in; out come two numbers for female and male
    (probabilities, or what becomes them by softmax) and one for the age, in one output in this order or in two.

    Defaults are those of Open Model Zoo's age-gender-recognition-retail-0013: BGR, 0 to 255, age in hundreds of years,
    a square 1.2 times as large as the face's box. The JSON file beside it may say otherwise: ``colour``, ``mean``,
    ``scale``, ``size``, ``margin`` (side of the square in units of the box's larger side), ``age_scale`` (years a
    unit).
    """

    def __init__(self, path: Path) -> None:
        """Load a file. Raises UsageError for one that does not do."""
        numbers = {"mean": 0.0, "scale": 1.0, "margin": 1.2, "age_scale": 100.0}
        self._net = OnnxNetwork(path, {"colour": "bgr", "size": None, **numbers})
        sizes = sorted(len(one) for one in self._net(np.zeros((self._net.size, self._net.size, 3), np.uint8)))
        if sizes not in ([3], [1, 2]):
            raise UsageError(f"{path}: gives {sizes} numbers: expected 2 for the sexes and 1 for the age")
        self.name = path.stem

    def __call__(self, photo: np.ndarray, box: tuple[float, float, float, float]) -> Reading:
        """See `AttributeReader`."""
        outputs = sorted(self._net(face_square(photo, box, self._net.settings["margin"], self._net.size)), key=len)
        both, age = (outputs[1], outputs[0]) if len(outputs) == 2 else (outputs[0][:2], outputs[0][2:])
        if both.min() < 0 or abs(both.sum() - 1) > 0.01:
            both = np.exp(both - both.max())
        female = float(both[0] / both.sum())
        return Reading(float(age[0]) * self._net.settings["age_scale"], female)


def face_square(photo: np.ndarray, box: tuple[float, float, float, float], margin: float, size: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB: the upright square around a box, `margin` times its larger side, edges repeated."""
    x0, y0, x1, y1 = box
    side = margin * max(x1 - x0, y1 - y0, 1.0)
    return extract(photo, similarity(((x0 + x1) / 2, (y0 + y1) / 2), side, 0.0, size), size)
