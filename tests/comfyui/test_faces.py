"""New faces from anywhere: what passes, what is covered, and that no original face comes back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.comfyui.faces import FaceCrops, crop_faces, find_faces, photo_map, stitch
from deid_diffusion.comfyui.runtime import to_image
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.compositing import FILL
from deid_diffusion.faces.semantic_map import CONTROLS, LABEL
from deid_diffusion.identity.verification import VerificationResult
from tests.fake_verifier import FAIL, PASS, FakeVerifier

pytestmark = pytest.mark.usefixtures("given")


@pytest.fixture
def photos(astronaut: np.ndarray) -> list[np.ndarray]:
    return [astronaut, np.ascontiguousarray(astronaut[:, ::-1])]


def test_crops_are_ordered_and_erased(photos: list[np.ndarray]) -> None:
    crops = crop_faces(photos, find_faces(photos), 96)
    assert [photo for photo, _ in crops.faces] == [0, 0, 1, 1]
    masks, erased, originals = crops.masks(), crops.erased(), crops.originals()
    assert {one.shape for one in erased + originals} == {(96, 96, 3)}
    for mask, without, original in zip(masks, erased, originals, strict=True):
        assert 0.1 < mask.mean() < 0.9
        inside = np.zeros_like(mask)
        inside[40:56, 40:56] = True  # away from the rim, where the resampling mixes
        assert (without[inside] == FILL).all()
        assert (original[inside] != without[inside]).any()


def test_erased_crops_ignore_faces(photos: list[np.ndarray]) -> None:
    found = find_faces(photos)
    crops = crop_faces(photos, found, 96)
    other = [photo.copy() for photo in photos]
    for k, photo in enumerate(other):
        mask = crops.prepare(k).erase_mask
        photo[mask] = 255 - photo[mask]
    for before, after in zip(crops.erased(), crop_faces(other, found, 96).erased(), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", CONTROLS)
def test_map_proportions(photos: list[np.ndarray], kind: str) -> None:
    crops = crop_faces(photos, find_faces(photos), 128)
    exact = crops.control_images(kind, "the photo's", 1)
    first, again, other = (crops.control_images(kind, "another person's", seed) for seed in (1, 1, 2))
    fresh = [crops.control_images(kind, "another person's", None) for _ in range(2)]
    assert np.array_equal(first, again)
    for one, two in ((exact, first), (first, other), (fresh[0], fresh[1])):
        assert not np.array_equal(one, two)


def test_a_photos_map_shows_all_its_faces(photos: list[np.ndarray]) -> None:
    faces = find_faces(photos).faces[0]
    labels = photo_map(faces, (512, 512), "the photo's", None)
    for face in faces:
        x0, y0, x1, y1 = face.detection.box
        assert LABEL["nose"] in labels[int(y0) : int(y1), int(x0) : int(x1)]
    assert labels[500, 20] == 0
    assert not photo_map((), (8, 8), "the photo's", None).any()


def test_faces_of_other_photos_are_refused(photos: list[np.ndarray]) -> None:
    found = find_faces(photos)
    with pytest.raises(UsageError, match="found in 2 pictures of 512 x 512"):
        crop_faces(photos[:1], found, 96)
    with pytest.raises(UsageError, match="batch of 2 of 512 x 256"):
        crop_faces([photo[:256] for photo in photos], found, 96)


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
    return crop_faces(photos, find_faces(photos), 64)


@pytest.mark.parametrize("size", [32, 64, 150])
def test_stitch_any_size(crops: FaceCrops, astronaut: np.ndarray, size: int) -> None:
    made = torch.stack([torch.full((size, size, 3), value) for value in (0.1, 0.3, 0.5, 0.9)])
    made += torch.rand_like(made) * 0.05
    results = stitch(crops, made, FakeVerifier(), nothing)
    assert [[face.action for face in one.faces] for one in results] == [["replaced"] * 2] * 2
    for k, one in enumerate(results):
        pixels = np.asarray(one.image)
        outside = ~crops.prepare(k).erase_mask
        assert np.array_equal(pixels[outside], astronaut[outside])
        assert (pixels[CORE] != astronaut[CORE]).any(-1).mean() > 0.9
    assert np.asarray(results[0].image)[CORE].mean() < np.asarray(results[1].image)[CORE].mean() - 20


def test_what_the_gate_refuses_is_covered(crops: FaceCrops, astronaut: np.ndarray) -> None:
    """The original faces above all, if somebody connects them."""
    results = stitch(crops, to_image(crops.originals()), FakeVerifier(lambda n: PASS if n else FAIL), nothing)
    first = results[0].faces[0]
    assert (first.action, first.reason, first.similarity) == ("covered", FAIL.reason, FAIL.similarity)
    assert is_hidden(results[0].image, astronaut)
    assert [face.action for face in results[1].faces] == ["replaced"] * 2


def test_unverifiable_faces_are_covered(crops: FaceCrops, astronaut: np.ndarray) -> None:
    """It may be the original, which nobody would notice."""
    results = stitch(
        crops, to_image(crops.originals()), FakeVerifier(lambda n: VerificationResult(None, None)), nothing
    )
    assert {face.reason for one in results for face in one.faces} == {"cannot be compared with the original"}
    assert is_hidden(results[0].image, astronaut)


def test_what_is_no_picture_is_covered(crops: FaceCrops) -> None:
    made = torch.rand(4, 64, 64, 3)
    made[0, 5, 5, 0] = float("nan")
    faces = stitch(crops, made, FakeVerifier(), nothing)[0].faces
    assert [(face.action, face.reason) for face in faces] == [
        ("covered", "generation gave no picture"),
        ("replaced", None),
    ]


@pytest.mark.parametrize("station", ["reference", "verify"])
def test_a_gate_that_fails_covers(crops: FaceCrops, station: str, astronaut: np.ndarray) -> None:
    verifier = FakeVerifier()

    def broken(*_: object) -> None:
        raise MemoryError

    setattr(verifier, station, broken)
    for one in stitch(crops, torch.rand(4, 64, 64, 3), verifier, nothing):
        assert [face.reason for face in one.faces] == ["stitching failed: MemoryError"] * 2
        assert is_hidden(one.image, astronaut)


@pytest.mark.parametrize("broken", ["match_boundary_colour", "extract"])
def test_a_station_that_fails_covers(
    crops: FaceCrops, monkeypatch: pytest.MonkeyPatch, broken: str, astronaut: np.ndarray
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(f"deid_diffusion.comfyui.faces.{broken}", fail)
    for one in stitch(crops, torch.rand(4, 64, 64, 3), FakeVerifier(), nothing):
        assert {face.action for face in one.faces} == {"covered"}
        assert is_hidden(one.image, astronaut)


@pytest.mark.parametrize("shape", [(3, 64, 64, 3), (5, 64, 64, 3), (4, 64, 32, 3), (4, 64, 64, 4)])
def test_another_batch_is_refused(crops: FaceCrops, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected 4 square face crops"):
        stitch(crops, torch.rand(shape), FakeVerifier(), nothing)


def test_a_face_that_was_missed_is_covered(crops: FaceCrops, given: None, astronaut: np.ndarray) -> None:
    """Also in a photo in which none was found: its faces may be another photo's."""
    empty = FaceCrops((astronaut,), (), 64)
    seen: list[Callable] = []

    def detector(picture: np.ndarray) -> list:
        seen.append(picture)
        return [face.detection for _, face in crops.faces[:1]] if len(seen) == 1 else []

    result = stitch(empty, to_image([empty.blank()]), FakeVerifier(), detector)[0]
    assert result.faces[0].reason == "missed at first, found by the residual scan"
    assert is_hidden(result.image, astronaut)
    assert np.array_equal(
        np.asarray(stitch(empty, torch.rand(1, 8, 8, 3), FakeVerifier(), nothing)[0].image), astronaut
    )
