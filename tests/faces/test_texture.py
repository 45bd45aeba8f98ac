import cv2
import numpy as np
import pytest

from deid_diffusion.faces import texture as module
from deid_diffusion.faces.landmarks import MESH_EYES, MESH_IRISES, MESH_MOUTH, measure
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh


@pytest.mark.parametrize("step", [1, 2])
def test_dense_correspondence(step: int) -> None:
    mesh = mean_mesh(64)
    positions = module.dense_correspondence(3 * mesh + 5, mesh, 64, step)
    assert positions.shape == (64 // step, 64 // step, 2)
    inside = positions[..., 0] >= 0
    assert 0.1 < inside.mean() < 0.6
    centres = np.arange(step / 2, 64, step)
    expected = 3 * np.stack(np.meshgrid(centres, centres), -1) + 5
    assert np.abs(positions - expected)[inside].max() < 1e-3
    assert (positions[~inside] == -1).all()


def test_dense_correspondence_of_profile() -> None:
    positions = module.dense_correspondence(mean_mesh(64), mean_faces()[0] * 64, 64)
    inside = positions[..., 0] >= 0
    assert 0.05 < inside.mean() < 0.6
    x = positions[..., 0][inside]
    low, high = mean_mesh(64)[:468, 0].min(), mean_mesh(64)[:468, 0].max()
    centre = (low + high) / 2
    assert min((x < centre).mean(), (x > centre).mean()) < 0.35  # a profile shows mostly one half
    assert low - 1 <= x.min() < x.max() <= high + 1
    assert (module.dense_correspondence(mean_mesh(64), mean_mesh(64) + 1000, 64) == -1).all()  # outside the crop


def gradient(size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([columns, rows, 0.5 + 0 * rows], 2).astype(np.float32)


def test_unwrap_and_render() -> None:
    size, mesh = 128, mean_faces()[8] * 128
    texture, visibility = module.unwrap_face(gradient(size), mesh, 128)
    picture, inside = module.render_texture(texture, mesh, size)
    core = module.silhouette((mesh - 64) * 0.85 + 64, size) & inside
    assert np.abs(picture - gradient(size))[core].mean() < 0.02
    assert 0 <= visibility.min() <= visibility.max() <= 1


def test_coordinates_and_mirrored_points() -> None:
    points = module.mirrored_points()
    assert (points[points] == np.arange(478)).mean() > 0.95
    assert points[33] == 263
    uv = module.face_coordinates(module.texture_mesh(64), 64)
    inside = uv[..., 0] >= 0
    assert inside.mean() > 0.6
    assert -0.02 <= uv[inside].min() < uv[inside].max() <= 1.02


def test_mouth_of_textures_is_open() -> None:
    frame, mean = module.texture_mesh(256), mean_mesh(1)
    assert measure(frame).mouth_open > 0.2 > measure(mean).mouth_open
    scale, offset = np.polyfit(mean[list(MESH_EYES[0]), 1], frame[list(MESH_EYES[0]), 1], 1)
    upper = list(MESH_MOUTH[:11])
    assert np.abs(frame[upper, 1] - scale * mean[upper, 1] - offset).max() < 1


def test_silhouette_of_a_profile() -> None:
    mesh = mean_faces()[-1] * 128
    hull = np.zeros((128, 128), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(mesh.astype(np.float32))[:, 0].astype(np.int32), (1,))
    assert module.silhouette(mesh, 128).sum() < 0.97 * hull.sum()


def test_rendering_follows_the_gaze() -> None:
    texture, source = np.zeros((256, 256, 3), np.float32), module.texture_mesh(256)
    rows, columns = np.mgrid[:256, :256] + 0.5
    for iris in MESH_IRISES:
        x, y = source[list(iris)].mean(0)
        texture[np.hypot(columns - x, rows - y) < 5] = 1
    mesh = mean_mesh(256).copy()
    for iris in MESH_IRISES:
        mesh[list(iris), 0] += 4
    straight, averted = (module.render_texture(texture, target, 256)[0][..., 0] for target in (mean_mesh(256), mesh))
    assert 2 < (averted * columns).sum() / averted.sum() - (straight * columns).sum() / straight.sum() < 5


@pytest.mark.parametrize(("turn", "low", "high"), [(-6, 0.03, 1.0), (0, 0.0, 0.01)], ids=["profile", "frontal"])
def test_stretched_texture_is_smoothed(turn: int, low: float, high: float) -> None:
    stripes = np.broadcast_to(np.arange(64)[:, None, None] // 2 % 2, (64, 64, 3)).astype(np.float32)
    mesh, source = mean_faces()[6 + turn] * 256, module.texture_mesh(64)
    picture, inside = module.render_texture(stripes, mesh, 256)
    maps = module.follow_gaze(module.fill_folds(module.dense_correspondence(source, mesh, 256)), source, mesh) - 0.5
    sharp = cv2.remap(stripes, maps[..., 0], maps[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    assert low <= np.abs(picture - sharp)[inside].mean() < high


def test_nearest_inside(rng: np.random.Generator) -> None:
    inside = rng.random((20, 30)) < 0.1
    distance, index = module.nearest_inside(inside)
    points = np.argwhere(inside)
    rows, columns = np.indices(inside.shape)
    assert (distance[inside] == 0).all()
    assert np.array_equal(points[index[inside]], points)
    offset = points[index] - np.stack([rows, columns], -1)
    assert np.abs(np.hypot(*offset.transpose(2, 0, 1)) - distance).max() < 0.5
