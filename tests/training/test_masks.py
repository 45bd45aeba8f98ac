import numpy as np

from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.training.masks import random_mask


def test_masks_always_cover_the_face_and_come_in_many_shapes() -> None:
    rng = np.random.default_rng(0)
    points = np.round(mean_mesh(64)).astype(int)
    masks = [random_mask(mean_mesh(64), 64, rng) for _ in range(120)]
    assert all(mask[points[:, 1], points[:, 0]].all() for mask in masks)
    sizes = {int(mask.sum()) for mask in masks}
    assert len(sizes) > 10
    assert 64 * 64 in sizes  # now and then everything
