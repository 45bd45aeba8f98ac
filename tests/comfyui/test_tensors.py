import numpy as np
import pytest
import torch

from deid_diffusion.comfyui.tensors import changed, to_image, to_mask, to_photos
from deid_diffusion.errors import UsageError


def test_eight_bits_come_back_as_they_were() -> None:
    """Through ComfyUI's own way to a file, which rounds down."""
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    image = to_image([picture])
    assert image.dtype == torch.float32
    assert np.array_equal(to_photos(image)[0], picture)
    assert np.array_equal(np.clip(255.0 * image[0].numpy(), 0, 255).astype(np.uint8), picture)


def test_values_outside_are_clipped_and_between_are_rounded() -> None:
    image = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0]).view(1, 2, 2, 1).expand(1, 2, 2, 3)
    assert to_photos(image)[0][..., 0].ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (4, 4, 3), (0, 4, 4, 3), (1, 3, 4, 4)])
def test_what_is_no_batch_of_rgb_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected a batch of RGB pictures"):
        to_photos(torch.zeros(shape))


def test_nan_is_refused() -> None:
    with pytest.raises(UsageError, match="no numbers"):
        to_photos(torch.full((1, 2, 2, 3), float("nan")))


def test_masks() -> None:
    before = np.zeros((2, 3, 3), np.uint8)
    after = before.copy()
    after[1, 2, 1] = 9
    mask = to_mask([changed(before, after)])
    assert mask.shape == (1, 2, 3)
    assert mask.sum() == mask[0, 1, 2] == 1
