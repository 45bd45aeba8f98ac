"""Face crops and stitching: which new faces are pasted, which are covered, and that no original face comes back."""

import sys
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
from tests.failures import raising
from tests.fake_verifier import FAIL, PASS, FakeVerifier
from tests.given_faces import CORE

pytestmark = pytest.mark.usefixtures("given")


@pytest.fixture
def photos(astronaut: np.ndarray) -> list[np.ndarray]:
    return [astronaut, np.ascontiguousarray(astronaut[:, ::-1])]


def test_crops_are_ordered_and_erased(photos):
    crops = crop_faces(photos, find_faces(photos), 96)
    assert [photo for photo, _ in crops.faces] == [0, 0, 1, 1]
    masks, erased, originals = crops.masks(), crops.erased(), crops.originals()
    assert {crop.shape for crop in erased + originals} == {(96, 96, 3)}
    for mask, without, original in zip(masks, erased, originals, strict=True):
        assert 0.1 < mask.mean() < 0.9
        inside = np.zeros_like(mask)
        inside[40:56, 40:56] = True  # away from the rim, where the resampling mixes
        assert (without[inside] == FILL).all()
        assert (original[inside] != without[inside]).any()


def test_erased_crops_ignore_faces(photos):
    faces = find_faces(photos)
    crops = crop_faces(photos, faces, 96)
    other = [photo.copy() for photo in photos]
    for k, photo in enumerate(other):
        mask = crops.prepare(k).erase_mask
        photo[mask] = 255 - photo[mask]
    for before, after in zip(crops.erased(), crop_faces(other, faces, 96).erased(), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", CONTROLS)
def test_map_proportions(photos, kind):
    crops = crop_faces(photos, find_faces(photos), 128)
    exact = crops.control_images(kind, "the photo's", 1)
    first, again, other = (crops.control_images(kind, "another person's", seed) for seed in (1, 1, 2))
    fresh = [crops.control_images(kind, "another person's", None) for _ in range(2)]
    assert np.array_equal(first, again)
    for a, b in ((exact, first), (first, other), (fresh[0], fresh[1])):
        assert not np.array_equal(a, b)


def test_map_of_photo_shows_all_faces(photos):
    faces = find_faces(photos).faces[0]
    labels = photo_map(faces, (512, 512), "the photo's", None)
    for face in faces:
        x0, y0, x1, y1 = face.detection.box
        assert LABEL["nose"] in labels[int(y0) : int(y1), int(x0) : int(x1)]
    assert labels[500, 20] == 0
    assert not photo_map((), (8, 8), "the photo's", None).any()


def test_faces_of_other_photos_are_refused(photos):
    faces = find_faces(photos)
    with pytest.raises(UsageError, match="found in 2 pictures of 512 x 512"):
        crop_faces(photos[:1], faces, 96)
    with pytest.raises(UsageError, match="batch of 2 of 512 x 256"):
        crop_faces([photo[:256] for photo in photos], faces, 96)


def nothing(picture: np.ndarray) -> list:
    return []


def is_hidden(image: Image.Image, original: np.ndarray) -> bool:
    """Return whether the face does not show, and its cover is smooth."""
    core = np.asarray(image).astype(int)[CORE]
    return np.abs(core - original[CORE]).mean() > 8 and np.abs(np.diff(core, axis=0)).mean() < 4


@pytest.fixture
def crops(given: None, astronaut: np.ndarray) -> FaceCrops:
    photos = [astronaut, astronaut.copy()]
    return crop_faces(photos, find_faces(photos), 64)


@pytest.mark.parametrize("size", [32, 64, 150])
def test_stitch_any_size(crops, astronaut, size):
    pictures = torch.stack([torch.full((size, size, 3), value) for value in (0.1, 0.3, 0.5, 0.9)])
    pictures += torch.rand_like(pictures) * 0.05
    results = stitch(crops, pictures, FakeVerifier(), nothing)
    assert [[face.action for face in result.faces] for result in results] == [["replaced"] * 2] * 2
    for k, result in enumerate(results):
        pixels = np.asarray(result.image)
        outside = ~crops.prepare(k).erase_mask
        assert np.array_equal(pixels[outside], astronaut[outside])
        assert (pixels[CORE] != astronaut[CORE]).any(-1).mean() > 0.9
    assert np.asarray(results[0].image)[CORE].mean() < np.asarray(results[1].image)[CORE].mean() - 20


def test_rejected_face_is_covered(crops, astronaut):
    """Such as an original face, if its crop is connected."""
    results = stitch(crops, to_image(crops.originals()), FakeVerifier(lambda n: PASS if n else FAIL), nothing)
    first = results[0].faces[0]
    assert (first.action, first.reason, first.similarity) == ("covered", FAIL.reason, FAIL.similarity)
    assert is_hidden(results[0].image, astronaut)
    assert [face.action for face in results[1].faces] == ["replaced"] * 2


def test_unverifiable_faces_are_covered(crops, astronaut):
    """They may be the originals."""
    verifier = FakeVerifier(lambda n: VerificationResult(None, None))
    results = stitch(crops, to_image(crops.originals()), verifier, nothing)
    assert {face.reason for result in results for face in result.faces} == {"cannot be compared with the original"}
    assert is_hidden(results[0].image, astronaut)


def test_nan_is_covered(crops):
    pictures = torch.rand(4, 64, 64, 3)
    pictures[0, 5, 5, 0] = float("nan")
    first, second = stitch(crops, pictures, FakeVerifier(), nothing)[0].faces
    assert (first.action, first.reason) == ("covered", "generation gave no picture")
    assert (second.action, second.reason) == ("replaced", None)


@pytest.mark.parametrize("stage", ["reference", "verify", "match_boundary_colour", "extract"])
def test_failing_stage_covers(crops, monkeypatch, stage, astronaut):
    verifier = FakeVerifier()
    owner = verifier if hasattr(verifier, stage) else sys.modules["deid_diffusion.comfyui.faces"]
    monkeypatch.setattr(owner, stage, raising(MemoryError))
    for result in stitch(crops, torch.rand(4, 64, 64, 3), verifier, nothing):
        assert [face.action for face in result.faces] == ["covered"] * 2
        assert owner is not verifier or {face.reason for face in result.faces} == {"stitching failed: MemoryError"}
        assert is_hidden(result.image, astronaut)


@pytest.mark.parametrize("shape", [(3, 64, 64, 3), (5, 64, 64, 3), (4, 64, 32, 3), (4, 64, 64, 4)])
def test_other_batch_is_refused(crops, shape):
    with pytest.raises(UsageError, match="expected 4 square face crops"):
        stitch(crops, torch.rand(shape), FakeVerifier(), nothing)


def test_missed_face_is_covered(crops, given, astronaut):
    """Also in a photo without detected faces, whose faces may be another photo's."""
    empty = FaceCrops((astronaut,), (), 64)
    searched: list[Callable] = []

    def detector(picture: np.ndarray) -> list:
        searched.append(picture)
        return [face.detection for _, face in crops.faces[:1]] if len(searched) == 1 else []

    result = stitch(empty, to_image([empty.blank()]), FakeVerifier(), detector)[0]
    assert result.faces[0].reason == "missed at first, found by the residual scan"
    assert is_hidden(result.image, astronaut)
    assert np.array_equal(
        np.asarray(stitch(empty, torch.rand(1, 8, 8, 3), FakeVerifier(), nothing)[0].image), astronaut
    )
