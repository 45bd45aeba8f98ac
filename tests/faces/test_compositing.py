from dataclasses import dataclass

import numpy as np
import pytest

from deid_diffusion.faces import compositing
from deid_diffusion.faces.alignment import similarity
from deid_diffusion.faces.masks import REGION_WARNING, PasteMask, box_mask, union_mask
from tests.faces.conftest import mean_face_mask


@dataclass
class Scene:
    """A photo of noise with two overlapping faces."""

    photo: np.ndarray
    matrices: list[np.ndarray]
    masks: list[PasteMask]


@pytest.fixture
def scene(rng: np.random.Generator) -> Scene:
    matrices = [similarity((100, 120), 140, 0.1, 64), similarity((190, 120), 140, -0.1, 64)]
    masks = [mean_face_mask(matrix, (240, 320), 64) for matrix in matrices]
    return Scene(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), matrices, masks)


def uniform(colour: int | tuple[int, int, int], size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


def test_canvas_ignores_original_faces(scene: Scene) -> None:
    before, other = scene.photo.copy(), scene.photo.copy()
    for mask in scene.masks:
        other[mask.full() == 1] = 7
    results = []
    for photo in (scene.photo, other):
        canvas = compositing.Canvas(photo, scene.masks)
        assert all((canvas.pixels[mask.full() == 1] == compositing.FILL).all() for mask in scene.masks)
        for index, matrix in enumerate(scene.matrices):
            canvas.paste(index, uniform((200, 150, 120)), matrix)
        results.append(canvas.pixels)
    outside = ~union_mask((240, 320), scene.masks)
    assert np.array_equal(results[0][outside], before[outside])
    assert np.array_equal(results[0], results[1])
    assert (compositing.erase(scene.photo, ~outside)[~outside] == compositing.FILL).all()
    assert np.array_equal(scene.photo, before)  # not modified


def test_cover_ignores_all_faces(scene: Scene) -> None:
    faces = union_mask((240, 320), scene.masks)
    noise = scene.photo.copy()
    results = []
    for pixels in (noise, 255 - noise):
        photo = np.full_like(noise, (10, 200, 30))
        photo[faces] = pixels[faces]
        canvas = compositing.Canvas(photo, scene.masks)
        for index in range(len(scene.masks)):
            canvas.cover(index)
        results.append(canvas.pixels)
    assert np.array_equal(results[0], results[1])
    assert np.abs(results[0][faces].astype(int) - (10, 200, 30)).max() <= 1


MASK = np.zeros((64, 64), bool)
MASK[16:48, 16:48] = True
SKIN = uniform((180, 140, 120))


def test_boundary_colour_matches_skin() -> None:
    matched = compositing.match_boundary_colour(uniform((160, 150, 130)), SKIN, MASK)
    error = np.abs(matched.astype(int) - SKIN).max(2)
    assert error[16, 16:48].max() <= 3  # 20 before
    assert error[MASK].max() <= 12


def test_boundary_colour_of_other_hues() -> None:
    context, generated = uniform((0, 220, 230)), uniform((60, 180, 190))
    generated[MASK] = SKIN[MASK]
    matched = compositing.match_boundary_colour(generated, context, MASK)
    assert np.abs(matched[MASK].astype(int) - SKIN[MASK]).max() <= 3
    without_ring = compositing.match_boundary_colour(generated, context, np.ones_like(MASK))
    assert np.array_equal(without_ring, generated)


def test_cover_spares_replacements(scene: Scene) -> None:
    canvas = compositing.Canvas(scene.photo, scene.masks, "grey")
    first, second = (mask.full() for mask in scene.masks)
    with canvas.preview(0, uniform(90), scene.matrices[0]) as picture:
        assert (picture[first == 1] == 90).all()
    canvas.cover(1)
    assert (canvas.pixels[second > 0] == compositing.FILL).all()
    canvas.paste(0, uniform(90), scene.matrices[0])
    canvas.cover(1)
    assert (canvas.pixels[first == 1] == 90).all()
    assert (canvas.pixels[(second > 0) & (first < 1)] == compositing.FILL).all()
    canvas.cover(0)
    assert (canvas.pixels[(first > 0) | (second > 0)] == compositing.FILL).all()


SHAPE = (260, 300)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def mask_at(x: float, y: float, side: float) -> PasteMask:
    return mean_face_mask(similarity((x, y), side, 0.1, 128), SHAPE)


MASKS = {
    "full": mask_at(150, 130, 180),
    "small": mask_at(150, 130, 20),
    "cut": mask_at(0, 130, 180),
    "corner": mask_at(300, 0, 180),
    "tiny": box_mask((50.0, 50.0, 53.0, 54.0), SHAPE),
    "larger than the photo": box_mask((-50.0, -50.0, 400.0, 400.0), SHAPE),
}


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
@pytest.mark.parametrize("name", MASKS)
def test_filter_reads_the_window_only(name: str, method):
    mask = MASKS[name]
    patch = compositing.apply_method(PHOTO, mask, method)
    assert (patch.shape, patch.dtype) == ((*mask.alpha.shape, 3), np.uint8)
    other = np.zeros_like(PHOTO)
    other[mask.window] = PHOTO[mask.window]
    assert np.array_equal(compositing.apply_method(other, mask, method), patch)
    assert method != "fill" or (patch == compositing.FILL).all()


@pytest.mark.parametrize("method", ["blur", "pixelate"])
@pytest.mark.parametrize("name", MASKS)
def test_filter_spreads_single_pixels(name: str, method):
    """A white pixel anywhere in the window, including edges and corners, becomes faint."""
    mask = MASKS[name]
    height, width = mask.alpha.shape
    for row in {0, height // 2, height - 1}:
        for column in {0, width // 3, width - 1}:
            photo = np.zeros_like(PHOTO)
            photo[mask.top + row, mask.left + column] = 255
            assert compositing.apply_method(photo, mask, method).max() <= 255 / 4, (row, column)


@pytest.mark.parametrize("name", ["full", "cut", "corner"])
def test_blur_width(name: str):
    mask = MASKS[name]
    photo = np.zeros_like(PHOTO)
    column = mask.left + mask.alpha.shape[1] // 2
    photo[:, column:] = 200  # an edge, which becomes the integral of the kernel
    row = compositing.apply_method(photo, mask, "blur")[mask.alpha.shape[0] // 2, :, 0].astype(float)
    width = int((mask.alpha >= 1).any(0).sum())
    assert np.diff(row).max() <= 200 / (np.sqrt(2 * np.pi) * 0.25 * width) + 1
    assert (np.diff(row) >= 0).all()


@pytest.mark.parametrize("name", [name for name in MASKS if name != "tiny"])
def test_pixelation_blocks(name: str):
    mask = MASKS[name]
    patch = compositing.apply_method(PHOTO, mask, "pixelate").astype(int)
    for axis, others in ((0, (1, 2)), (1, (0, 2))):
        assert 1 + (np.abs(np.diff(patch, axis=axis)).max(others) > 0).sum() <= compositing.BLOCKS
    assert abs(patch.mean() - PHOTO[mask.window].mean()) < 3


def test_pixelation_blocks_of_cut_faces():
    photo = np.tile(np.arange(260, dtype=np.uint8)[:, None, None], (1, 300, 3))
    patches = [compositing.apply_method(photo, MASKS[name], "pixelate")[:, 0, 0] for name in ("full", "cut", "corner")]
    heights = [len(values) / len(np.unique(values)) for values in patches]
    assert min(heights[1:]) > 0.8 * heights[0]


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_filter_outside_the_photo(method):
    assert compositing.apply_method(PHOTO, mask_at(-900, 0, 100), method).shape == (0, 0, 3)


@pytest.mark.parametrize(
    ("photo", "method", "message"),
    [
        (PHOTO, "generate", "method generate: .* expected one of fill, blur, pixelate"),
        (PHOTO, "swirl", "method swirl: .* expected one of fill, blur, pixelate"),
        (PHOTO[:-1], "fill", "photo: expected the size of the mask's photo"),
    ],
)
def test_invalid_filter(photo, method, message):
    with pytest.raises(ValueError, match=message):
        compositing.apply_method(photo, MASKS["full"], method)


def test_filter_warnings():
    assert set(compositing.METHODS) - {"generate", "fill"} == compositing.WARNINGS.keys()
    assert all("Newton" in warning for warning in compositing.WARNINGS.values())
    assert not any("\n" in warning for warning in (*compositing.WARNINGS.values(), REGION_WARNING))


def test_fill_from_surroundings(rng: np.random.Generator) -> None:
    picture, hole = rng.random((40, 50, 3)).astype(np.float32), np.zeros((40, 50), bool)
    hole[10:30, 15:40] = True
    other = picture.copy()
    other[hole] = rng.random((int(hole.sum()), 3))
    filled = compositing.fill_from_surroundings(picture, hole)
    assert np.array_equal(filled, compositing.fill_from_surroundings(other, hole))
    assert np.array_equal(filled[~hole], picture[~hole])
    assert np.array_equal(compositing.fill_from_surroundings(picture, np.zeros_like(hole)), picture)
    assert (compositing.fill_from_surroundings(picture, np.ones_like(hole)) == 0.5).all()
    picture[:, :27], picture[:, 27:] = 0, 1
    filled = compositing.fill_from_surroundings(picture, hole)
    assert filled[20, 16].max() < 0.1 < 0.9 < filled[20, 38].min()  # the nearest side
