from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deid_diffusion
from deid_diffusion.errors import DeidError
from deid_diffusion.faces.alignment import extract, invert, transform
from deid_diffusion.faces.analysis import FaceAnalysis, analyse_face
from deid_diffusion.faces.annotator import FaceParser, SemanticFaceDetector, label_of
from deid_diffusion.faces.boxes import Detection, FaceDetector
from deid_diffusion.faces.landmarks import FaceMesh
from deid_diffusion.faces.semantic_map import LABEL, LABELS, PALETTE, control_image, draw_semantic_map
from tests.tiny_hub import parser_repository

#: Class of a parsing model -> label.
CLASSES = {
    "background": "background", "hair": "hair", "Left Eye": "l_eye", "right_eye": "r_eye", "left-brow": "l_brow",
    "eyebrow right": "r_brow", "nose": "nose", "upper lip": "u_lip", "skin": "skin", "freckle": "background",
}  # fmt: skip


@pytest.mark.parametrize("predicted", ["nose", "Left Eye", "eyebrow right", "hair", "freckle"])
def test_parser_maps_classes_to_labels(tmp_path: Path, predicted: str) -> None:
    parser = FaceParser.from_pretrained(str(parser_repository(tmp_path, tuple(CLASSES), predicted)))
    labels = parser(np.zeros((48, 40, 3), np.uint8))
    assert (labels.shape, labels.dtype) == ((48, 40), np.uint8)
    assert np.unique(labels).tolist() == [LABEL[CLASSES[predicted]]]


def test_label_of() -> None:
    spellings = {"Upper_Lip": "u_lip", "LEFT EYE": "l_eye", "ear_right": "r_ear", "eye_glasses": "eye_g"}
    names = dict(zip(LABELS, LABELS, strict=True)) | spellings | {"Inner Mouth": "mouth"}
    assert {name: label_of(name) for name in names} == {name: LABEL[label] for name, label in names.items()}
    assert {label_of(name) for name in ("LABEL_3", "eye", "left", "left right eye", "road", "")} == {None}


def test_invalid_parsing_model(tmp_path: Path) -> None:
    folder = parser_repository(tmp_path / "street", ("road", "car", "nose"), "car")
    with pytest.raises(DeidError, match="street: no class for skin, brows, eyes, mouth among road, car, nose; use a"):
        FaceParser.from_pretrained(str(folder))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DeidError, match=r"street: cannot be loaded as a face-parsing model \("):
        FaceParser.from_pretrained(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeidError, match=r"lacks config\.json, preprocessor_config\.json, model\.safetensors"):
        FaceParser.from_pretrained(str(tmp_path / "empty"))
    with pytest.raises(DeidError, match="run: hf download me/parser"):
        FaceParser.from_pretrained("me/parser")
    detector = deid_diffusion.SemanticFaceDetector.from_pretrained()  # needs no weights
    assert detector.to("cpu") is detector
    assert detector.parser is None


@pytest.fixture(scope="module")
def detect(detection: Detection) -> FaceDetector:
    """Detector that returns the astronaut's face at any resolution."""

    def scaled(image: np.ndarray) -> list[Detection]:
        scale = image.shape[0] / 512
        return [replace(detection, box=tuple(scale * side for side in detection.box))]

    return scaled


@pytest.fixture(scope="module")
def annotator(detect: FaceDetector, landmarker: FaceMesh) -> SemanticFaceDetector:
    return SemanticFaceDetector(detector=detect, landmarker=landmarker)


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray, detection: Detection, landmarker: FaceMesh) -> FaceAnalysis:
    return analyse_face(astronaut, detection, landmarker, 512)


def test_map_is_the_control_image(annotator: SemanticFaceDetector, astronaut: np.ndarray, face: FaceAnalysis) -> None:
    assert face.mesh is not None
    mesh = transform(face.map_mesh, invert(face.matrix))
    coloured = annotator(astronaut, output_type="np")
    assert np.array_equal(coloured, control_image(draw_semantic_map(mesh, 512)))
    assert np.array_equal(np.asarray(annotator(Image.fromarray(astronaut))), coloured)


@pytest.mark.parametrize("detect_resolution", [256, 512, 768])
def test_map_at_other_resolutions(annotator: SemanticFaceDetector, astronaut, detect_resolution: int) -> None:
    """The mesh varies by a few pixels with the resolution."""
    large = (annotator(astronaut, 512, 512, output_type="np")[::2, ::2] > 0).any(2)
    small = annotator(astronaut, detect_resolution, 256, output_type="np")
    assert small.shape == (256, 256, 3)
    small = (small > 0).any(2)
    assert (small & large).sum() > 0.93 * max(small.sum(), large.sum())


@pytest.mark.parametrize(
    ("shape", "size"), [((480, 640), (704, 512)), ((640, 480), (512, 704)), ((30, 30), (512, 512))]
)
def test_size_is_that_of_controlnet_aux(shape: tuple[int, int], size: tuple[int, int], landmarker: FaceMesh) -> None:
    picture = SemanticFaceDetector(detector=lambda image: [], landmarker=landmarker)(np.zeros((*shape, 3), np.uint8))
    assert picture.size == size
    assert not np.asarray(picture).any()


def test_image_types(annotator: SemanticFaceDetector, astronaut: np.ndarray) -> None:
    alpha = np.dstack([astronaut, np.full((512, 512), 255, np.uint8)])
    assert np.array_equal(annotator(alpha, output_type="np"), annotator(astronaut, output_type="np"))
    assert annotator(Image.fromarray(astronaut).convert("L"), output_type="np").any()


SHAPES = {(8, 8, 3): float, (8, 8, 2): np.uint8, (8,): np.uint8, (0, 8, 3): np.uint8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"input_image": np.zeros(shape, dtype)}, "input_image: expected") for shape, dtype in SHAPES.items()),
        ({"input_image": "a.png"}, "input_image: expected"),
        ({"detect_resolution": 0}, "detect_resolution: expected at least 1 pixel, got 0"),
        ({"image_resolution": 0}, "image_resolution: expected at least 1 pixel, got 0"),
        ({"output_type": "pt"}, 'expected "pil" or "np"'),
    ],
)
def test_invalid_arguments(annotator: SemanticFaceDetector, astronaut, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        annotator(**{"input_image": astronaut, **arguments})


def test_parsed_map_is_aligned(astronaut, detect: FaceDetector, landmarker, face: FaceAnalysis) -> None:
    """Pixels that the parser labels by their brightness are the bright ones in the photo."""

    def parse(crop: np.ndarray) -> np.ndarray:
        assert crop.shape == (512, 512, 3)
        return np.where(crop.mean(2) > 150, LABEL["nose"], LABEL["skin"]).astype(np.uint8)

    picture = SemanticFaceDetector(parse, detector=detect, landmarker=landmarker)(astronaut, output_type="np")
    box = (slice(60, 190), slice(170, 270))
    bright = (picture[box] == PALETTE[LABEL["nose"]]).all(2)
    assert (bright == (astronaut[box].mean(2) > 150)).mean() > 0.95
    covered = extract(picture, face.matrix, 512)
    assert (covered[8:-8, 8:-8] > 0).any(2).all()


def test_larger_face_is_in_front(astronaut: np.ndarray, detection: Detection) -> None:
    def annotate(*faces: Detection) -> np.ndarray:
        annotator = SemanticFaceDetector(detector=lambda image: list(faces), landmarker=lambda crop: None)
        return annotator(astronaut, output_type="np")

    single, both = annotate(detection), annotate(detection, replace(detection, box=(200, 80, 240, 130)))
    assert np.array_equal(both[single > 0], single[single > 0])
