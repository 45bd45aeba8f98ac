"""A network that the user brings as an ONNX file, and how it wants its picture.

Beside FILE.onnx may lie FILE.json, an object that says where the network departs from the defaults: ``colour`` ("rgb"
or "bgr"), ``mean`` and ``scale`` (a value enters the network as ``(value - mean) / scale``, values being 0 to 255), and
what its reader understands besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, one_line

_HINT = "name an ONNX file of a network whose input is (1, 3, S, S)"


class OnnxNetwork:
    """Runs an ONNX file of one picture input, (1, 3, S, S) float32, on the CPU.

    Attributes:
        size: S, in pixels.
        settings: the defaults, and in their place what the JSON file beside it says.
    """

    def __init__(self, path: Path, defaults: Mapping[str, Any]) -> None:
        """Load a file.

        Args:
            path: the ONNX file.
            defaults: every setting that is understood, with its default; among them ``colour``, ``mean`` and ``scale``.

        Raises:
            UsageError: the file is missing, is no ONNX model or has another input, or the settings are not understood.
        """
        import onnxruntime

        if not path.is_file():
            raise UsageError(f"{path}: is not there: {_HINT}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime has many, none of them public
            raise UsageError(f"{path}: cannot be loaded ({one_line(error)[:120]}): {_HINT}") from error
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(self._session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3:
            raise UsageError(f"{path}: its input is {shape}: {_HINT}")
        self.settings = {**defaults, **_settings(path.with_suffix(".json"), defaults)}
        size = shape[2] if isinstance(shape[2], int) else self.settings.get("size")
        if not isinstance(size, int) or size < 1:
            raise UsageError(f'{path}: leaves its input\'s size open: say it in {path.with_suffix(".json")} as "size"')
        self.size = size

    def __call__(self, crop: np.ndarray) -> list[np.ndarray]:
        """The network's outputs, float32 vectors, for a crop, (S, S, 3) uint8 RGB."""
        picture = crop[..., ::-1] if self.settings["colour"] == "bgr" else crop
        values = (picture.astype(np.float32) - self.settings["mean"]) / self.settings["scale"]
        found = self._session.run(None, {self._input.name: np.ascontiguousarray(values.transpose(2, 0, 1)[None])})
        return [np.asarray(one, np.float32).reshape(-1) for one in found]


def _settings(path: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in a file, or {} without a file. Raises UsageError for settings that are not known."""
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
