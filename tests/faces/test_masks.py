import numpy as np
import pytest

from deid_diffusion.faces.alignment import invert, similarity, transform
from deid_diffusion.faces.compositing import FILL, Canvas
from deid_diffusion.faces.masks import (
    PasteMask,
    box_mask,
    box_outline,
    keep_regions,
    limit_mask,
    paste_mask,
    union_mask,
)
from deid_diffusion.faces.semantic_map import LABEL, REGIONS, draw_semantic_map, mean_mesh
from tests.faces.conftest import mean_face_mask

SHAPE = (300, 320)
LABELS = draw_semantic_map(mean_mesh(128), 128)


@pytest.mark.parametrize("side", [30.0, 160.0, 400.0])
def test_mask_is_opaque_on_the_mesh(side: float) -> None:
    matrix = similarity((200, 220), side, 0.2, 128)
    alpha = mean_face_mask(matrix, (440, 400)).full()
    points = np.floor(transform(mean_mesh(128), invert(matrix))).astype(int)
    assert (alpha[points[:, 1], points[:, 0]] == 1).all()
    assert alpha[0, 0] == 0
    assert 0 < ((alpha > 0) & (alpha < 1)).sum() < (alpha == 1).sum()


def test_mask_at_the_photo_edge() -> None:
    assert mean_face_mask(similarity((0, 100), 160, 0.0, 128), SHAPE).full()[100, 0] == 1
    outside = mean_face_mask(similarity((-900, 100), 160, 0.0, 128), SHAPE)
    assert not outside.alpha.size
    assert not outside.full().any()


def test_box_outline_covers_the_box() -> None:
    matrix = similarity((50, 50), 100, 0.0, 100)
    outline = transform(box_outline((30, 30, 70, 80), matrix), invert(matrix))
    assert (outline.min(0) < (30, 30)).all()
    assert (outline.max(0) > (70, 80)).all()


def test_box_mask_covers_more_than_the_box() -> None:
    masks = [box_mask((170.0, 60.0, 270.0, 190.0), SHAPE), box_mask((40.0, 30.0, 50.0, 44.0), SHAPE)]
    alpha = masks[0].full()
    assert alpha[60:190, 170:270].all()
    assert (alpha[45, 200], alpha[280, 20]) == (1, 0)
    assert not box_mask((400.0, 400.0, 420.0, 420.0), (50, 50)).full().any()
    assert np.array_equal(union_mask(SHAPE, masks), np.any([mask.full() > 0 for mask in masks], axis=0))


@pytest.mark.parametrize(
    ("x", "box", "inside"),
    [(100, (70.0, 40.0, 130.0, 160.0), np.s_[45:155, 75:125]), (0, (0.0, 30.0, 70.0, 170.0), np.s_[:, :55])],
    ids=["near the box", "cut box"],
)
def test_limit_mask(x: int, box: tuple[float, float, float, float], inside: tuple[slice, slice]) -> None:
    matrix = similarity((x, 100), 200, 0.0, 128)
    alpha = mean_face_mask(matrix, SHAPE).full()
    limited = limit_mask(mean_face_mask(matrix, SHAPE), box, matrix, 128).full()
    assert (limited[inside] == alpha[inside]).all()
    if x:
        assert alpha[100, 145] == 1
        assert not limited[:, 145:].any()


def scene(side: float, centre: tuple[float, float] = (160, 150)) -> tuple[PasteMask, np.ndarray]:
    matrix = similarity(centre, side, 0.2, 128)
    return mean_face_mask(matrix, SHAPE), matrix


def keep(mask: PasteMask, matrix: np.ndarray, *regions: str, labels: np.ndarray = LABELS) -> PasteMask:
    return keep_regions(mask, labels, matrix, frozenset(regions), 128)


