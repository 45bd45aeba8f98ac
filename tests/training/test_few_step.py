from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers import LCMScheduler

from deid_diffusion.attributes.encoder import encode_attributes
from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.faces.semantic_map import control_image, draw_semantic_map, mean_mesh
from deid_diffusion.training.assembly import distilled_sampler
from deid_diffusion.training.attribute_encoder import common_questions
from deid_diffusion.training.builtin import make_scheduler
from deid_diffusion.training.config import TrainConfig
from deid_diffusion.training.few_step import FewStepObjective, LatentDiscriminator, jittered, labels_of, within
from deid_diffusion.training.latents import LatentFaces
from deid_diffusion.training.loop import train
from deid_diffusion.training.validation import sample_items


def make_objective(models, tiny_pipeline, subspace, dataset: LatentFaces, **options) -> FewStepObjective:
    return FewStepObjective(
        *models(),
        subspace=subspace,
        image_encoder=tiny_pipeline.image_encoder,
        questions=common_questions(dataset.said, least=1),
        vae=tiny_pipeline.vae,
        examples=sample_items(dataset, 2),
        **options,
    )


def test_both_turns_learn_and_the_sampler_is_saved(
    models, tiny_pipeline, subspace, dataset: LatentFaces, tmp_path: Path
) -> None:
    objective = make_objective(models, tiny_pipeline, subspace, dataset, adversarial_start=2)
    before = {turn: [p.clone() for p in objective.trained(turn).parameters()] for turn in objective.turns}
    config = TrainConfig(tmp_path, tmp_path, train_batch_size=3, max_train_steps=4, lr_warmup_steps=1)
    train(objective, dataset, config)
    for turn in objective.turns:
        moved = [not torch.equal(a, b) for a, b in zip(before[turn], objective.trained(turn).parameters(), strict=True)]
        assert any(moved)
    assert objective.made == []  # what one turn made the other has judged
    assert isinstance(LCMScheduler.from_pretrained(tmp_path / "scheduler"), LCMScheduler)
    assert not (tmp_path / "discriminator").exists()
    assert isinstance(distilled_sampler(tmp_path), LCMScheduler)
    make_scheduler().save_pretrained(tmp_path / "scheduler")
    assert distilled_sampler(tmp_path) is None


def test_the_noise_levels_are_those_of_the_sampler(models, tiny_pipeline, subspace, dataset: LatentFaces) -> None:
    objective = make_objective(models, tiny_pipeline, subspace, dataset, sampling_steps=4)
    assert objective.sampler.timesteps.tolist() == [999, 759, 499, 259]
    assert float(objective.alphas(objective.sampler.timesteps)[0]) == 0  # pure noise


def test_the_sheet_takes_as_many_steps_as_are_trained(models, tiny_pipeline, subspace, dataset: LatentFaces) -> None:
    objective = make_objective(models, tiny_pipeline, subspace, dataset, sampling_steps=2)
    calls = []
    objective.controlnet.register_forward_hook(lambda *given: calls.append(1))
    assert objective.validate() is not None
    assert len(calls) == 2


def test_only_what_the_mask_covers_is_judged() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    made = within(mask, torch.ones(1, 4, 4, 4), torch.zeros(1, 4, 4, 4))
    assert torch.equal(made, mask.expand(1, 4, 4, 4))


def test_the_discriminator_reads_map_mask_and_facts() -> None:
    torch.manual_seed(0)
    judge = LatentDiscriminator(3, 4)
    given = [torch.randn(2, 4, 16, 16), torch.ones(2, 1, 16, 16), torch.rand(2, 3, 64, 64), torch.ones(2, 3)]
    first = judge(*given)
    assert first.shape[0] == 2
    for index in range(4):
        other = list(given)
        other[index] = torch.zeros_like(given[index])
        assert not torch.allclose(judge(*other), first)


def test_labels_come_back_from_a_map(dataset: LatentFaces) -> None:
    labels = draw_semantic_map(mean_mesh(32), 32)
    control = torch.from_numpy(control_image(labels)).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(labels_of(control)[0], torch.from_numpy(labels).long())


def test_what_is_read_has_to_point_where_it_was_to_be_kept(models, tiny_pipeline, subspace, dataset) -> None:
    objective = make_objective(models, tiny_pipeline, subspace, dataset)
    seen, control = torch.rand(2, 3, 32, 32) * 2 - 1, dataset[0]["control"].expand(2, -1, -1, -1)
    mesh = dataset[0]["mesh"].expand(2, -1, -1)
    read = encode_attributes(tiny_pipeline.image_encoder, seen, labels_of(control))
    assert float(objective.misread(seen, control, mesh, read)) == pytest.approx(0, abs=1e-4)
    assert float(objective.misread(seen, control, mesh, -read)) == pytest.approx(2, abs=1e-4)
    assert float(objective.misread(seen, control, mesh, torch.zeros_like(read))) == 0


def test_a_small_attribute_that_is_not_read_counts_as_much_as_a_large_one(
    models, tiny_pipeline, subspace, dataset
) -> None:
    objective = make_objective(models, tiny_pipeline, subspace, dataset)
    seen, control = torch.rand(1, 3, 32, 32) * 2 - 1, dataset[0]["control"][None]
    gender, age = (subspace.bases[name][0] for name in ("gender", "age"))
    age = torch.nn.functional.normalize(age - age @ gender * gender, dim=0)
    objective.wishes.subspace = replace(objective.wishes.subspace, bases={"gender": gender[None], "age": age[None]})
    objective.image_encoder.module = torch.nn.Identity()
    kept = torch.zeros(1, len(FEATURE_NAMES), len(age))
    kept[:, 0] = gender + 0.05 * age
    short = []
    for read in (gender, 0.05 * age):
        features = torch.zeros_like(kept) + read
        with patch("deid_diffusion.training.few_step.encode_attributes", lambda *_, made=features: made):
            short.append(float(objective.misread(seen, control, dataset[0]["mesh"][None], kept)))
    assert short == pytest.approx([0.5, 0.5], abs=1e-4)


def test_jitter_is_small() -> None:
    assert 0 < float(jittered(torch.zeros(64, 4, 8, 8)).std()) < 0.1
