import cv2
import numpy as np
import pytest

from deid_diffusion.faces.landmarks import MESH_MOUTH
from deid_diffusion.faces.lighting import FaceLight
from deid_diffusion.faces.rendering import (
    Camera,
    darken_mouth,
    keep_tint,
    light_texture,
    match_camera,
    read_camera,
    read_light,
    render_person,
)
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.faces.texture import silhouette

SIZE = 128
MESH = mean_mesh(SIZE)
LIGHT = FaceLight(np.vstack([(-0.5, -0.8, -1.0), np.zeros((5, 3))]))
ERASED = np.zeros((SIZE, SIZE), bool)
ERASED[16:116, 16:112] = True


def test_a_texture_takes_the_light() -> None:
    face = light_texture(np.zeros((64, 64, 3), np.float32), LIGHT)
    assert np.abs(face - face[32, 32]).max() < 0.02
    assert face[32, 32, 0] > face[32, 32, 1] > face[32, 32, 2]


def test_the_face_lies_on_the_ground() -> None:
    context = np.full((SIZE, SIZE, 3), (0.1, 0.6, 0.2), np.float32)
    picture = render_person(light_texture(np.zeros((64, 64, 3), np.float32), LIGHT), MESH, context, ERASED)
    inside = silhouette(MESH, SIZE)
    beside = ERASED & ~(cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) > 0)
    assert np.abs(picture[beside] - (0.1, 0.6, 0.2)).max() < 0.02
    assert np.abs(picture[60:70, 60:70] - (0.1, 0.6, 0.2)).max() > 0.2
    assert np.array_equal(picture[~ERASED & ~inside], context[~ERASED & ~inside])


def test_the_forehead_goes_on_to_where_the_mask_ends_and_no_farther() -> None:
    context = np.full((SIZE, SIZE, 3), (0.02, 0.02, 0.02), np.float32)  # dark hair
    face = light_texture(np.zeros((64, 64, 3), np.float32), LIGHT)
    top, column = int(MESH[10, 1]), int(MESH[10, 0])
    near, far = (render_person(face, MESH, context, _erased(top - depth)) for depth in (5, top))
    assert np.abs(near[top - 4, column] - face[32, 32]).max() < 0.05
    assert np.abs(far[top - 14, column] - context[0, 0]).max() < 0.02


def _erased(top: int) -> np.ndarray:
    mask = ERASED.copy()
    mask[:top] = False
    mask[top : SIZE // 2, 16:112] = True
    return mask


def test_skin_that_surrounds_the_face_sets_its_colour_at_the_rim() -> None:
    face = light_texture(np.zeros((64, 64, 3), np.float32), LIGHT)
    near = (face[32, 32] + 0.06).astype(np.float32)
    picture = render_person(face, MESH, np.broadcast_to(near, (SIZE, SIZE, 3)).copy(), ERASED)
    inside = silhouette(MESH, SIZE)
    rim = inside & ~silhouette((MESH - 64) * 0.93 + 64, SIZE)
    assert np.abs(picture[rim] - near).mean() < 0.03
    assert np.abs(picture[ERASED & ~inside] - near).mean() < 0.02


def test_light_is_read_from_skin() -> None:
    crop = np.full((SIZE, SIZE, 3), (180, 140, 120), np.uint8)
    light = read_light(crop, MESH)
    assert light is not None
    assert light.contrast < 0.02
    assert read_light(crop, MESH + 1000) is None


def test_a_sharp_face_is_blurred_to_the_camera() -> None:
    noise = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32) * 0.3 + 0.4
    mask = np.ones((SIZE, SIZE), bool)
    flat = read_camera(np.full((SIZE, SIZE, 3), 120, np.uint8), MESH)
    assert flat.detail < 0.01
    soft = match_camera(noise, MESH, mask, Camera(0.02))
    detail = read_camera((soft * 255).astype(np.uint8), MESH).detail
    assert detail < 0.03 < read_camera((noise * 255).astype(np.uint8), MESH).detail


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (1.15, 0.98, 0.7), (0.95, 1.0, 1.12)])
def test_a_photo_of_one_tint_keeps_it(tone: tuple[float, float, float]) -> None:
    """Grey, sepia, blued: the new face's colours are those that its luminances have in the photo."""
    rng = np.random.default_rng(0)
    photo = (rng.uniform(20, 200, (SIZE, SIZE, 1)) * np.array(tone)).clip(0, 255).round().astype(np.uint8)
    crop = np.full((SIZE, SIZE, 3), (150, 110, 90), np.uint8)
    toned = keep_tint(crop, photo, ERASED)
    wanted = np.array(tone) / (np.array(tone) @ (0.299, 0.587, 0.114)) * (crop[0, 0] @ (0.299, 0.587, 0.114))
    assert np.abs(toned[ERASED] - wanted).max() < 3
    assert np.array_equal(toned[~ERASED], crop[~ERASED])


def test_a_photo_of_several_colours_leaves_the_face_its_own() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    crop = np.full((SIZE, SIZE, 3), (180, 140, 120), np.uint8)
    assert np.array_equal(keep_tint(crop, photo, ERASED), crop)
    assert np.array_equal(keep_tint(crop, photo, np.ones_like(ERASED)), crop)


def test_an_open_mouth_is_dark_below_the_teeth() -> None:
    mesh = MESH.copy()
    lower = list(MESH_MOUTH[11:])
    mesh[lower, 1] += 20
    face = np.full((SIZE, SIZE, 3), 0.6, np.float32)
    darken_mouth(face, mesh)
    x, top, bottom = int(mesh[13, 0]), int(np.ceil(mesh[13, 1])), int(mesh[14, 1])
    assert face[bottom - 2, x, 0] < 0.35
    assert face[top + 1, x, 0] > 0.5
    outside = np.ones((SIZE, SIZE), bool)
    outside[top - 6 : bottom + 6] = False
    assert (face[outside] == 0.6).all()
    closed = np.full((SIZE, SIZE, 3), 0.6, np.float32)
    darken_mouth(closed, MESH)
    assert (closed == 0.6).all()
