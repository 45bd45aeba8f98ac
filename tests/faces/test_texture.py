"""Places on another face."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.faces.landmarks import MESH_IRISES
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh
from deid_diffusion.faces.texture import (
    dense_correspondence,
    face_coordinates,
    mirrored_points,
    render_texture,
    silhouette,
    texture_mesh,
    unwrap_face,
)


@pytest.mark.parametrize("step", [1, 2])
def test_each_pixel_lies_where_the_other_mesh_has_it(step: int) -> None:
    mesh = mean_mesh(64)
    places = dense_correspondence(3 * mesh + 5, mesh, 64, step)
    assert places.shape == (64 // step, 64 // step, 2)
    inside = places[..., 0] >= 0
    assert 0.1 < inside.mean() < 0.6
    middles = np.arange(step / 2, 64, step)
    expected = 3 * np.stack(np.meshgrid(middles, middles), -1) + 5
    assert np.abs(places - expected)[inside].max() < 1e-3
    assert (places[~inside] == -1).all()


def test_what_a_turned_head_hides_is_left_out() -> None:
    turned = mean_faces()[0] * 64
    places = dense_correspondence(mean_mesh(64), turned, 64)
    inside = places[..., 0] >= 0
    assert 0.05 < inside.mean() < 0.6
    x = places[..., 0][inside]
    low, high = mean_mesh(64)[:468, 0].min(), mean_mesh(64)[:468, 0].max()
    middle = (low + high) / 2
    assert min((x < middle).mean(), (x > middle).mean()) < 0.35  # most of what is seen is one half of the face
    assert x.min() >= low - 1
    assert x.max() <= high + 1


def test_a_face_outside_the_picture_has_no_place() -> None:
    assert (dense_correspondence(mean_mesh(64), mean_mesh(64) + 1000, 64) == -1).all()


def gradient(size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([columns, rows, 0.5 + 0 * rows], 2).astype(np.float32)


def test_a_face_unwrapped_and_rendered_again_is_the_face() -> None:
    size, mesh = 128, mean_faces()[8] * 128
    texture, seen = unwrap_face(gradient(size), mesh, 128)
    picture, inside = render_texture(texture, mesh, size)
    core = silhouette((mesh - 64) * 0.85 + 64, size) & inside
    assert np.abs(picture - gradient(size))[core].mean() < 0.02
    assert 0 <= seen.min() <= seen.max() <= 1


def test_coordinates_span_the_mean_face() -> None:
    uv = face_coordinates(texture_mesh(64), 64)
    inside = uv[..., 0] >= 0
    assert inside.mean() > 0.6
    assert uv[inside].min() >= -0.02
    assert uv[inside].max() <= 1.02


def test_a_profile_is_narrower_than_its_hull() -> None:
    import cv2

    mesh = mean_faces()[-1] * 128
    hull = np.zeros((128, 128), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(mesh.astype(np.float32))[:, 0].astype(np.int32), (1,))
    assert silhouette(mesh, 128).sum() < 0.97 * hull.sum()


def test_irises_move_to_where_the_mesh_has_them() -> None:
    texture, frame = np.zeros((256, 256, 3), np.float32), texture_mesh(256)
    rows, columns = np.mgrid[:256, :256] + 0.5
    for iris in MESH_IRISES:
        x, y = frame[list(iris)].mean(0)
        texture[np.hypot(columns - x, rows - y) < 5] = 1
    mesh = mean_mesh(256).copy()
    for iris in MESH_IRISES:
        mesh[list(iris), 0] += 4
    straight, aside = (render_texture(texture, one, 256)[0][..., 0] for one in (mean_mesh(256), mesh))
    middle = lambda picture: (picture * columns).sum() / picture.sum()  # noqa: E731
    assert 2 < middle(aside) - middle(straight) < 5


def test_mirrored_points_are_their_own_inverse() -> None:
    points = mirrored_points()
    assert (points[points] == np.arange(478)).mean() > 0.95
    assert points[33] == 263


def test_detail_that_a_profile_stretches_is_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    stripes = np.broadcast_to(np.arange(64)[:, None, None] // 2 % 2, (64, 64, 3)).astype(np.float32)
    smooth = [render_texture(stripes, mean_faces()[yaw] * 256, 256)[0] for yaw in (0, 6)]
    monkeypatch.setattr("deid_diffusion.faces.texture._EVEN", -1.0)
    monkeypatch.setattr("deid_diffusion.faces.texture._UNEVEN", -2.0)
    raw = [render_texture(stripes, mean_faces()[yaw] * 256, 256) for yaw in (0, 6)]
    changed = [np.abs(ours - face)[inside].mean() for ours, (face, inside) in zip(smooth, raw, strict=True)]
    assert changed[0] > 0.03
    assert changed[1] < 0.01
