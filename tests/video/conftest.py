"""What the tests of clips share: an anonymizer of tiny random components that paints noise."""

from __future__ import annotations

import pytest

pytest.importorskip("av", reason="clips need the extra: pip install 'deid-diffusion[video]'")
pytest.importorskip("supervision", reason="clips need the extra: pip install 'deid-diffusion[video]'")

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.video import checkpoint
from tests.fake_verifier import FakeVerifier
from tests.video.oracle import Painter, let_paint


@pytest.fixture(autouse=True)
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_FRAMES", 20)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    painter = Painter()
    let_paint(monkeypatch, painter)
    return painter


@pytest.fixture
def tiny(tiny_pipeline, painter: Painter) -> Anonymizer:
    """Finds no face until a test gives it a detector; every face has a mesh."""
    return Anonymizer(
        tiny_pipeline, detector=lambda image: [], landmarker=lambda crop: mean_mesh(len(crop)), verifier=FakeVerifier()
    )
