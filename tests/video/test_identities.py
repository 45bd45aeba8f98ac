"""Smoothing of meshes and colours: noise is reduced, real changes pass."""

import numpy as np

from deid_diffusion.video.identities import smooth_colour, smooth_shape


def test_smooth_shape():
    rng = np.random.default_rng(0)
    mesh = rng.uniform(0, 128, (478, 2)).astype(np.float32)
    noisy = [mesh + rng.normal(0, 1, mesh.shape).astype(np.float32) for _ in range(30)]
    calm = [noisy[0]]
    for mesh_now in noisy[1:]:
        calm.append(smooth_shape(mesh_now, calm[-1]))
    steps = [np.abs(np.diff(np.array(meshes), axis=0)).mean() for meshes in (noisy, calm)]
    assert steps[1] < 0.6 * steps[0]
    late = calm[-1]
    for _ in range(6):
        late = smooth_shape(mesh + 20, late)
    assert np.abs(late - mesh - 20).max() < 0.2
    assert smooth_shape(mesh, None) is mesh


def test_smooth_colour():
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    dark, bright = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 105, np.uint8)
    first, colour = smooth_colour(dark, mask, None)
    assert first is dark
    second, colour = smooth_colour(bright, mask, colour)
    assert (second == 102).all()
    lit, _ = smooth_colour(np.full((32, 32, 3), 180, np.uint8), mask, colour)
    assert (lit == 174).all()
    nothing, same = smooth_colour(bright, np.zeros((32, 32), bool), colour)
    assert nothing is bright
    assert same is colour
