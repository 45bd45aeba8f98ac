import numpy as np
import pytest
import torch

from deid_diffusion.training.data import sample_items
from deid_diffusion.training.generator import generation_sheet, tile
from deid_diffusion.training.vae import reconstruction_sheet
from tests.training.line import Points


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two faces of the tiny pipeline's sizes."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"latents": (4, 16, 16), "masked_latents": (4, 16, 16), "mask": (1, 16, 16), "control": (3, 32, 32)}
    return {name: torch.rand(2, *shape, generator=draw) for name, shape in shapes.items()}


def test_tile() -> None:
    black, white = -torch.ones(3, 3, 8, 8), torch.ones(3, 3, 8, 8)
    sheet = tile([black, white])
    assert sheet.shape == (3 * 10 + 2, 2 * 10 + 2, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[2:10, 2:10] == 0).all()
    assert (sheet[22:30, 12:20] == 255).all()


def test_sample_items() -> None:
    assert sample_items(Points(), 4)["x"].flatten().tolist() == pytest.approx([-1, -9 / 19, 1 / 19, 11 / 19])
    assert len(sample_items(Points(), 99)["x"]) == 20


def test_reconstruction_sheet(tiny_pipeline) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    sheet = reconstruction_sheet(tiny_pipeline.vae, pixels)
    assert sheet.shape == (2 * 34 + 2, 2 * 34 + 2, 3)
    assert np.abs(sheet[2:34, 2:34] - ((pixels[0] + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.5


def test_generation_sheet(tiny_pipeline, batch: dict[str, torch.Tensor]) -> None:
    models, tokens = tiny_pipeline, torch.zeros(2, 12, 16)
    scheduler = type(models.scheduler).from_config(models.scheduler.config)

    def draw(seed: int = 0) -> np.ndarray:
        return generation_sheet(
            models.unet, models.controlnet, scheduler, models.vae, batch, tokens, steps=2, seed=seed
        )

    before = torch.get_rng_state()
    first = draw()
    torch.rand(3)
    after = torch.get_rng_state()
    assert np.array_equal(first, draw())
    assert torch.equal(after, torch.get_rng_state())
    torch.set_rng_state(before)
    torch.rand(3)
    assert torch.equal(after, torch.get_rng_state())
    other = draw(seed=1)
    assert first.shape == (2 * 34 + 2, 4 * 34 + 2, 3)
    assert np.abs(first[2:34, 2:34] - 255 * batch["control"][0].permute(1, 2, 0).numpy()).max() <= 0.51
    generated = np.s_[:, 70:104]
    assert not np.array_equal(first[generated], other[generated])
    assert np.array_equal(np.delete(first, generated[1], 1), np.delete(other, generated[1], 1))
    assert scheduler.num_inference_steps is None
