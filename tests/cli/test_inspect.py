"""`deid-diffusion attributes`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.cli import inspect
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.io import images
from tests.given_faces import FACE, given_anonymizer


@pytest.fixture(autouse=True)
def photo(workdir: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut).save("a.png")


@pytest.fixture
def faces(tiny_pipeline, monkeypatch: pytest.MonkeyPatch) -> list[Detection]:
    faces = [FACE]
    model = given_anonymizer(tiny_pipeline)
    model.detector = lambda image: faces
    monkeypatch.setattr(inspect, "load_anonymizer", lambda model_name, device: model)
    return faces


def test_table_and_picture(call, faces):
    code, out, err = call("attributes", "a.png", "-o", "faces.png", "--keep", "age,freckles", "--change", "gender=man")
    assert (code, err) == (0, [])
    assert out[0] == "face 1 of 1: replaced"
    assert [line.split()[0] for line in out[1:4]] == ["attribute", "expression", "age"]
    assert out[-2].split()[0] == "freckles"
    assert out[-1] == "faces.png"
    assert images.read("faces.png").pixels.shape[1] == 1024
    code, _, err = call("attributes", "a.png", "-o", "faces.png")
    assert (code, "exists already" in err[0]) == (2, True)
    before = Path("a.png").read_bytes()
    for more in ([], ["--overwrite"]):
        code, _, err = call("attributes", "a.png", "-o", "a.png", *more)
        assert (code, err) == (2, ["error: a.png: is the photo itself: choose another name with -o"])
    assert Path("a.png").read_bytes() == before


def test_no_face(call, faces):
    faces.clear()
    assert call("attributes", "a.png", "-o", "faces.png") == (0, ["no face found"], [])
    assert not Path("faces.png").exists()


@pytest.mark.parametrize(
    "wrong", [["none.png"], ["a.png", "--keep", "gendr"], ["a.png", "--change", "age"], ["a.png", "-o", "x.txt"]]
)
def test_bad_arguments(call, faces, wrong):
    code, out, err = call("attributes", *wrong)
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ")
