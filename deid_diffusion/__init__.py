"""deid-diffusion: replace every face in a photo by a different, realistic face, and keep the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .anonymizer import AnonymizedImage, Anonymizer
    from .faces.annotator import SemanticFaceDetector
    from .models.attribute_adapter import AttributeAdapter
    from .options import Options
    from .pipelines.face_deid import FaceDeidPipeline

__all__ = [
    "AnonymizedImage",
    "Anonymizer",
    "AttributeAdapter",
    "FaceDeidPipeline",
    "Options",
    "SemanticFaceDetector",
    "__version__",
]

_HOMES = {
    "AnonymizedImage": ".anonymizer",
    "Anonymizer": ".anonymizer",
    "AttributeAdapter": ".models.attribute_adapter",
    "FaceDeidPipeline": ".pipelines.face_deid",
    "Options": ".options",
    "SemanticFaceDetector": ".faces.annotator",
}


def __getattr__(name: str) -> Any:
    """Import torch and diffusers only when something that needs them is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
