"""The simple methods leave no sharp pixel of the original, and say that a trace stays."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.blend import FILL
from deid_diffusion.faces.crop import similarity
from deid_diffusion.faces.mask import PasteMask, box_mask, face_outline, paste_mask
from deid_diffusion.faces.methods import BLOCKS, METHODS, WARNINGS, simple_patch
from deid_diffusion.faces.semantic_map import mean_mesh

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
    assert (simple_patch(PHOTO, MASKS[name], "fill") == FILL).all()


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
@pytest.mark.parametrize("name", MASKS)
def test_a_patch_has_the_windows_size_and_reads_nothing_else(name: str, method):
    mask = MASKS[name]
    patch = simple_patch(PHOTO, mask, method)
    assert patch.shape == (*mask.alpha.shape, 3)
    assert patch.dtype == np.uint8
    other = np.zeros_like(PHOTO)
    other[mask.window] = PHOTO[mask.window]
    assert np.array_equal(simple_patch(other, mask, method), patch)


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
            assert simple_patch(photo, mask, method).max() <= 255 / 4, (row, column)


@pytest.mark.parametrize("name", ["whole", "cut", "corner"])
def test_blur_is_a_gaussian_of_a_quarter_of_the_faces_width(name: str):
    mask = MASKS[name]
    photo = np.zeros_like(PHOTO)
    column = mask.left + mask.alpha.shape[1] // 2
    photo[:, column:] = 200  # an edge becomes the integral of the kernel: 16 to 84 % within two standard deviations
    row = simple_patch(photo, mask, "blur")[mask.alpha.shape[0] // 2, :, 0].astype(float)
    rise = float(np.diff(row).max())
    assert rise <= 200 / (np.sqrt(2 * np.pi) * 0.25 * _face_width(mask)) + 1
    assert (np.diff(row) >= 0).all()


@pytest.mark.parametrize("name", [name for name in MASKS if name != "tiny"])
def test_pixelation_leaves_few_blocks(name: str):
    mask = MASKS[name]
    patch = simple_patch(PHOTO, mask, "pixelate").astype(int)
    across = 1 + (np.abs(np.diff(patch, axis=1)).max((0, 2)) > 0).sum()
    down = 1 + (np.abs(np.diff(patch, axis=0)).max((1, 2)) > 0).sum()
    assert across <= BLOCKS
    assert down <= BLOCKS
    assert abs(patch.mean() - PHOTO[mask.window].mean()) < 3  # the means are of the face, not of anything else


def test_of_a_face_cut_by_the_edge_the_blocks_are_as_large_as_those_of_a_whole_face():
    photo = np.tile(np.arange(260, dtype=np.uint8)[:, None, None], (1, 300, 3))
    heights = []
    for name in ("whole", "cut", "corner"):
        values = simple_patch(photo, MASKS[name], "pixelate")[:, 0, 0]
        heights.append(len(values) / len(np.unique(values)))
    assert min(heights[1:]) > 0.8 * heights[0]


@pytest.mark.parametrize("method", ["fill", "blur", "pixelate"])
def test_a_face_outside_the_photo_has_an_empty_patch(method):
    assert simple_patch(PHOTO, _mask(-900, 0, 100), method).shape == (0, 0, 3)


def test_other_methods_and_other_photos_are_refused():
    for method in ("synth", "swirl"):
        with pytest.raises(ValueError, match=f"method {method}: .* expected one of fill, blur, pixelate"):
            simple_patch(PHOTO, MASKS["whole"], method)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="photo: "):
        simple_patch(PHOTO[:-1], MASKS["whole"], "fill")


def test_every_method_that_leaves_a_trace_has_its_warning():
    assert set(METHODS) - {"synth", "fill"} == WARNINGS.keys()
    assert all("\n" not in line and "Newton" in line for line in WARNINGS.values())
