import numpy as np
import pytest

from deid_diffusion.faces.crop import invert, similarity, transform
from deid_diffusion.faces.mask import box_mask, box_outline, face_outline, limit_mask, paste_mask, touched
from deid_diffusion.faces.semantic_map import mean_mesh


@pytest.mark.parametrize("side", [30.0, 160.0, 400.0])
def test_every_point_of_the_mesh_is_fully_replaced(side: float) -> None:
    matrix = similarity((200, 220), side, 0.2, 128)
    alpha = paste_mask(face_outline(mean_mesh(128), 128), matrix, (440, 400), 128).full()
    inside = np.floor(transform(mean_mesh(128), invert(matrix))).astype(int)
    assert (alpha[inside[:, 1], inside[:, 0]] == 1).all()
    assert alpha[0, 0] == 0
    assert 0 < ((alpha > 0) & (alpha < 1)).sum() < (alpha == 1).sum()


def test_a_face_cut_by_the_border_is_opaque_up_to_it() -> None:
    matrix = similarity((0, 100), 160, 0.0, 128)
    alpha = paste_mask(face_outline(mean_mesh(128), 128), matrix, (200, 300), 128).full()
    assert alpha[100, 0] == 1


def test_a_face_outside_the_photo_gives_an_empty_mask() -> None:
    matrix = similarity((-900, 100), 160, 0.0, 128)
    mask = paste_mask(face_outline(mean_mesh(128), 128), matrix, (200, 300), 128)
    assert not mask.alpha.size
    assert not mask.full().any()


def test_box_outline_covers_the_box_sides() -> None:
    matrix = similarity((50, 50), 100, 0.0, 100)
    outline = transform(box_outline((30, 30, 70, 80), matrix), invert(matrix))
    assert outline[:, 0].min() < 30
    assert outline[:, 0].max() > 70
    assert outline[:, 1].min() < 30
    assert outline[:, 1].max() > 80


def test_the_last_resort_covers_more_than_the_box() -> None:
    alpha = box_mask((170.0, 60.0, 270.0, 190.0), (300, 300)).full()
    assert alpha[60:190, 170:270].all()
    assert alpha[45, 200] == 1
    assert alpha[280, 20] == 0
    assert not box_mask((400.0, 400.0, 420.0, 420.0), (50, 50)).full().any()


def test_touched_is_the_union() -> None:
    masks = [box_mask((10.0, 10.0, 20.0, 20.0), (60, 80)), box_mask((40.0, 30.0, 50.0, 44.0), (60, 80))]
    assert np.array_equal(touched((60, 80), masks), np.any([mask.full() > 0 for mask in masks], axis=0))


def test_a_guessed_mask_is_kept_near_the_box() -> None:
    matrix, shape = similarity((100, 100), 200, 0.0, 128), (200, 300)
    mask = paste_mask(face_outline(mean_mesh(128), 128), matrix, shape, 128)
    limited = limit_mask(mask, (70.0, 40.0, 130.0, 160.0), matrix, 128).full()
    assert (limited[45:155, 75:125] == mask.full()[45:155, 75:125]).all()
    assert mask.full()[100, 145] == 1
    assert not limited[:, 145:].any()


def test_the_mirror_image_completes_a_box_that_the_edge_cuts_off() -> None:
    matrix, shape = similarity((0, 100), 200, 0.0, 128), (200, 300)
    mask = paste_mask(face_outline(mean_mesh(128), 128), matrix, shape, 128)
    whole = limit_mask(mask, (0.0, 30.0, 70.0, 170.0), matrix, 128).full()
    assert (whole[:, :55] == mask.full()[:, :55]).all()
