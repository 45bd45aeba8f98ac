"""New faces from anywhere: what passes, what is covered, and that no original face comes back."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.comfyui.found_faces import FaceCrops, cut_faces, find_faces
from deid_diffusion.comfyui.stitching import stitch
from deid_diffusion.comfyui.tensors import to_image
from deid_diffusion.errors import UsageError
from deid_diffusion.identity.verify import Verdict
from tests.fake_gate import FAIL, PASS, FakeGate

CORE = (slice(90, 170), slice(190, 250))  # inside the first face, whatever the mask


def nothing(picture: np.ndarray) -> list:
    return []


def is_hidden(image: Image.Image, original: np.ndarray) -> bool:
    """Whether the face is gone, and what took its place is smooth."""
    core = np.asarray(image).astype(int)[CORE]
    return np.abs(core - original[CORE]).mean() > 8 and np.abs(np.diff(core, axis=0)).mean() < 4


@pytest.fixture
def crops(given: None, astronaut: np.ndarray) -> FaceCrops:
    photos = [astronaut, astronaut.copy()]
    return cut_faces(photos, find_faces(photos), 64)


@pytest.mark.parametrize("size", [32, 64, 150])
def test_new_faces_of_any_size_go_to_their_places(crops: FaceCrops, astronaut: np.ndarray, size: int) -> None:
    made = torch.stack([torch.full((size, size, 3), value) for value in (0.1, 0.3, 0.5, 0.9)])
    made += torch.rand_like(made) * 0.05
    results = stitch(crops, made, FakeGate(), nothing)
    assert [[face.action for face in one.faces] for one in results] == [["replaced"] * 2] * 2
    for k, one in enumerate(results):
        pixels = np.asarray(one.image)
        assert np.array_equal(pixels[~crops.gone[k]], astronaut[~crops.gone[k]])
        assert (pixels[CORE] != astronaut[CORE]).any(-1).mean() > 0.9
    assert np.asarray(results[0].image)[CORE].mean() < np.asarray(results[1].image)[CORE].mean() - 20


def test_what_the_gate_refuses_is_covered(crops: FaceCrops, astronaut: np.ndarray) -> None:
    """The original faces above all, if somebody connects them."""
    results = stitch(crops, to_image(crops.originals()), FakeGate(lambda n: PASS if n else FAIL), nothing)
    first = results[0].faces[0]
    assert (first.action, first.reason, first.similarity) == ("covered", FAIL.reason, FAIL.similarity)
    assert is_hidden(results[0].image, astronaut)
    assert [face.action for face in results[1].faces] == ["replaced"] * 2


def test_what_cannot_be_compared_is_covered(crops: FaceCrops, astronaut: np.ndarray) -> None:
    """It may be the original, which nobody would notice."""
    results = stitch(crops, to_image(crops.originals()), FakeGate(lambda n: Verdict(None, None)), nothing)
    assert {face.reason for one in results for face in one.faces} == {"cannot be compared with the original"}
    assert is_hidden(results[0].image, astronaut)


def test_what_is_no_picture_is_covered(crops: FaceCrops) -> None:
    made = torch.rand(4, 64, 64, 3)
    made[0, 5, 5, 0] = float("nan")
    faces = stitch(crops, made, FakeGate(), nothing)[0].faces
    assert [(face.action, face.reason) for face in faces] == [
        ("covered", "generation gave no picture"),
        ("replaced", None),
    ]


@pytest.mark.parametrize("station", ["look", "judge"])
def test_a_gate_that_fails_covers(crops: FaceCrops, station: str, astronaut: np.ndarray) -> None:
    gate = FakeGate()

    def broken(*_: object) -> None:
        raise MemoryError

    setattr(gate, station, broken)
    for one in stitch(crops, torch.rand(4, 64, 64, 3), gate, nothing):
        assert [face.reason for face in one.faces] == ["stitching failed: MemoryError"] * 2
        assert is_hidden(one.image, astronaut)


@pytest.mark.parametrize("broken", ["match_rim", "extract"])
def test_a_station_that_fails_covers(
    crops: FaceCrops, monkeypatch: pytest.MonkeyPatch, broken: str, astronaut: np.ndarray
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(f"deid_diffusion.comfyui.stitching.{broken}", fail)
    for one in stitch(crops, torch.rand(4, 64, 64, 3), FakeGate(), nothing):
        assert {face.action for face in one.faces} == {"covered"}
        assert is_hidden(one.image, astronaut)


@pytest.mark.parametrize("shape", [(3, 64, 64, 3), (5, 64, 64, 3), (4, 64, 32, 3), (4, 64, 64, 4)])
def test_another_batch_is_refused(crops: FaceCrops, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected 4 square face crops"):
        stitch(crops, torch.rand(shape), FakeGate(), nothing)


def test_a_face_that_was_missed_is_covered(crops: FaceCrops, given: None, astronaut: np.ndarray) -> None:
    """Also in a photo in which none was found: its faces may be another photo's."""
    empty = FaceCrops((astronaut,), (), 64)
    seen: list[Callable] = []

    def detector(picture: np.ndarray) -> list:
        seen.append(picture)
        return [face.face for _, face in crops.faces[:1]] if len(seen) == 1 else []

    result = stitch(empty, to_image([empty.blank()]), FakeGate(), detector)[0]
    assert result.faces[0].reason == "missed at first, found at the second look"
    assert is_hidden(result.image, astronaut)
    assert np.array_equal(np.asarray(stitch(empty, torch.rand(1, 8, 8, 3), FakeGate(), nothing)[0].image), astronaut)
