import numpy as np
import pytest

from deid_diffusion.comfyui.found_faces import cut_faces, find_faces, photo_map
from deid_diffusion.errors import UsageError
from deid_diffusion.faces.blend import FILL
from deid_diffusion.faces.controls import CONTROLS
from deid_diffusion.faces.labels import LABEL

pytestmark = pytest.mark.usefixtures("given")


@pytest.fixture
def photos(astronaut: np.ndarray) -> list[np.ndarray]:
    return [astronaut, np.ascontiguousarray(astronaut[:, ::-1])]


def test_crops_of_a_batch_are_in_order_and_erased(photos: list[np.ndarray]) -> None:
    crops = cut_faces(photos, find_faces(photos), 96)
    assert [photo for photo, _ in crops.faces] == [0, 0, 1, 1]
    masks, erased, originals = crops.masks(), crops.erased(), crops.originals()
    assert {one.shape for one in erased + originals} == {(96, 96, 3)}
    for mask, without, original in zip(masks, erased, originals, strict=True):
        assert 0.1 < mask.mean() < 0.9
        inside = np.zeros_like(mask)
        inside[40:56, 40:56] = True  # away from the rim, where the resampling mixes
        assert (without[inside] == FILL).all()
        assert (original[inside] != without[inside]).any()


def test_erased_crops_do_not_depend_on_the_faces(photos: list[np.ndarray]) -> None:
    found = find_faces(photos)
    crops = cut_faces(photos, found, 96)
    other = [photo.copy() for photo in photos]
    for photo, gone in zip(other, crops.gone, strict=True):
        photo[gone] = 255 - photo[gone]
    for before, after in zip(crops.erased(), cut_faces(other, found, 96).erased(), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", CONTROLS)
def test_maps_have_other_proportions_unless_the_photos_are_asked_for(photos: list[np.ndarray], kind: str) -> None:
    crops = cut_faces(photos, find_faces(photos), 128)
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
        x0, y0, x1, y1 = face.face.box
        assert LABEL["nose"] in labels[int(y0) : int(y1), int(x0) : int(x1)]
    assert labels[500, 20] == 0
    assert not photo_map((), (8, 8), "the photo's", None).any()


def test_faces_of_other_photos_are_refused(photos: list[np.ndarray]) -> None:
    found = find_faces(photos)
    with pytest.raises(UsageError, match="found in 2 pictures of 512 x 512"):
        cut_faces(photos[:1], found, 96)
    with pytest.raises(UsageError, match="batch of 2 of 512 x 256"):
        cut_faces([photo[:256] for photo in photos], found, 96)
