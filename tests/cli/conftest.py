"""Fixtures of the commands: photos, and an anonymizer without models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.cli import anonymize, inspect
from tests.fake_anonymizer import FakeAnonymizer


@pytest.fixture
def pixels() -> np.ndarray:
    """(24, 32, 3) uint8 RGB of noise."""
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def photos(workdir: Path, pixels: np.ndarray) -> Callable[..., None]:
    """Write photos of the given names."""

    def write(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(name)

    return write


@pytest.fixture
def fake(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAnonymizer:
    """The anonymizer that commands load."""
    fake = FakeAnonymizer()
    for module in (anonymize, inspect):
        monkeypatch.setattr(module, "load_anonymizer", lambda model, device: fake)
    return fake
