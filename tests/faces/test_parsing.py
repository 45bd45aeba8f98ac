from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.labels import LABEL, LABELS
from deid_diffusion.faces.parsing import FaceParser, label_of
from tests.tiny_hub import parser_repository

NAMES = (
    "background",
    "hair",
    "Left Eye",
    "right_eye",
    "left-brow",
    "eyebrow right",
    "nose",
    "upper lip",
    "skin",
    "freckle",
)


@pytest.mark.parametrize("sees", ["nose", "Left Eye", "eyebrow right", "hair", "freckle"])
def test_classes_become_ours_by_their_names(tmp_path: Path, sees: str) -> None:
    parser = FaceParser.from_pretrained(str(parser_repository(tmp_path, NAMES, sees)))
    labels = parser(np.zeros((48, 40, 3), np.uint8))
    expected = {"nose": "nose", "Left Eye": "l_eye", "eyebrow right": "r_brow", "hair": "hair", "freckle": "background"}
    assert labels.shape == (48, 40)
    assert labels.dtype == np.uint8
    assert np.unique(labels).tolist() == [LABEL[expected[sees]]]


def test_our_own_names_are_known() -> None:
    assert [label_of(name) for name in LABELS] == list(range(len(LABELS)))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Upper_Lip", "u_lip"),
        ("l_lip", "l_lip"),
        ("LEFT EYE", "l_eye"),
        ("ear_right", "r_ear"),
        ("eye_glasses", "eye_g"),
        ("Inner Mouth", "mouth"),
    ],
)
def test_usual_names_are_known(name: str, label: str) -> None:
    assert label_of(name) == LABEL[label]


@pytest.mark.parametrize("name", ["LABEL_3", "eye", "left", "left right eye", "road", ""])
def test_other_names_are_not(name: str) -> None:
    assert label_of(name) is None


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    folder = parser_repository(tmp_path / "street", ("road", "car", "nose"), "car")
    with pytest.raises(
        DeidError, match=r"its classes \(road, car, nose\) do not name skin, brows, eyes, mouth: expected"
    ):
        FaceParser.from_pretrained(str(folder))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DeidError, match=r"street: no parsing model can be loaded from it \("):
        FaceParser.from_pretrained(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeidError, match=r"lacks config\.json, preprocessor_config\.json, model\.safetensors"):
        FaceParser.from_pretrained(str(tmp_path / "empty"))
    with pytest.raises(DeidError, match="run: hf download me/parser"):
        FaceParser.from_pretrained("me/parser")
