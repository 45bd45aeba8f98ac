"""deid-diffusion: replace every face in images and clips by a different, realistic face, and keep the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .anonymizer import Anonymizer, AnonymizerOutput
    from .attributes.selection import AttributeSelection
    from .errors import DeidError, ImageError, UsageError, VideoError
    from .faces.annotator import SemanticFaceDetector
    from .faces.boxes import Detection
    from .faces.finalization import AnonymizedImage
    from .identity.keys import Key
    from .identity.known_people import ConsentList
    from .identity.pseudonyms import Pseudonyms
    from .identity.verification import FaceVerifier
    from .io.annotations import FaceOverride
    from .models.attribute_adapter import AttributeAdapter
    from .models.face_encoder import FaceEncoder
    from .models.identity_model import IdentityModel
    from .options import Options
    from .pipelines.face_deid import FaceDeidPipeline
    from .pipelines.loading import BUILTIN
    from .results import FaceRecord, ImageRecord, VideoRecord

_MODULES = {
    "AnonymizedImage": ".faces.finalization",
    "Anonymizer": ".anonymizer",
    "AnonymizerOutput": ".anonymizer",
    "AttributeAdapter": ".models.attribute_adapter",
    "AttributeSelection": ".attributes.selection",
    "BUILTIN": ".pipelines.loading",
    "ConsentList": ".identity.known_people",
    "DeidError": ".errors",
    "Detection": ".faces.boxes",
    "FaceDeidPipeline": ".pipelines.face_deid",
    "FaceEncoder": ".models.face_encoder",
    "FaceOverride": ".io.annotations",
    "FaceRecord": ".results",
    "FaceVerifier": ".identity.verification",
    "IdentityModel": ".models.identity_model",
    "ImageError": ".errors",
    "ImageRecord": ".results",
    "Key": ".identity.keys",
    "Options": ".options",
    "Pseudonyms": ".identity.pseudonyms",
    "SemanticFaceDetector": ".faces.annotator",
    "UsageError": ".errors",
    "VideoError": ".errors",
    "VideoRecord": ".results",
}

__all__ = [
    "BUILTIN",
    "AnonymizedImage",
    "Anonymizer",
    "AnonymizerOutput",
    "AttributeAdapter",
    "AttributeSelection",
    "ConsentList",
    "DeidError",
    "Detection",
    "FaceDeidPipeline",
    "FaceEncoder",
    "FaceOverride",
    "FaceRecord",
    "FaceVerifier",
    "IdentityModel",
    "ImageError",
    "ImageRecord",
    "Key",
    "Options",
    "Pseudonyms",
    "SemanticFaceDetector",
    "UsageError",
    "VideoError",
    "VideoRecord",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import torch and diffusers only with the first name that needs them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name], __name__), name)
