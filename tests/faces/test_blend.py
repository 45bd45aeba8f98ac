import numpy as np

from deid_diffusion.faces.blend import FILL, Canvas, erase, match_rim
from deid_diffusion.faces.crop import similarity
from deid_diffusion.faces.mask import PasteMask, face_outline, paste_mask, touched
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
    outside = ~touched((240, 320), masks)
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
    faces = touched((240, 320), masks)
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
    off = np.abs(match_rim(made, SKIN, MASK).astype(int) - SKIN).max(2)
    assert off[16, 16:48].max() <= 3  # of 20 before
    assert off[MASK].max() <= 12


def test_match_rim_takes_no_colour_from_what_is_not_skin() -> None:
    context, made = (np.full((64, 64, 3), colour, np.uint8) for colour in ((0, 220, 230), (60, 180, 190)))
    made[MASK] = SKIN[MASK]
    assert np.abs(match_rim(made, context, MASK)[MASK].astype(int) - SKIN[MASK]).max() <= 3


def test_match_rim_without_a_rim_leaves_the_crop() -> None:
    made = np.full((8, 8, 3), 9, np.uint8)
    assert np.array_equal(match_rim(made, made, np.ones((8, 8), bool)), made)


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
    with canvas.trial(0, np.full((64, 64, 3), 90, np.uint8), matrices[0]) as picture:
        assert (picture[masks[0].full() == 1] == 90).all()
    canvas.cover(1)
    assert (canvas.pixels[masks[1].full() > 0] == FILL).all()
