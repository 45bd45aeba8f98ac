from pathlib import Path

import pytest
import torch

from deid_diffusion.training.config import TrainConfig
from deid_diffusion.training.face_deid import FaceDeidObjective, rim_of, weighted_mean
from deid_diffusion.training.identity import IdentityRepulsion
from deid_diffusion.training.latents import LatentFaces
from deid_diffusion.training.loop import train


def fixed_loss(objective: FaceDeidObjective, dataset: LatentFaces) -> float:
    """The loss over all faces, with always the same noise and steps."""
    items = [dataset[k] for k in range(len(dataset))] * 8
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    torch.manual_seed(1)
    with torch.no_grad():
        return float(objective(batch, "model", 0)[0])


@pytest.mark.parametrize("train_unet", [True, False])
def test_generator_learns_what_it_is_told_to(
    models, subspace, dataset: LatentFaces, tmp_path: Path, train_unet: bool
) -> None:
    objective = FaceDeidObjective(*models(), subspace=subspace, train_unet=train_unet)
    unet = objective.unet if train_unet else objective.unet.module
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    first = fixed_loss(objective, dataset)
    config = TrainConfig(
        tmp_path, tmp_path, train_batch_size=4, max_train_steps=30, learning_rate=1e-3, lr_warmup_steps=1, ema_decay=0.5
    )
    train(objective, dataset, config)
    assert fixed_loss(objective, dataset) < first
    moved = any(not torch.equal(before[name], value) for name, value in unet.state_dict().items())
    assert moved == train_unet
    assert (tmp_path / "unet").is_dir() == train_unet
    assert {p.name for p in tmp_path.iterdir()} >= {"controlnet", "attribute_adapter"}


def test_repulsion_is_an_option_that_adds_to_the_loss(models, tiny_pipeline, subspace, dataset: LatentFaces) -> None:
    plain = FaceDeidObjective(*models(), subspace=subspace, train_unet=False)
    repulsion = IdentityRepulsion(tiny_pipeline.vae, lambda face: face.mean((2, 3)) + 0.01, weight=1.0, side=8)
    pushed = FaceDeidObjective(*models(), subspace=subspace, train_unet=False, repulsion=repulsion)
    assert fixed_loss(pushed, dataset) > fixed_loss(plain, dataset)


def test_the_rim_is_where_the_mask_begins() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    rim = rim_of(mask)[0, 0]
    assert rim[8, 8] == rim[0, 0] == 0
    assert rim[8, 4] == rim[8, 3] == rim[4, 8] == 1
    assert not rim_of(torch.ones(1, 1, 8, 8)).any()


def test_a_weighted_mean_ignores_what_weighs_nothing() -> None:
    values = torch.full((2, 4, 8, 8), 3.0)
    values[..., 4:] = 100
    weights = torch.ones(2, 1, 8, 8)
    weights[..., 4:] = 0
    assert torch.allclose(weighted_mean(values, weights), torch.full((2,), 3.0))
    assert not weighted_mean(values, weights * 0).any()
