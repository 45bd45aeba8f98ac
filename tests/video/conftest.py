"""Fixtures of clips: an anonymizer of tiny random components that paints noise, and clips whose faces it detects."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if not all(map(find_spec, ("av", "supervision"))):  # of the extra `video`
    collect_ignore_glob = ["test_*.py"]

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer
    from tests.video.clips import Clip
    from tests.video.oracle import Painter


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deid_diffusion.video.checkpoint.CHUNK_FRAMES", 8)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    """The painter that replaces the generator, in frames and where a track's face is chosen."""
    from tests.video.oracle import Painter

    painter = Painter()
    monkeypatch.setattr("deid_diffusion.video.identities.generate", painter)
    monkeypatch.setattr("deid_diffusion.generation.generate", painter)
    return painter


@pytest.fixture
def tiny(tiny_pipeline, painter: Painter) -> Anonymizer:
    """Finds no face until a test gives it a detector; every face has a mesh."""
    from deid_diffusion.faces.semantic_map import mean_mesh
    from tests.given_faces import given_anonymizer

    return given_anonymizer(tiny_pipeline, landmarker=lambda crop: mean_mesh(len(crop)))


@pytest.fixture
def clip(tmp_path: Path, tiny: Anonymizer) -> Callable[..., Clip]:
    """Write a clip of a scene, whose arguments are given; the detector is blind in some of its frames."""
    from tests.video.clips import Clip, scene, write
    from tests.video.oracle import Oracle

    def make(*arguments: Any, blind: tuple[int, ...] = (), **options: Any) -> Clip:
        shown = scene(*arguments, **options)
        tiny.detector = Oracle(shown, blind)
        return Clip(shown, write(tmp_path / "a.mp4", shown.frames), tiny)

    return make
