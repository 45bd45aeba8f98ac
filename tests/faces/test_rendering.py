import cv2
import numpy as np
import pytest

from deid_diffusion.faces import rendering
from deid_diffusion.faces.landmarks import MESH_MOUTH
from deid_diffusion.faces.lighting import FaceLight
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.faces.texture import silhouette, texture_mesh

SIZE = 128
MESH = mean_mesh(SIZE)
LIGHT = FaceLight(np.vstack([(-0.5, -0.8, -1.0), np.zeros((5, 3))]))
ERASED = np.zeros((SIZE, SIZE), bool)
ERASED[16:116, 16:112] = True


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """A lit texture of a single colour."""
    return rendering.light_texture(np.zeros((64, 64, 3), np.float32), LIGHT)


def uniform(colour: tuple[float, ...], dtype: type = np.float32) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), colour, dtype)


def test_render_on_a_different_background(texture: np.ndarray) -> None:
    assert np.abs(texture - texture[32, 32]).max() < 0.02
    assert texture[32, 32, 0] > texture[32, 32, 1] > texture[32, 32, 2]
    colour = (0.1, 0.6, 0.2)
    ground = uniform(colour)
    picture = rendering.render_person(texture, MESH, ground, ERASED)
    inside = silhouette(MESH, SIZE)
    beside = ERASED & ~(cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) > 0)
    assert np.abs(picture[beside] - colour).max() < 0.02
    assert np.abs(picture[60:70, 60:70] - colour).max() > 0.2
    assert np.array_equal(picture[~ERASED & ~inside], ground[~ERASED & ~inside])


@pytest.mark.parametrize(("height", "row", "continued"), [(5, 4, True), (None, 14, False)], ids=["near", "far"])
def test_forehead_continues_to_near_hair(texture: np.ndarray, height: int | None, row: int, continued: bool) -> None:
    hair = (0.02, 0.02, 0.02)
    top, column = int(MESH[10, 1]), int(MESH[10, 0])
    erased = ERASED.copy()
    erased[: SIZE // 2] = False
    erased[top - (height or top) : SIZE // 2, 16:112] = True
    pixel = rendering.render_person(texture, MESH, uniform(hair), erased)[top - row, column]
    expected, tolerance = (texture[32, 32], 0.05) if continued else (hair, 0.02)
    assert np.abs(pixel - expected).max() < tolerance


def test_render_matches_surrounding_skin(texture: np.ndarray) -> None:
    skin = texture[32, 32] + np.float32(0.06)
    picture = rendering.render_person(texture, MESH, uniform(skin), ERASED)
    inside = silhouette(MESH, SIZE)
    edge = inside & ~silhouette((MESH - 64) * 0.93 + 64, SIZE)
    assert np.abs(picture[edge] - skin).mean() < 0.03
    assert np.abs(picture[ERASED & ~inside] - skin).mean() < 0.02


def test_read_light() -> None:
    crop = uniform((180, 140, 120), np.uint8)
    light = rendering.read_light(crop, MESH)
    assert light is not None
    assert light.contrast < 0.02
    assert rendering.read_light(crop, MESH + 1000) is None


def test_match_camera_blurs(rng: np.random.Generator) -> None:
    noise = rng.random((SIZE, SIZE, 3)).astype(np.float32) * 0.3 + 0.4
    assert rendering.read_camera(uniform((120, 120, 120), np.uint8), MESH).detail < 0.01
    blurred = rendering.match_camera(noise, MESH, np.ones((SIZE, SIZE), bool), rendering.Camera(0.02))
    detail = rendering.read_camera((blurred * 255).astype(np.uint8), MESH).detail
    assert detail < 0.03 < rendering.read_camera((noise * 255).astype(np.uint8), MESH).detail


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (1.15, 0.98, 0.7), (0.95, 1.0, 1.12)])
def test_monochrome_photo_tints_the_face(rng: np.random.Generator, tone: tuple[float, float, float]) -> None:
    photo = (rng.uniform(20, 200, (SIZE, SIZE, 1)) * np.array(tone)).clip(0, 255).round().astype(np.uint8)
    crop = uniform((150, 110, 90), np.uint8)
    tinted = rendering.keep_tint(crop, photo, ERASED)
    expected = np.array(tone) / (np.array(tone) @ (0.299, 0.587, 0.114)) * (crop[0, 0] @ (0.299, 0.587, 0.114))
    assert np.abs(tinted[ERASED] - expected).max() < 3
    assert np.array_equal(tinted[~ERASED], crop[~ERASED])


