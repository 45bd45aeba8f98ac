import numpy as np

from deid_diffusion.faces.alignment import similarity
from deid_diffusion.faces.masks import face_outline, paste_mask
from deid_diffusion.faces.occlusion import find_occluders, spare_occluders
from deid_diffusion.faces.semantic_map import mean_mesh

SIZE, SHAPE = 128, (300, 300)
MATRIX = similarity((150, 150), 220, 0.0, SIZE)
MESH = mean_mesh(SIZE)
MASK = paste_mask(face_outline(MESH, SIZE), MATRIX, SHAPE, SIZE)
SKIN, RIBBON = (200, 150, 125), (20, 40, 220)


def photo(*ribbons: tuple[slice, slice]) -> np.ndarray:
    picture = np.full((*SHAPE, 3), SKIN, np.uint8)
    for place in ribbons:
        picture[place] = RIBBON
    return picture


def test_plain_skin_has_nothing_in_front() -> None:
    assert find_occluders(photo(), MESH, MATRIX, SIZE) is None


def test_a_thing_across_the_chin_stays_and_no_skin_under_it_shows() -> None:
    chin = (slice(196, 235), slice(40, 260))
    picture = photo(chin)
    occluders = find_occluders(picture, MESH, MATRIX, SIZE)
    assert occluders is not None
    spared = spare_occluders(MASK, occluders, MATRIX, SIZE)
    shown = (spared.full() < 1) & (MASK.full() == 1)  # pixels of the face at which the photo shows
    assert shown[chin].mean() > 0.15
    assert (picture[shown] == RIBBON).all()


def test_what_touches_no_edge_is_part_of_the_face() -> None:
    assert find_occluders(photo((slice(165, 175), slice(110, 125))), MESH, MATRIX, SIZE) is None


def test_a_dark_beard_is_no_thing() -> None:
    picture = photo()
    picture[196:] = (60, 45, 38)  # darker skin of the same hue
    occluders = find_occluders(picture, MESH, MATRIX, SIZE)
    assert occluders is None or not occluders[120:].any()


def test_a_mask_of_nothing_stays_as_it_is() -> None:
    from deid_diffusion.faces.masks import empty_mask

    empty = empty_mask(SHAPE)
    assert spare_occluders(empty, np.zeros((192, 192), bool), MATRIX, SIZE) is empty


def test_a_hat_leaves_no_gap_at_the_silhouette() -> None:
    """Between what stands in front inside the silhouette and outside it, no line of new face is drawn."""
    hat = (slice(0, 108), slice(0, 300))
    occluders = find_occluders(photo(hat), MESH, MATRIX, SIZE)
    assert occluders is not None
    spared = spare_occluders(MASK, occluders, MATRIX, SIZE).full()
    assert MASK.full()[:95].any()
    assert not spared[:95].any()


def test_skin_at_the_edge_of_a_fringe_is_not_left_in_the_picture() -> None:
    picture = photo((slice(0, 100), slice(0, 300)))
    for column in range(80, 220, 12):  # strands with gaps that are as wide
        picture[100:112, column : column + 6] = RIBBON
    occluders = find_occluders(picture, MESH, MATRIX, SIZE)
    assert occluders is not None
    spared = spare_occluders(MASK, occluders, MATRIX, SIZE).full()
    skin = (picture == SKIN).all(2) & (MASK.full() == 1)
    assert ((spared < 0.5) & skin).sum() < 0.02 * skin.sum()
