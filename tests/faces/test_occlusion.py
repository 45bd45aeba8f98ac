import numpy as np
import pytest

from deid_diffusion.faces.alignment import similarity
from deid_diffusion.faces.masks import empty_mask
from deid_diffusion.faces.occlusion import find_occluders, spare_occluders
from deid_diffusion.faces.semantic_map import mean_mesh
from tests.faces.conftest import mean_face_mask

SIZE, SHAPE = 128, (300, 300)
MATRIX = similarity((150, 150), 220, 0.0, SIZE)
MESH = mean_mesh(SIZE)
MASK = mean_face_mask(MATRIX, SHAPE)
SKIN, RIBBON = (200, 150, 125), (20, 40, 220)


def photo(*ribbons: tuple[slice, slice]) -> np.ndarray:
    picture = np.full((*SHAPE, 3), SKIN, np.uint8)
    for ribbon in ribbons:
        picture[ribbon] = RIBBON
    return picture


def find(picture: np.ndarray) -> np.ndarray | None:
    return find_occluders(picture, MESH, MATRIX, SIZE)


def alpha_of(picture: np.ndarray) -> np.ndarray:
    """Return the mask of the mean face in a picture, without its occluders."""
    occluders = find(picture)
    assert occluders is not None
    return spare_occluders(MASK, occluders, MATRIX, SIZE).full()


def test_object_across_the_chin() -> None:
    chin = (slice(196, 235), slice(40, 260))
    picture = photo(chin)
    visible = (alpha_of(picture) < 1) & (MASK.full() == 1)  # pixels of the face that show the photo
    assert visible[chin].mean() > 0.15
    assert (picture[visible] == RIBBON).all()


@pytest.mark.parametrize("ribbons", [[], [(slice(165, 175), slice(110, 125))]], ids=["plain skin", "inside the face"])
def test_no_occluder(ribbons: list[tuple[slice, slice]]) -> None:
    assert find(photo(*ribbons)) is None


def test_beard() -> None:
    picture = photo()
    picture[196:] = (60, 45, 38)  # darker, at the hue of skin
    occluders = find(picture)
    assert occluders is None or not occluders[120:].any()


def test_empty_mask_is_unchanged() -> None:
    empty = empty_mask(SHAPE)
    assert spare_occluders(empty, np.zeros((192, 192), bool), MATRIX, SIZE) is empty


def test_hat_has_no_gap_at_the_silhouette() -> None:
    assert MASK.full()[:95].any()
    assert not alpha_of(photo((slice(0, 108), slice(0, 300))))[:95].any()


def test_skin_between_strands_is_replaced() -> None:
    picture = photo((slice(0, 100), slice(0, 300)))
    for column in range(80, 220, 12):  # strands, with gaps of the same width
        picture[100:112, column : column + 6] = RIBBON
    skin = (picture == SKIN).all(2) & (MASK.full() == 1)
    assert ((alpha_of(picture) < 0.5) & skin).sum() < 0.02 * skin.sum()


def test_thin_strand_above_the_brows() -> None:
    """It would end as a dash on the new forehead; the wide fringe that it hangs from stays."""
    fringe, strand = (slice(0, 92), slice(40, 260)), (slice(92, 104), slice(146, 152))
    alpha = alpha_of(photo(fringe, strand))
    assert np.median(alpha[80:86, 130:170]) < 0.1
    assert alpha[97:102, 147:151].min() > 0.9
