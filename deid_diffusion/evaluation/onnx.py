"""Evaluators from ONNX files: face recognition, age and sex estimation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError, one_line
from ..faces.alignment import extract, similarity
from ..identity.recognition import fit_similarity

_HINT = "name an ONNX file with one input of (1, 3, S, S)"


class OnnxNetwork:
    """ONNX network with one image input, (1, 3, S, S) float32, on the CPU.

    `size` is S, in pixels; `settings` are the defaults, overridden by the JSON file of the same name.
    """

    def __init__(self, path: Path, defaults: Mapping[str, Any]) -> None:
        """Load a file, with all valid settings and their defaults, among them ``colour``, ``mean`` and ``scale``.

        Raises UsageError if the file is missing, not an ONNX model or has another input, or the settings are invalid.
        """
        import onnxruntime

        if not path.is_file():
            raise UsageError(f"{path}: does not exist: {_HINT}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions are not public
            raise UsageError(f"{path}: cannot be loaded ({one_line(error)[:120]}): {_HINT}") from error
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(self._session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3:
            raise UsageError(f"{path}: has an input of {shape}: {_HINT}")
        self.settings = {**defaults, **_settings(path.with_suffix(".json"), defaults)}
        size = shape[2] if isinstance(shape[2], int) else self.settings.get("size")
        if not isinstance(size, int) or size < 1:
            raise UsageError(f'{path}: has an input of dynamic size: set "size" in {path.with_suffix(".json")}')
        self.size = size

    def __call__(self, crop: np.ndarray) -> list[np.ndarray]:
        """Run the network on a crop, (S, S, 3) uint8 RGB, and return its outputs as float32 vectors."""
        image = crop[..., ::-1] if self.settings["colour"] == "bgr" else crop
        values = (image.astype(np.float32) - self.settings["mean"]) / self.settings["scale"]
        outputs = self._session.run(None, {self._input.name: np.ascontiguousarray(values.transpose(2, 0, 1)[None])})
        return [np.asarray(output, np.float32).reshape(-1) for output in outputs]


def _settings(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Read settings from a JSON file; {} without a file. Raises UsageError for invalid settings."""
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({one_line(error)})") from error
    if not isinstance(settings, dict) or settings.keys() - known.keys():
        raise UsageError(f"{path}: expected a JSON object with some of: {', '.join(known)}")
    if settings.get("colour", "rgb") not in ("rgb", "bgr"):
        raise UsageError(f'{path}: colour: expected "rgb" or "bgr", got {one_line(settings["colour"])}')
    for key, default in known.items():
        if isinstance(default, float) and not isinstance(settings.get(key, default), (int, float)):
            raise UsageError(f"{path}: {key}: expected a number, got {one_line(settings[key])}")
    return settings


ARCFACE_POINTS = (
    (0.34192, 0.46157), (0.65653, 0.45983), (0.50022, 0.64050), (0.37098, 0.82469), (0.63152, 0.82325),
)  # fmt: skip
"""Eyes, nose and mouth corners as shares of the image side: the alignment template of ArcFace (Deng et al., "ArcFace:
Additive Angular Margin Loss for Deep Face Recognition", 2019), shared by most open recognisers."""


class OnnxRecogniser:
    """`Recogniser` from an ONNX file: (1, 3, S, S) aligned face in, one embedding out.

    Defaults are those of ArcFace: RGB, (value - 127.5) / 127.5, aligned to `ARCFACE_POINTS`. The JSON file of the same
    name overrides ``colour``, ``mean``, ``scale``, ``size``, ``points`` (five x, y as shares of the side: the subject's
    right eye, left eye, nose tip, right and left mouth corner), and ``threshold``, the cosine for a false match rate of
    1e-3, used if there are too few photos to set a threshold. Without it, ``threshold`` is NaN.
    """

    def __init__(self, path: Path) -> None:
        """Load a file. Raises UsageError if it is not usable."""
        defaults = {"colour": "rgb", "mean": 127.5, "scale": 127.5, "size": None, "points": ARCFACE_POINTS}
        self._net = OnnxNetwork(path, {**defaults, "threshold": float("nan")})
        points = np.asarray(self._net.settings["points"], np.float64)
        if points.shape != (5, 2):
            raise UsageError(f"{path.with_suffix('.json')}: points: expected five pairs of numbers")
        self._points = points * self._net.size
        self.name = path.stem
        self.threshold = float(self._net.settings["threshold"])

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return a unit embedding, (D,) float32. See `Recogniser`."""
        crop = extract(photo, fit_similarity(points, self._points), self._net.size)
        vector = self._net(crop)[0]
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


@dataclass(frozen=True)
class Reading:
    """Estimated age of a face, in years, and probability, 0 to 1, that it is female."""

    age: float
    female: float


class AttributeReader(Protocol):
    """Named estimator of age and sex; it should not have been used to generate the results."""

    name: str

    def __call__(self, photo: np.ndarray, box: tuple[float, float, float, float]) -> Reading:
        """Read the face in a box, x0, y0, x1, y1 in pixels, of a photo, (H, W, 3) uint8 RGB."""
        ...


class OnnxAgeGender:
    """`AttributeReader` from an ONNX file: (1, 3, S, S) upright face in; sexes and age out.

    The outputs are probabilities or logits of female and male and an age, in one output in this order or in two.
    Defaults are those of Open Model Zoo's age-gender-recognition-retail-0013: BGR, 0 to 255, age in hundreds of years,
    a square 1.2 times the size of the face box. The JSON file of the same name overrides ``colour``, ``mean``,
    ``scale``, ``size``, ``margin`` (side of the square over the longer side of the box) and ``age_scale`` (years per
    unit).
    """

    def __init__(self, path: Path) -> None:
        """Load a file. Raises UsageError if it is not usable."""
        numbers = {"mean": 0.0, "scale": 1.0, "margin": 1.2, "age_scale": 100.0}
        self._net = OnnxNetwork(path, {"colour": "bgr", "size": None, **numbers})
        sizes = sorted(len(output) for output in self._net(np.zeros((self._net.size, self._net.size, 3), np.uint8)))
        if sizes not in ([3], [1, 2]):
            raise UsageError(f"{path}: has outputs of sizes {sizes}: expected 2 for female and male and 1 for the age")
        self.name = path.stem

    def __call__(self, photo: np.ndarray, box: tuple[float, float, float, float]) -> Reading:
        """Read the face in a box. See `AttributeReader`."""
        outputs = sorted(self._net(face_square(photo, box, self._net.settings["margin"], self._net.size)), key=len)
        sexes, age = (outputs[1], outputs[0]) if len(outputs) == 2 else (outputs[0][:2], outputs[0][2:])
        if sexes.min() < 0 or abs(sexes.sum() - 1) > 0.01:  # logits
            sexes = np.exp(sexes - sexes.max())
        return Reading(float(age[0]) * self._net.settings["age_scale"], float(sexes[0] / sexes.sum()))


def face_square(photo: np.ndarray, box: tuple[float, float, float, float], margin: float, size: int) -> np.ndarray:
    """Crop the square around a box, `margin` times its longer side, edges repeated: (size, size, 3) uint8 RGB."""
    x0, y0, x1, y1 = box
    side = margin * max(x1 - x0, y1 - y0, 1.0)
    return extract(photo, similarity(((x0 + x1) / 2, (y0 + y1) / 2), side, 0.0, size), size)
