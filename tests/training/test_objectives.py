import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.encoder import FEATURE_NAMES
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.attribute_encoder import AttributeEncoderObjective, CaptionedFaces, all_facts, tokenize
from deid_diffusion.training.builtin import make_controlnet, make_scheduler, make_unet
from deid_diffusion.training.config import TrainConfig
from deid_diffusion.training.data import CropDataset, FaceCache
from deid_diffusion.training.face_deid import FaceDeidObjective, LatentFaces, encode_cache, random_mask
from deid_diffusion.training.loop import train
from deid_diffusion.training.vae import AutoencoderObjective, measure_scaling_factor, pyramid_l1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Eight 32 px crops of noise around the mean face."""
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    np.save(folder / "crops.npy", rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "meshes.npy", np.stack([mean_mesh(32)] * 8))
    rows = [{"file": f"{k}.jpg", "grey": False, "predicted_age": "30", "predicted_male": "0.9"} for k in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FaceCache(folder)


def config(folder: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        folder, folder, train_batch_size=4, max_train_steps=steps, learning_rate=1e-3, lr_warmup_steps=1, ema_decay=0.5
    )


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def fixed_loss(objective: FaceDeidObjective, dataset: LatentFaces) -> float:
    """The loss over all faces, with always the same noise and steps."""
    items = [dataset[k] for k in range(len(dataset))] * 8
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    torch.manual_seed(1)
    with torch.no_grad():
        return float(objective(batch, "model", 0)[0])


def test_autoencoder_learns_with_and_without_its_discriminator(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    vae = type(tiny_pipeline.vae).from_config(tiny_pipeline.vae.config)
    train(AutoencoderObjective(vae, adversarial_start=10), CropDataset(cache, 0), config(tmp_path, 20))
    found = losses(tmp_path, "reconstruction")
    assert found[9] < found[0]
    assert losses(tmp_path, "loss_discriminator")[9] == 0
    assert max(losses(tmp_path, "loss_discriminator")[10:]) > 0
    assert measure_scaling_factor(vae, CropDataset(cache, 0)[0]["pixels"][None]) > 0
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


def test_pyramid_counts_fine_detail() -> None:
    flat, checks = torch.zeros(1, 3, 32, 32), (torch.arange(32) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert pyramid_l1(flat, flat) == 0
    assert pyramid_l1(checks, flat) > pyramid_l1(torch.ones_like(flat), flat) * 0.9


def test_attribute_encoder_learns_to_match_captions(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    vision, text = (type(part)(part.config) for part in (tiny_pipeline.image_encoder, tiny_pipeline.text_encoder))
    said = all_facts(cache)
    assert all(one["person"] == "man" for one in said)
    dataset = CaptionedFaces(cache, tiny_pipeline.tokenizer, said, 0)
    assert dataset[0]["input_ids"].shape == (12,)
    train(AttributeEncoderObjective(vision, text), dataset, config(tmp_path, 3))
    assert np.isfinite(losses(tmp_path, "loss")).all()
    assert (tmp_path / "image_encoder" / "config.json").is_file()


@pytest.mark.parametrize("train_unet", [True, False])
def test_generator_learns_what_it_is_told_to(tiny_pipeline, cache: FaceCache, tmp_path: Path, train_unet: bool) -> None:
    torch.manual_seed(0)
    parts = tiny_pipeline
    ids = tokenize(parts.tokenizer, ["photo of a man"] * 8)
    encode_cache(cache, tmp_path / "encoded", parts.vae, parts.image_encoder, parts.text_encoder, ids, seed=0, batch=3)
    unet = make_unet((16, 32), sample_size=16, cross_attention_dim=16)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    objective = FaceDeidObjective(
        unet,
        make_controlnet(unet, 2),
        AttributeAdapter(16, len(FEATURE_NAMES), 4, 16),
        make_scheduler(),
        parts.text_encoder(input_ids=tokenize(parts.tokenizer, [""])).last_hidden_state.detach(),
        train_unet=train_unet,
    )
    dataset = LatentFaces(cache, tmp_path / "encoded", 0)
    first = fixed_loss(objective, dataset)
    train(objective, dataset, config(tmp_path, 30))
    assert fixed_loss(objective, dataset) < first
    moved = any(not torch.equal(before[name], value) for name, value in unet.state_dict().items())
    assert moved == train_unet
    assert {p.name for p in tmp_path.iterdir()} >= {"unet", "controlnet", "attribute_adapter"}


def test_masks_always_cover_the_face() -> None:
    rng = np.random.default_rng(0)
    points = np.round(mean_mesh(64)).astype(int)
    masks = [random_mask(mean_mesh(64), 64, rng) for _ in range(40)]
    assert all(mask[points[:, 1], points[:, 0]].all() for mask in masks)
    assert len({mask.sum() for mask in masks}) > 5


def test_a_folder_that_is_no_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prepare\.py"):
        FaceCache(tmp_path)
