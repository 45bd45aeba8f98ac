"""The astronaut's face and an area of the background as given detections, and an anonymizer that detects them."""

from typing import Any

import numpy as np

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.boxes import Detection
from tests.fake_verifier import FakeVerifier

FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
OTHER = Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given")
CORE = (slice(90, 170), slice(190, 250))
"""Rows and columns that lie inside FACE's mask in any case."""
OTHER_CORE = (slice(315, 365), slice(312, 348))
"""Likewise, for OTHER."""


def no_mesh(crop: np.ndarray) -> None:
    """Find no face mesh."""


def given_anonymizer(pipeline: Any, *faces: Detection, **parts: Any) -> Anonymizer:
    """Return an anonymizer that detects the given faces, without meshes, and accepts every result."""
    parts = {"landmarker": no_mesh, "verifier": FakeVerifier(), **parts}
    return Anonymizer(pipeline, detector=lambda image: list(faces), **parts)
