from pathlib import Path

import numpy as np
import pytest
import torch
from line import Line, rows, run, weights
from PIL import Image
from torch import nn


def test_a_resumed_run_gives_the_same_losses_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 13)
    first = run(tmp_path / "parts", 6)  # an epoch has 5 steps
    both = run(tmp_path / "parts", 13, resume_from_checkpoint="latest")
    assert first == whole[:6]
    assert both == pytest.approx(whole, abs=1e-5)


def test_contact_sheets_change_nothing_of_the_training(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", 9)
    run(tmp_path / "seen", 6, validation_steps=2)
    assert run(tmp_path / "seen", 9, validation_steps=2, resume_from_checkpoint="latest") == plain
    sheets = sorted((tmp_path / "seen" / "validation").iterdir())
    assert [sheet.name for sheet in sheets] == [f"step-00000{k}.png" for k in (2, 4, 6, 8)]
    assert np.asarray(Image.open(sheets[0])).shape == (4, 6, 3)


def test_contact_sheets_show_the_averaged_weights_and_leave_the_others(tmp_path: Path) -> None:
    seen = []

    class Watched(Line):
        def validate(self) -> None:
            assert not self.training
            seen.append(self.slope.weight.item())

    objective = Watched()
    run(tmp_path, 6, objective, validation_steps=6, ema_decay=0.99)
    assert seen == [weights(tmp_path)["weight"].item()] == [objective.slope.weight.item()]
    assert not (tmp_path / "validation").exists()


def test_it_learns(tmp_path: Path) -> None:
    losses = run(tmp_path, 60)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_accumulated_small_batches_make_the_same_steps_as_large_ones(tmp_path: Path) -> None:
    large = run(tmp_path / "large", 7, Line(noise=0))
    small = run(tmp_path / "small", 7, Line(noise=0), train_batch_size=2, gradient_accumulation_steps=2)
    assert small == pytest.approx(large, abs=1e-5)
    assert weights(tmp_path / "small")["weight"].item() == pytest.approx(weights(tmp_path / "large")["weight"].item())


def test_epochs_are_counted_when_no_steps_are_given(tmp_path: Path) -> None:
    assert len(run(tmp_path, None, num_train_epochs=3)) == 15


def test_rates_warm_up_and_scale(tmp_path: Path) -> None:
    run(tmp_path / "a", 4)
    run(tmp_path / "b", 4, learning_rate=0.05 / 4, scale_lr=True)
    assert [row["lr"] for row in rows(tmp_path / "a")] == [0.025, 0.05, 0.05, 0.05]
    assert rows(tmp_path / "b")[-1]["lr"] == pytest.approx(0.05)


def test_a_finished_run_started_again_only_writes_its_card_anew(tmp_path: Path) -> None:
    run(tmp_path, 5)
    before = weights(tmp_path)
    (tmp_path / "figures.json").write_text('{"face_found_again": 0.97}')
    assert len(run(tmp_path, 5, resume_from_checkpoint="latest")) == 5
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path).items())
    assert "`face_found_again` | 0.97" in (tmp_path / "README.md").read_text()


def test_too_little_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 20 crops, fewer than the 21 of one step"):
        run(tmp_path, 3, train_batch_size=7, gradient_accumulation_steps=3)


def test_gradient_checkpointing_reaches_every_model_that_knows_it(tiny_pipeline) -> None:
    objective = Line()
    with pytest.raises(ValueError, match="none of the models"):
        objective.enable_gradient_checkpointing()
    unet, vision = (type(part).from_config(part.config) for part in (tiny_pipeline.unet, tiny_pipeline.vae))
    text = type(tiny_pipeline.text_encoder)(tiny_pipeline.text_encoder.config)
    objective.unet, objective.vae, objective.text, objective.other = unet, vision, text, nn.Identity()
    objective.enable_gradient_checkpointing()
    assert unet.is_gradient_checkpointing
    assert vision.is_gradient_checkpointing
    assert text.is_gradient_checkpointing
