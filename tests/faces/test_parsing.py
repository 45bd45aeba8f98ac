from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from deid_diffusion.errors import DeidError
from deid_diffusion.faces.labels import LABEL, LABELS
from deid_diffusion.faces.parsing import FaceParser, label_of

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


def save_parser(folder: Path, names: tuple[str, ...], sees: str) -> Path:
    """A tiny segmentation model, in the layout of the hub, that sees one class everywhere."""
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 8],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(names)),
        label2id={name: k for k, name in enumerate(names)},
    )
    model = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.weight.zero_()
        model.decode_head.classifier.bias.copy_(torch.eye(len(names))[names.index(sees)])
    model.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("sees", ["nose", "Left Eye", "eyebrow right", "hair", "freckle"])
def test_classes_become_ours_by_their_names(tmp_path: Path, sees: str) -> None:
    parser = FaceParser.from_pretrained(str(save_parser(tmp_path, NAMES, sees)))
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
    folder = save_parser(tmp_path / "street", ("road", "car", "nose"), "car")
    with pytest.raises(
        DeidError, match=r"its classes \(road, car, nose\) do not name skin, brows, eyes, mouth: expected"
    ):
        FaceParser.from_pretrained(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeidError, match=r"lacks config\.json, preprocessor_config\.json, model\.safetensors"):
        FaceParser.from_pretrained(str(tmp_path / "empty"))
    with pytest.raises(DeidError, match="run: hf download me/parser"):
        FaceParser.from_pretrained("me/parser")
