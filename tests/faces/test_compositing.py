"""The simple methods leave no sharp pixel of the original, and say that a trace stays."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.alignment import similarity
from deid_diffusion.faces.compositing import (
    BLOCKS,
    FILL,
    METHODS,
    WARNINGS,
    Canvas,
    apply_method,
    erase,
    fill_from_surroundings,
    match_boundary_colour,
)
from deid_diffusion.faces.masks import PasteMask, box_mask, face_outline, paste_mask, union_mask
from deid_diffusion.faces.semantic_map import mean_mesh


def _scene() -> tuple[np.ndarray, list[np.ndarray], list[PasteMask]]:
    photo = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    matrices = [similarity((100, 120), 140, 0.1, 64), similarity((190, 120), 140, -0.1, 64)]  # overlapping
    outline = face_outline(mean_mesh(64), 64)
    return photo, matrices, [paste_mask(outline, matrix, (240, 320), 64) for matrix in matrices]


def test_a_new_canvas_is_opaque_on_every_face() -> None:
    photo, _, masks = _scene()
    canvas = Canvas(photo, masks)
    for mask in masks:
        assert (canvas.pixels[mask.full() == 1] == FILL).all()


def test_outside_the_masks_nothing_changes_and_inside_nothing_depends_on_the_photo() -> None:
    photo, matrices, masks = _scene()
    other = photo.copy()
    for mask in masks:
        other[mask.full() == 1] = 7
    crop = np.full((64, 64, 3), (200, 150, 120), np.uint8)
    results = []
    for picture in (photo, other):
        canvas = Canvas(picture, masks)
        for k, matrix in enumerate(matrices):
            canvas.paste(k, crop, matrix)
        results.append(canvas.pixels)
    outside = ~union_mask((240, 320), masks)
    assert np.array_equal(results[0][outside], photo[outside])
    assert np.array_equal(results[0], results[1])


def test_grey_cover_hides_the_ring_too() -> None:
    photo, matrices, masks = _scene()
    canvas = Canvas(photo, masks, "grey")
    canvas.paste(0, np.zeros((64, 64, 3), np.uint8), matrices[0])
    canvas.cover(0)
    assert (canvas.pixels[masks[0].full() > 0] == FILL).all()


def test_cover_takes_its_colours_from_around_all_faces() -> None:
    photo, _, masks = _scene()
    faces = union_mask((240, 320), masks)
    photo[:] = (10, 200, 30)
    photo[faces] = np.random.default_rng(1).integers(0, 256, (int(faces.sum()), 3), np.uint8)
    other = photo.copy()
    other[faces] = 255 - other[faces]
    results = []
    for picture in (photo, other):
        canvas = Canvas(picture, masks)
        for k in range(len(masks)):
            canvas.cover(k)
        results.append(canvas.pixels)
    assert np.array_equal(results[0], results[1])
    assert np.abs(results[0][faces].astype(int) - (10, 200, 30)).max() <= 1


def test_the_photo_itself_is_never_written_to() -> None:
    photo, matrices, masks = _scene()
    before = photo.copy()
    canvas = Canvas(photo, masks)
    canvas.paste(1, np.zeros((64, 64, 3), np.uint8), matrices[1])
    erased = erase(photo, masks[0].full() > 0)
    assert np.array_equal(photo, before)
    assert (erased[masks[0].full() > 0] == FILL).all()


MASK = np.zeros((64, 64), bool)
MASK[16:48, 16:48] = True
SKIN = np.full((64, 64, 3), (180, 140, 120), np.uint8)


def test_match_rim_meets_the_photos_skin_at_the_edge() -> None:
    made = np.full((64, 64, 3), (160, 150, 130), np.uint8)
    off = np.abs(match_boundary_colour(made, SKIN, MASK).astype(int) - SKIN).max(2)
    assert off[16, 16:48].max() <= 3  # of 20 before
    assert off[MASK].max() <= 12


def test_match_rim_takes_no_colour_from_what_is_not_skin() -> None:
    context, made = (np.full((64, 64, 3), colour, np.uint8) for colour in ((0, 220, 230), (60, 180, 190)))
    made[MASK] = SKIN[MASK]
    assert np.abs(match_boundary_colour(made, context, MASK)[MASK].astype(int) - SKIN[MASK]).max() <= 3


def test_match_rim_without_a_rim_leaves_the_crop() -> None:
    made = np.full((8, 8, 3), 9, np.uint8)
    assert np.array_equal(match_boundary_colour(made, made, np.ones((8, 8), bool)), made)


def test_a_cover_leaves_the_replacement_of_another_face() -> None:
    photo, matrices, masks = _scene()
    canvas = Canvas(photo, masks, "grey")
    canvas.paste(0, np.full((64, 64, 3), 90, np.uint8), matrices[0])
    canvas.cover(1)
    first, second = (mask.full() for mask in masks)
    assert (canvas.pixels[first == 1] == 90).all()
    assert (canvas.pixels[(second > 0) & (first < 1)] == FILL).all()
    canvas.cover(0)
    assert (canvas.pixels[(first > 0) | (second > 0)] == FILL).all()


def test_a_trial_is_no_replacement_that_covers_spare() -> None:
    photo, matrices, masks = _scene()
    canvas = Canvas(photo, masks, "grey")
    with canvas.preview(0, np.full((64, 64, 3), 90, np.uint8), matrices[0]) as picture:
        assert (picture[masks[0].full() == 1] == 90).all()
    canvas.cover(1)
    assert (canvas.pixels[masks[1].full() > 0] == FILL).all()


SHAPE = (260, 300)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def _mask(x: float, y: float, side: float) -> PasteMask:
    return paste_mask(face_outline(mean_mesh(128), 128), similarity((x, y), side, 0.1, 128), SHAPE, 128)


MASKS = {
    "whole": _mask(150, 130, 180),
    "small": _mask(150, 130, 20),
    "cut": _mask(0, 130, 180),
    "corner": _mask(300, 0, 180),
    "tiny": box_mask((50.0, 50.0, 53.0, 54.0), SHAPE),
    "larger than the photo": box_mask((-50.0, -50.0, 400.0, 400.0), SHAPE),
}


def _face_width(mask: PasteMask) -> int:
    return int((mask.alpha >= 1).any(0).sum())


@pytest.mark.parametrize("name", MASKS)
def test_fill_is_one_colour(name: str):
    assert (apply_method(PHOTO, MASKS[name], "fill") == FILL).all()


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
@pytest.mark.parametrize("name", MASKS)
def test_a_patch_has_the_windows_size_and_reads_nothing_else(name: str, method):
    mask = MASKS[name]
    patch = apply_method(PHOTO, mask, method)
    assert patch.shape == (*mask.alpha.shape, 3)
    assert patch.dtype == np.uint8
    other = np.zeros_like(PHOTO)
    other[mask.window] = PHOTO[mask.window]
    assert np.array_equal(apply_method(other, mask, method), patch)


@pytest.mark.parametrize("method", ["blur", "pixelate"])
@pytest.mark.parametrize("name", MASKS)
def test_one_pixel_of_the_photo_is_never_one_of_the_patch(name: str, method):
    """A single white pixel, anywhere in the window, edges and corners included, is spread until it is faint."""
    mask = MASKS[name]
    height, width = mask.alpha.shape
    for row in {0, height // 2, height - 1}:
        for column in {0, width // 3, width - 1}:
            photo = np.zeros_like(PHOTO)
            photo[mask.top + row, mask.left + column] = 255
            assert apply_method(photo, mask, method).max() <= 255 / 4, (row, column)


@pytest.mark.parametrize("name", ["whole", "cut", "corner"])
def test_blur_is_a_gaussian_of_a_quarter_of_the_faces_width(name: str):
    mask = MASKS[name]
    photo = np.zeros_like(PHOTO)
    column = mask.left + mask.alpha.shape[1] // 2
    photo[:, column:] = 200  # an edge becomes the integral of the kernel: 16 to 84 % within two standard deviations
    row = apply_method(photo, mask, "blur")[mask.alpha.shape[0] // 2, :, 0].astype(float)
    rise = float(np.diff(row).max())
    assert rise <= 200 / (np.sqrt(2 * np.pi) * 0.25 * _face_width(mask)) + 1
    assert (np.diff(row) >= 0).all()


@pytest.mark.parametrize("name", [name for name in MASKS if name != "tiny"])
def test_pixelation_leaves_few_blocks(name: str):
    mask = MASKS[name]
    patch = apply_method(PHOTO, mask, "pixelate").astype(int)
    across = 1 + (np.abs(np.diff(patch, axis=1)).max((0, 2)) > 0).sum()
    down = 1 + (np.abs(np.diff(patch, axis=0)).max((1, 2)) > 0).sum()
    assert across <= BLOCKS
    assert down <= BLOCKS
    assert abs(patch.mean() - PHOTO[mask.window].mean()) < 3  # the means are of the face, not of anything else


def test_of_a_face_cut_by_the_edge_the_blocks_are_as_large_as_those_of_a_whole_face():
    photo = np.tile(np.arange(260, dtype=np.uint8)[:, None, None], (1, 300, 3))
    heights = []
    for name in ("whole", "cut", "corner"):
        values = apply_method(photo, MASKS[name], "pixelate")[:, 0, 0]
        heights.append(len(values) / len(np.unique(values)))
    assert min(heights[1:]) > 0.8 * heights[0]


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_a_face_outside_the_photo_has_an_empty_patch(method):
    assert apply_method(PHOTO, _mask(-900, 0, 100), method).shape == (0, 0, 3)


def test_other_methods_and_other_photos_are_refused():
    for method in ("generate", "swirl"):
        with pytest.raises(ValueError, match=f"method {method}: .* expected one of fill, blur, pixelate"):
            apply_method(PHOTO, MASKS["whole"], method)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="photo: "):
        apply_method(PHOTO[:-1], MASKS["whole"], "fill")


def test_every_method_that_leaves_a_trace_has_its_warning():
    assert set(METHODS) - {"generate", "fill"} == WARNINGS.keys()
    assert all("\n" not in line and "Newton" in line for line in WARNINGS.values())


def test_nothing_inside_the_hole_is_read() -> None:
    rng = np.random.default_rng(0)
    picture, hole = rng.random((40, 50, 3)).astype(np.float32), np.zeros((40, 50), bool)
    hole[10:30, 15:40] = True
    other = picture.copy()
    other[hole] = rng.random((int(hole.sum()), 3))
    filled = fill_from_surroundings(picture, hole)
    assert np.array_equal(filled, fill_from_surroundings(other, hole))
    assert np.array_equal(filled[~hole], picture[~hole])


def test_each_side_is_carried_inwards() -> None:
    picture, hole = np.zeros((40, 40, 3), np.float32), np.zeros((40, 40), bool)
    picture[:, 20:] = 1
    hole[8:32, 8:32] = True
    filled = fill_from_surroundings(picture, hole)
    assert filled[20, 9].max() < 0.1
    assert filled[20, 30].min() > 0.9


def test_holes_without_surroundings_are_grey() -> None:
    assert (fill_from_surroundings(np.ones((4, 4, 3), np.float32), np.ones((4, 4), bool)) == 0.5).all()
    picture = np.random.default_rng(0).random((4, 4, 3)).astype(np.float32)
    assert np.array_equal(fill_from_surroundings(picture, np.zeros((4, 4), bool)), picture)