def test_coloured_photo_has_no_tint(rng: np.random.Generator) -> None:
    photo = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    crop = uniform((180, 140, 120), np.uint8)
    assert np.array_equal(rendering.keep_tint(crop, photo, ERASED), crop)
    assert np.array_equal(rendering.keep_tint(crop, photo, np.ones_like(ERASED)), crop)


@pytest.fixture
def open_mouth() -> np.ndarray:
    mesh = MESH.copy()
    mesh[list(MESH_MOUTH[11:]), 1] += 20
    return mesh


def test_darken_mouth(open_mouth: np.ndarray) -> None:
    mesh, face = open_mouth, uniform((0.6,))
    rendering.darken_mouth(face, mesh)
    x, top, bottom = int(mesh[13, 0]), int(np.ceil(mesh[13, 1])), int(mesh[14, 1])
    assert face[bottom - 2, x, 0] < 0.35
    assert face[top + 1, x, 0] > 0.5
    outside = np.ones((SIZE, SIZE), bool)
    outside[top - 6 : bottom + 6] = False
    assert (face[outside] == np.float32(0.6)).all()
    full = uniform((0.6,))
    rendering.darken_mouth(full, mesh, rendering.Teeth(0.0, 1.0, (0, 0, 0)))
    assert (full == np.float32(0.6)).all()


def test_mouth_takes_the_colour_of_teeth() -> None:
    texture = np.full((64, 64, 3), -0.2, np.float32)
    changed = rendering.match_mouth(texture, rendering.Teeth(0.0, 0.5, (0.0, 0.1, 0.2)))
    x, y = texture_mesh(64)[list(MESH_MOUTH)].mean(0).astype(int)
    assert changed[y, x] == pytest.approx([0.0, 0.1, 0.2], abs=0.02)
    assert np.array_equal(changed[:32], texture[:32])


@pytest.mark.parametrize("extent", [0.0, 0.5, 1.0])
def test_teeth_are_read(open_mouth: np.ndarray, extent: float) -> None:
    crop, skin = uniform((150, 110, 90), np.uint8), uniform((150, 110, 90), np.uint8)
    top, bottom = open_mouth[13, 1], open_mouth[14, 1]
    rows = np.arange(SIZE)[:, None, None]
    crop = np.where((rows > top - 1) & (rows < bottom + 1), np.uint8(15), crop)
    crop = np.where((rows > top - 1) & (rows < top + extent * (bottom - top)), np.uint8(200), crop)
    light = rendering.read_light(skin, open_mouth)
    teeth = rendering.read_teeth(crop, open_mouth, light)
    assert teeth is not None
    assert abs(teeth.extent - extent) <= 0.25
    assert (teeth.brightness > 0.2) == (extent == 1)
    if extent:
        assert teeth.colour[2] > teeth.colour[0] > 0.1  # white teeth are bluer than skin
    assert (teeth.brightness < -1) == (extent == 0)
    shut = open_mouth.copy()
    shut[list(MESH_MOUTH[11:])] = shut[list(MESH_MOUTH[9:0:-1])]
    assert rendering.read_teeth(crop, shut, light) is None
    assert rendering.read_teeth(crop, open_mouth, None) is None


def test_closed_mouth() -> None:
    face = uniform((0.6,))
    rendering.darken_mouth(face, MESH)
    assert (face == np.float32(0.6)).all()
