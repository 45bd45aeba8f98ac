from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deid_diffusion
from deid_diffusion.errors import DeidError
from deid_diffusion.faces.alignment import extract, invert, transform
from deid_diffusion.faces.analysis import analyse_face
from deid_diffusion.faces.annotator import FaceParser, SemanticFaceDetector, label_of
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.faces.semantic_map import LABEL, LABELS, PALETTE, control_image, draw_semantic_map
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


FACE = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")


def given(image: np.ndarray) -> list[Detection]:
    """The astronaut's face in a picture of any size."""
    scale = image.shape[0] / 512
    return [Detection(tuple(scale * side for side in FACE.box), 0.9, "given")]


@pytest.fixture(scope="module")
def detector() -> SemanticFaceDetector:
    return SemanticFaceDetector(detector=given)


def test_the_map_is_the_one_that_our_controlnet_sees(detector: SemanticFaceDetector, astronaut: np.ndarray) -> None:
    face = analyse_face(astronaut, FACE, FaceMesh(), 512)
    assert face.mesh is not None
    mesh = transform(face.map_mesh, invert(face.matrix))
    made = detector(astronaut, output_type="np")
    assert np.array_equal(made, control_image(draw_semantic_map(mesh, 512)))
    assert np.array_equal(np.asarray(detector(Image.fromarray(astronaut))), made)


def test_it_lies_where_the_face_is_at_any_resolution(detector: SemanticFaceDetector, astronaut: np.ndarray) -> None:
    """To a few pixels: the mesh is another one in another resolution."""
    large = detector(astronaut, 512, 512, output_type="np")
    for seen, drawn in ((512, 256), (768, 256), (256, 256)):
        small = detector(astronaut, seen, drawn, output_type="np")
        assert small.shape == (256, 256, 3)
        both = (small > 0).any(2) & (large[::2, ::2] > 0).any(2)
        assert both.sum() > 0.93 * max((small > 0).any(2).sum(), (large[::2, ::2] > 0).any(2).sum())


@pytest.mark.parametrize(
    ("shape", "size"), [((480, 640), (704, 512)), ((640, 480), (512, 704)), ((30, 30), (512, 512))]
)
def test_sides_are_those_of_controlnet_aux(shape: tuple[int, int], size: tuple[int, int]) -> None:
    empty = SemanticFaceDetector(detector=lambda image: [])
    made = empty(np.zeros((*shape, 3), np.uint8))
    assert made.size == size
    assert not np.asarray(made).any()


def test_every_kind_of_picture_is_taken(detector: SemanticFaceDetector, astronaut: np.ndarray) -> None:
    whole = detector(astronaut, output_type="np")
    alpha = np.dstack([astronaut, np.full((512, 512), 255, np.uint8)])
    assert np.array_equal(detector(alpha, output_type="np"), whole)
    assert detector(Image.fromarray(astronaut).convert("L"), output_type="np").any()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros(8, np.uint8), np.zeros((0, 8, 3), np.uint8), "a.png"],
)
def test_other_pictures_are_refused(detector: SemanticFaceDetector, wrong: object) -> None:
    with pytest.raises(ValueError, match="input_image: expected"):
        detector(wrong)


@pytest.mark.parametrize("name", ["detect_resolution", "image_resolution"])
def test_a_resolution_is_a_number_of_pixels(detector: SemanticFaceDetector, astronaut: np.ndarray, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected pixels, 1 or more, got 0"):
        detector(astronaut, **{name: 0})


def test_other_outputs_are_refused(detector: SemanticFaceDetector, astronaut: np.ndarray) -> None:
    with pytest.raises(ValueError, match='expected "pil" or "np"'):
        detector(astronaut, output_type="pt")


def test_a_parsers_map_is_put_back_in_its_place(astronaut: np.ndarray) -> None:
    """A parser that finds the brightest parts of the crop that it is shown: they are the picture's brightest parts."""

    def parse(crop: np.ndarray) -> np.ndarray:
        assert crop.shape == (512, 512, 3)
        return np.where(crop.mean(2) > 150, LABEL["nose"], LABEL["skin"]).astype(np.uint8)

    made = SemanticFaceDetector(parse, detector=given)(astronaut, output_type="np")
    box = (slice(60, 190), slice(170, 270))
    bright = (made[box] == PALETTE[LABEL["nose"]]).all(2)
    assert (bright == (astronaut[box].mean(2) > 150)).mean() > 0.95
    face = analyse_face(astronaut, FACE, FaceMesh(), 512)
    covered = extract(made, face.matrix, 512)
    assert (covered[8:-8, 8:-8] > 0).any(2).all()


def test_the_larger_face_stands_in_front(astronaut: np.ndarray) -> None:
    small, large = Detection((200, 80, 240, 130), 0.9, "given"), FACE
    no_mesh = {"landmarker": lambda crop: None}
    alone = SemanticFaceDetector(detector=lambda image: [large], **no_mesh)(astronaut, output_type="np")
    both = SemanticFaceDetector(detector=lambda image: [large, small], **no_mesh)(astronaut, output_type="np")
    assert np.array_equal(both[alone > 0], alone[alone > 0])


def test_it_is_public_and_needs_no_weights(astronaut: np.ndarray) -> None:
    detector = deid_diffusion.SemanticFaceDetector.from_pretrained()
    assert detector.to("cpu") is detector
    assert detector.parser is None
