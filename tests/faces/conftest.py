"""Fixtures of the face tests: the astronaut's face, the default detector and the face mesh."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.detection import EnsembleDetector
from deid_diffusion.faces.landmarks import FaceMesh


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
