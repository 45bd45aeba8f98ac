"""The packages that clips need and photos do not. They are imported where they are used, and asked for by name."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..errors import DeidError

_HINT = "clips need more packages: pip install 'deid-diffusion[video]'"


def pyav() -> ModuleType:
    """PyAV, which reads and writes clips with FFmpeg's libraries. Raises DeidError if it is missing or too old."""
    av = _module("av")
    if not hasattr(av.VideoStream, "set_display_matrix"):
        raise DeidError(f"av {av.__version__} is too old, 17.1 or newer is needed: {_HINT}")
    return av


def supervision() -> ModuleType:
    """supervision, for its ByteTrack. Raises DeidError if it is missing, or too new to have one."""
    module = _module("supervision")
    if not hasattr(module, "ByteTrack"):
        raise DeidError(f"supervision {module.__version__} has no ByteTrack, one under 0.28 is needed: {_HINT}")
    return module


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DeidError(_HINT) from error