def pixels_of(matrix: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the photo's pixels inside a region."""
    rows, columns = np.nonzero(np.isin(LABELS, [LABEL[name] for name in REGIONS[region]]))
    points = transform(np.stack([columns, rows], 1).astype(np.float32), invert(matrix)).round().astype(int)
    points = points[((points >= 0) & (points < SHAPE[::-1])).all(1)]
    return points[:, 1], points[:, 0]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("side", [160.0, 420.0])
def test_kept_region_is_left_out(region: str, side: float):
    mask, matrix = scene(side)
    kept = keep(mask, matrix, region)
    share = 0.97 if region == "skin" else 1  # at its borders another region may win a pixel
    assert (kept.full()[pixels_of(matrix, region)] == 0).mean() >= share
    assert (kept.alpha <= mask.alpha).all()
    assert kept.alpha.dtype == np.float32
    assert (kept.top, kept.left, kept.photo_shape) == (mask.top, mask.left, mask.photo_shape)
    for other in REGIONS.keys() - {region, "skin"}:  # a pixel of the map is up to three of the photo
        assert (kept.full()[pixels_of(matrix, other)] == 1).mean() > 0.95, other


def test_kept_region_is_feathered():
    mask, matrix = scene(400)
    kept = keep(mask, matrix, "mouth")
    face = mask.alpha >= 1
    feather = face & (kept.alpha > 0) & (kept.alpha < 1)
    free = face & (kept.alpha == 0)
    assert 0 < feather.sum() < free.sum()
    assert np.abs(np.diff(kept.alpha[face.any(1)], axis=0)).max() < 0.35
    assert free.sum() < 1.6 * len(pixels_of(matrix, "mouth")[0]) * (400 / 128) ** 2


def test_canvas_shows_the_kept_region_only(rng):
    photo = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    mask, matrix = scene(300)
    kept = keep(mask, matrix, "eyes")
    canvas = Canvas(photo, [kept], "grey")
    canvas.paste(0, np.full((128, 128, 3), 9, np.uint8), matrix)
    eyes = pixels_of(matrix, "eyes")
    assert np.array_equal(canvas.pixels[eyes], photo[eyes])
    assert (canvas.pixels[kept.full() == 1] == 9).all()
    canvas.cover(0)
    assert np.array_equal(canvas.pixels[eyes], photo[eyes])
    assert (canvas.pixels[kept.full() > 0] == FILL).all()


@pytest.mark.parametrize("x", [0, 160], ids=["photo edge", "inside"])
def test_several_kept_regions(x: int):
    mask, matrix = scene(200, (x, 150))
    eyes, mouth = keep(mask, matrix, "eyes"), keep(mask, matrix, "mouth")
    assert np.allclose(keep(mask, matrix, "eyes", "mouth").alpha, np.minimum(eyes.alpha, mouth.alpha))
    assert (eyes.full()[pixels_of(matrix, "eyes")] == 0).all()
    assert (eyes.alpha == 1).any()


@pytest.mark.parametrize(
    ("x", "regions", "labels"),
    [(-900, ("eyes",), LABELS), (160, (), LABELS), (160, ("eyes",), np.zeros_like(LABELS))],
    ids=["outside the photo", "no regions", "empty map"],
)
def test_mask_without_kept_pixels(x, regions, labels):
    mask, matrix = scene(200, (x, 150))
    assert keep(mask, matrix, *regions, labels=labels) is mask


def test_kept_region_ends_at_the_crop_edge():
    _, matrix = scene(200)
    wide = np.array([(-90, 30), (90, 30), (90, 90), (-90, 90)], np.float32)
    labels = np.zeros_like(LABELS)
    labels[:, :40] = LABEL["nose"]
    kept = keep(paste_mask([wide], matrix, SHAPE, 128), matrix, "nose", labels=labels)
    x, y = transform(np.array([(-40, 60)], np.float32), invert(matrix)).round().astype(int)[0]
    assert kept.full()[y, x] == 1


@pytest.mark.parametrize(
    ("regions", "labels", "message"),
    [
        (("hair", "ears", "eyes"), LABELS, "regions ears, hair: unknown; choose from skin, brows, eyes, nose, mouth"),
        (tuple(REGIONS), LABELS, "keeping all of them leaves the face unchanged"),
        (("eyes",), LABELS[:64], "semantic_map: expected shape"),
    ],
)
def test_invalid_kept_regions(regions: tuple[str, ...], labels: np.ndarray, message: str):
    mask, matrix = scene(200)
    with pytest.raises(ValueError, match=message):
        keep(mask, matrix, *regions, labels=labels)
