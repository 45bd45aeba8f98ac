"""A kept region is original to the last pixel; the rest of the face is as covered as before."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.alignment import invert, similarity, transform
from deid_diffusion.faces.compositing import FILL, Canvas
from deid_diffusion.faces.masks import (
    REGION_WARNING,
    PasteMask,
    box_mask,
    box_outline,
    face_outline,
    keep_regions,
    limit_mask,
    paste_mask,
    union_mask,
)
from deid_diffusion.faces.semantic_map import LABEL, REGIONS, draw_semantic_map, mean_mesh


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
    assert np.array_equal(union_mask((60, 80), masks), np.any([mask.full() > 0 for mask in masks], axis=0))


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


SHAPE = (300, 320)
LABELS = draw_semantic_map(mean_mesh(128), 128)


def _scene(side: float, centre: tuple[float, float] = (160, 150)) -> tuple[PasteMask, np.ndarray]:
    matrix = similarity(centre, side, 0.2, 128)
    return paste_mask(face_outline(mean_mesh(128), 128), matrix, SHAPE, 128), matrix


def _places(matrix: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, in the photo, of the pixels that lie wholly in a region."""
    rows, columns = np.nonzero(np.isin(LABELS, [LABEL[name] for name in REGIONS[region]]))
    spots = transform(np.stack([columns, rows], 1).astype(np.float32), invert(matrix)).round().astype(int)
    spots = spots[((spots >= 0) & (spots < SHAPE[::-1])).all(1)]
    return spots[:, 1], spots[:, 0]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("side", [160.0, 420.0])
def test_a_region_is_left_out_and_the_others_stay(region: str, side: float):
    mask, matrix = _scene(side)
    kept = keep_regions(mask, LABELS, matrix, frozenset({region}), 128)
    at_its_rims = 0.97 if region == "skin" else 1  # there another region may win a pixel
    assert (kept.full()[_places(matrix, region)] == 0).mean() >= at_its_rims
    assert (kept.alpha <= mask.alpha).all()
    assert kept.alpha.dtype == np.float32
    assert (kept.top, kept.left, kept.photo_shape) == (mask.top, mask.left, mask.photo_shape)
    for other in REGIONS.keys() - {region, "skin"}:
        assert (kept.full()[_places(matrix, other)] == 1).mean() > 0.95, (
            other
        )  # a pixel of the map is three of the photo


def test_the_way_back_is_soft_and_short():
    mask, matrix = _scene(400)
    kept = keep_regions(mask, LABELS, matrix, frozenset({"mouth"}), 128)
    face = mask.alpha >= 1
    soft = face & (kept.alpha > 0) & (kept.alpha < 1)
    out = face & (kept.alpha == 0)
    assert 0 < soft.sum() < out.sum()
    assert np.abs(np.diff(kept.alpha[face.any(1)], axis=0)).max() < 0.35
    assert out.sum() < 1.6 * len(_places(matrix, "mouth")[0]) * (400 / 128) ** 2


def test_on_a_canvas_only_the_region_shows_the_photo():
    photo = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    mask, matrix = _scene(300)
    kept = keep_regions(mask, LABELS, matrix, frozenset({"eyes"}), 128)
    canvas = Canvas(photo, [kept], "grey")
    canvas.paste(0, np.full((128, 128, 3), 9, np.uint8), matrix)
    eyes = _places(matrix, "eyes")
    assert np.array_equal(canvas.pixels[eyes], photo[eyes])
    assert (canvas.pixels[kept.full() == 1] == 9).all()
    canvas.cover(0)
    assert np.array_equal(canvas.pixels[eyes], photo[eyes])
    assert (canvas.pixels[kept.full() > 0] == FILL).all()


def test_several_regions_are_all_left_out():
    mask, matrix = _scene(300)
    both = keep_regions(mask, LABELS, matrix, frozenset({"eyes", "mouth"}), 128).alpha
    single = [keep_regions(mask, LABELS, matrix, frozenset({name}), 128).alpha for name in ("eyes", "mouth")]
    assert np.allclose(both, np.minimum(*single))


def test_faces_at_and_beyond_the_edge():
    mask, matrix = _scene(200, (0, 150))
    kept = keep_regions(mask, LABELS, matrix, frozenset({"eyes"}), 128)
    assert (kept.full()[_places(matrix, "eyes")] == 0).all()
    assert (kept.alpha == 1).any()
    mask, matrix = _scene(100, (-900, 150))
    assert keep_regions(mask, LABELS, matrix, frozenset({"eyes"}), 128) is mask


def test_nothing_to_keep_leaves_the_mask():
    mask, matrix = _scene(200)
    assert keep_regions(mask, LABELS, matrix, frozenset(), 128) is mask
    assert keep_regions(mask, np.zeros_like(LABELS), matrix, frozenset({"eyes"}), 128) is mask


def test_a_region_at_the_crops_edge_does_not_run_on_outside_it():
    _, matrix = _scene(200)
    wide = np.array([(-90, 30), (90, 30), (90, 90), (-90, 90)], np.float32)
    labels = np.zeros_like(LABELS)
    labels[:, :40] = LABEL["nose"]
    mask = paste_mask([wide], matrix, SHAPE, 128)
    kept = keep_regions(mask, labels, matrix, frozenset({"nose"}), 128)
    outside = transform(np.array([(-40, 60)], np.float32), invert(matrix)).round().astype(int)[0]
    assert kept.full()[outside[1], outside[0]] == 1


def test_what_cannot_be_kept_is_refused():
    mask, matrix = _scene(200)
    with pytest.raises(ValueError, match="regions ears, hair: unknown, there are skin, brows, eyes, nose, mouth"):
        keep_regions(mask, LABELS, matrix, frozenset({"hair", "ears", "eyes"}), 128)
    with pytest.raises(ValueError, match="would leave the face as it is"):
        keep_regions(mask, LABELS, matrix, frozenset(REGIONS), 128)
    with pytest.raises(ValueError, match="semantic_map: "):
        keep_regions(mask, LABELS[:64], matrix, frozenset({"eyes"}), 128)
    assert "\n" not in REGION_WARNING
