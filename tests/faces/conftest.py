"""Fixtures of the face tests: the astronaut's face, the default detector and face mesh, and masks of the mean face."""

import numpy as np
import pytest

from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detection import EnsembleDetector
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.faces.masks import PasteMask, face_outline, paste_mask
from deid_diffusion.faces.semantic_map import mean_mesh


def mean_face_mask(matrix: np.ndarray, photo_shape: tuple[int, int], size: int = 128) -> PasteMask:
    """Return the mask of the mean face in a crop, given its (2, 3) crop matrix."""
    return paste_mask(face_outline(mean_mesh(size), size), matrix, photo_shape, size)


@pytest.fixture(scope="session")
def detection() -> Detection:
    """The astronaut's face, boxed by hand with a margin, without points."""
    return Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")


@pytest.fixture(scope="session")
def ensemble() -> EnsembleDetector:
    return EnsembleDetector()


@pytest.fixture(scope="session")
def landmarker() -> FaceMesh:
    return FaceMesh()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
