"""`deid-diffusion demo`: three files, and no other files are replaced."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from deid_diffusion.io import images
from deid_diffusion.results import ImageRecord
from tests.fake_anonymizer import COVERED


@pytest.fixture(autouse=True)
def sample(monkeypatch, pixels) -> None:
    """A smaller photo than scikit-image's (512, 512, 3)."""
    monkeypatch.setattr(skimage.data, "astronaut", lambda: np.tile(pixels, (3, 3, 1)))


def test_demo(call, fake):
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
def test_keeps_other_files(call, fake, name):
    Path("mine").mkdir()
    Path("mine", name).write_bytes(b"precious")
    code, out, err = call("demo", "-o", "mine")
    assert (code, out) == (2, [])
    assert err == [f"error: mine/{name}: exists already, and was not written by demo: choose another folder with -o"]
    assert [path.read_bytes() for path in Path("mine").iterdir()] == [b"precious"]
