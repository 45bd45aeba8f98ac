import numpy as np
import pytest
import torch

from deid_diffusion.training.data import sample_items
from deid_diffusion.training.generator import generation_sheet, tile
from deid_diffusion.training.vae import reconstruction_sheet
from tests.training.line import Points


def test_tile_and_sample_items() -> None:
    sheet = tile([-torch.ones(3, 3, 8, 8), torch.ones(3, 3, 8, 8)])
    assert (sheet.shape, sheet.dtype) == ((3 * 10 + 2, 2 * 10 + 2, 3), np.uint8)
    assert (sheet[2:10, 2:10] == 0).all()
    assert (sheet[22:30, 12:20] == 255).all()
    assert sample_items(Points(), 4)["x"].flatten().tolist() == pytest.approx([-1, -9 / 19, 1 / 19, 11 / 19])
    assert len(sample_items(Points(), 99)["x"]) == 20


def test_reconstruction_sheet(tiny_pipeline) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    sheet = reconstruction_sheet(tiny_pipeline.vae, pixels)
    assert sheet.shape == (2 * 34 + 2, 2 * 34 + 2, 3)
    assert np.abs(sheet[2:34, 2:34] - ((pixels[0] + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.5


def test_generation_sheet(tiny_pipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"latents": (4, 16, 16), "masked_latents": (4, 16, 16), "mask": (1, 16, 16), "control": (3, 32, 32)}
    batch = {name: torch.rand(2, *shape, generator=generator) for name, shape in shapes.items()}
    scheduler = type(tiny_pipeline.scheduler).from_config(tiny_pipeline.scheduler.config)
    models = tiny_pipeline.unet, tiny_pipeline.controlnet, scheduler, tiny_pipeline.vae

    def draw(seed: int = 0) -> np.ndarray:
        return generation_sheet(*models, batch, torch.zeros(2, 12, 16), steps=2, seed=seed)

    before = torch.get_rng_state()
    first = draw()
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert np.array_equal(first, draw())  # by its seed, not by the global random state
    other = draw(seed=1)
    assert first.shape == (2 * 34 + 2, 4 * 34 + 2, 3)
    assert np.abs(first[2:34, 2:34] - 255 * batch["control"][0].permute(1, 2, 0).numpy()).max() <= 0.51
    generated = np.s_[:, 70:104]
    assert not np.array_equal(first[generated], other[generated])
    assert np.array_equal(np.delete(first, generated[1], 1), np.delete(other, generated[1], 1))
    assert scheduler.num_inference_steps is None
