"""Fixtures of clips: an anonymizer of tiny random components that paints noise, and clips whose faces it detects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if not all(map(find_spec, ("av", "supervision"))):  # of the extra `video`
    collect_ignore_glob = ["test_*.py"]

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.video.anonymize import AnonymizedVideo
    from tests.video.clips import Scene
    from tests.video.oracle import Oracle, Painter


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deid_diffusion.video.checkpoint.CHUNK_FRAMES", 8)


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    from tests.video.oracle import Painter, let_paint

    painter = Painter()
    let_paint(monkeypatch, painter)
    return painter


@pytest.fixture
def tiny(tiny_pipeline, painter: Painter) -> Anonymizer:
    """Finds no face until a test gives it a detector; every face has a mesh."""
    from deid_diffusion.faces.semantic_map import mean_mesh
    from tests.given_faces import given_anonymizer

    return given_anonymizer(tiny_pipeline, landmarker=lambda crop: mean_mesh(len(crop)))


@dataclass
class Clip:
    """A scene, its file, and an anonymizer that detects its faces."""

    scene: Scene
    source: Path
    model: Anonymizer

    @property
    def target(self) -> Path:
        return self.source.parent / "out" / self.source.name

    @property
    def oracle(self) -> Oracle:
        return self.model.detector

    def run(self, model: Anonymizer | None = None, **arguments: Any) -> AnonymizedVideo:
        """Process the clip; keyword arguments are options or arguments of `anonymize_clip`."""
        from deid_diffusion.io.video_reader import open_clip
        from deid_diffusion.options import Options
        from deid_diffusion.video.anonymize import anonymize_clip

        self.target.parent.mkdir(exist_ok=True)
        own = {name: arguments.pop(name) for name in ("overwrite", "require_face") if name in arguments}
        return anonymize_clip(model or self.model, open_clip(self.source), self.target, Options(**arguments), **own)

    def frames(self) -> list[np.ndarray]:
        from tests.video.clips import read

        return read(self.target)

    def bare(self) -> list[tuple[int, int]]:
        """Return frames and actors whose original face still shows in the result."""
        from tests.video.clips import bare

        return bare(self.scene, self.frames())


@pytest.fixture
def clip(tmp_path: Path, tiny: Anonymizer) -> Callable[..., Clip]:
    """Write a clip of a scene, whose arguments are given; the detector is blind in some of its frames."""
    from tests.video.clips import scene, write
    from tests.video.oracle import Oracle

    def make(*arguments: Any, blind: tuple[int, ...] = (), **options: Any) -> Clip:
        shown = scene(*arguments, **options)
        tiny.detector = Oracle(shown, blind)
        return Clip(shown, write(tmp_path / "a.mp4", shown.frames), tiny)

    return make
