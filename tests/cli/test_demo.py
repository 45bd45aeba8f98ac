"""`deid-diffusion demo`: three files, and nobody else's are replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.cli import demo, main
from deid_diffusion.io import images
from deid_diffusion.results import ImageRecord
from tests.fake_anonymizer import COVERED, FakeAnonymizer

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def fake(monkeypatch, tmp_path) -> FakeAnonymizer:
    monkeypatch.chdir(tmp_path)
    fake = FakeAnonymizer()
    monkeypatch.setattr(main, "load_anonymizer", lambda model, device: fake)
    return fake


def test_the_photo_of_the_demo():
    assert demo._astronaut().shape == (512, 512, 3)


def test_demo(call, fake, monkeypatch):
    monkeypatch.setattr(demo, "_astronaut", lambda: np.tile(PIXELS, (3, 3, 1)))
    for _ in range(2):  # a second run replaces its own files
        code, out, err = call("demo", "-o", "shown")
        assert (code, err) == (0, [])
        assert out[1:] == ["shown/demo.png", "shown/astronaut.png", "shown/demo.json"]
    assert sorted(path.name for path in Path("shown").iterdir()) == ["astronaut.png", "demo.json", "demo.png"]
    record = ImageRecord.from_json(Path("shown/demo.json").read_text())
    assert (record.status, record.output, record.width) == ("done", "astronaut.png", 96)
    assert record.output_sha256 == images.read("shown/astronaut.png").sha256
    assert json.loads(Path("shown/demo.json").read_text())["faces"][0]["action"] == "replaced"
    assert images.read("shown/demo.png").pixels.shape[1] > 3 * 96
    fake.faces = (COVERED,)
    assert call("demo", "-o", "shown")[0] == 3


@pytest.mark.parametrize("name", ["astronaut.png", "demo.png", "demo.json"])
def test_the_demo_replaces_no_files_but_its_own(call, fake, monkeypatch, name):
    monkeypatch.setattr(demo, "_astronaut", lambda: PIXELS)
    Path("mine").mkdir()
    Path("mine", name).write_bytes(b"precious")
    code, out, err = call("demo", "-o", "mine")
    assert (code, out) == (2, [])
    assert err == [f"error: mine/{name}: exists already, and not from a demo: choose another folder with -o"]
    assert [path.read_bytes() for path in Path("mine").iterdir()] == [b"precious"]
