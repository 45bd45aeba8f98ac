from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import AttributeSubspace
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training import generator as module
from deid_diffusion.training.data import LatentFaces, sample_items
from deid_diffusion.training.generator import generation_sheet, tile
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import reconstruction_sheet
from tests.training.line import Points, line_config


def test_fit_erasure() -> None:
    """Two pictures of each person: identity on axis 0, a known attribute on axis 1, noise elsewhere."""
    torch.manual_seed(0)
    person, known = torch.randn(2, 4000, 1)
    axes = torch.cat([2 * person, known, torch.zeros(4000, 3)], 1)
    first, second = axes + 0.3 * torch.randn(2, 4000, 5)
    erasure = module.fit_erasure(first, second, known, rank=1)
    remaining = ((first - first.mean(0)) @ erasure.T).std(0) / first.std(0)
    assert remaining[0] < 0.1
    assert remaining[1] > 0.9
    assert torch.allclose(erasure @ erasure, erasure, atol=1e-4)  # idempotent
    assert torch.allclose(module.fit_erasure(first, second, known, rank=0), torch.eye(5), atol=1e-4)


def test_crop_pairs() -> None:
    files = ["a", "b", "a", "c", "a", "b"]
    pairs = module.crop_pairs(files, np.random.default_rng(0))
    assert len(pairs) == 2
    assert all(files[i] == files[k] and i != k for i, k in pairs)


@pytest.fixture
def gender_subspace() -> AttributeSubspace:
    return AttributeSubspace.from_phrases({"gender": ("woman", "man")}, lambda texts: torch.eye(len(texts), 4))


def test_phrase_scale(gender_subspace: AttributeSubspace) -> None:
    facts = [{"person": "woman"}, {"person": "man"}] * 40
    features = 0.25 * gender_subspace.directions["gender"].repeat(40, 1)
    assert module.phrase_scale(features, gender_subspace, facts) == pytest.approx(0.25)
    assert module.phrase_scale(features, gender_subspace, [{}] * 80) == 1.0


def test_initialize_adapter(gender_subspace: AttributeSubspace) -> None:
    torch.manual_seed(0)
    adapter, features = AttributeAdapter(4, 6, 2, 8), torch.randn(40, 6, 4) + 1
    facts, files = [{"person": "man"}] * 40, [f"{k // 2}.jpg" for k in range(40)]
    module.initialize_adapter(adapter, features, facts, files, gender_subspace, rank=1, seed=0)
    assert torch.allclose(adapter.centre, features.mean(0))
    assert not torch.equal(adapter.erasure, torch.eye(4))


@pytest.fixture
def repulsion(tiny_pipeline) -> module.IdentityRepulsion:
    return module.IdentityRepulsion(tiny_pipeline.vae, lambda face: face.mean((2, 3)) + 0.01, weight=1.0, side=8)


def test_identity_repulsion(repulsion: module.IdentityRepulsion) -> None:
    torch.manual_seed(0)
    original = torch.randn(2, 4, 16, 16)
    predicted = original.clone().requires_grad_()
    same = repulsion(predicted, original, torch.ones(2))
    same.backward()
    assert same > 0.7  # cosine 1, margin 0.2
    assert predicted.grad.abs().sum() >= 0
    assert repulsion(original, original, torch.zeros(2)) == 0  # pure noise shows no face


def fixed_loss(objective: module.FaceDeidObjective, dataset: LatentFaces) -> float:
    """Return the loss over all faces with fixed noise and steps."""
    items = [dataset[k] for k in range(len(dataset))] * 8
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    torch.manual_seed(1)
    with torch.no_grad():
        return float(objective(batch, "model", 0)[0])


@pytest.mark.parametrize("train_unet", [True, False])
def test_loss_decreases(models, subspace, dataset: LatentFaces, tmp_path: Path, train_unet: bool) -> None:
    objective = module.FaceDeidObjective(*models(), subspace=subspace, train_unet=train_unet)
    unet = objective.unet if train_unet else objective.unet.module
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    first = fixed_loss(objective, dataset)
    train(objective, dataset, line_config(tmp_path, 30, learning_rate=1e-3, ema_decay=0.5, checkpointing_steps=100))
    assert fixed_loss(objective, dataset) < first
    changed = any(not torch.equal(before[name], value) for name, value in unet.state_dict().items())
    assert changed == (tmp_path / "unet").is_dir() == train_unet
    assert {path.name for path in tmp_path.iterdir()} >= {"controlnet", "attribute_adapter"}


def test_repulsion_in_loss(models, subspace, dataset: LatentFaces, repulsion: module.IdentityRepulsion) -> None:
    plain, repulsed = (
        fixed_loss(module.FaceDeidObjective(*models(), subspace=subspace, train_unet=False, repulsion=term), dataset)
        for term in (None, repulsion)
    )
    assert repulsed > plain


def test_mask_rim_and_weighted_mean() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    rim = module.mask_rim(mask)[0, 0]
    assert rim[8, 8] == rim[0, 0] == 0
    assert rim[8, 4] == rim[8, 3] == rim[4, 8] == 1
    assert not module.mask_rim(torch.ones(1, 1, 8, 8)).any()
    values, weights = torch.full((2, 4, 8, 8), 3.0), torch.ones(2, 1, 8, 8)
    values[..., 4:], weights[..., 4:] = 100, 0
    assert torch.allclose(module.weighted_mean(values, weights), torch.full((2,), 3.0))
    assert not module.weighted_mean(values, weights * 0).any()


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
