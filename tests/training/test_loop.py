from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from torch import nn

from deid_diffusion.training.config import read
from deid_diffusion.training.loop import RunLog, complete
from tests.training.line import Line, rows, run, settings, weights


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    run(tmp_path, 10)
    assert list(complete(tmp_path)) == [9, 10]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["checkpoint-10", "checkpoint-9"]


def test_a_half_written_one_is_not_taken(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 6)
    folder = tmp_path / "parts"
    run(folder, 4)
    (folder / "checkpoint-4").rename(folder / "partial-4")
    (folder / "partial-4" / "optimizer.bin").write_bytes(b"half of i")
    assert run(folder, 6, resume_from_checkpoint="latest") == pytest.approx(whole, abs=1e-5)
    assert not list(folder.glob("partial-*"))


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    assert len(run(tmp_path, 3, resume_from_checkpoint="latest")) == 3


def test_a_checkpoint_may_be_named_by_its_path_or_by_its_name_alone(tmp_path: Path) -> None:
    whole = run(tmp_path, 4)
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    assert run(tmp_path, 4, resume_from_checkpoint="checkpoint-3") == pytest.approx(whole, abs=1e-5)
    assert run(tmp_path, 4, resume_from_checkpoint=f"{tmp_path}/checkpoint-4/") == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("name", ["checkpoint-9", "elsewhere", "."])
def test_a_named_one_that_is_missing_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        run(tmp_path, 3, resume_from_checkpoint=name)


def test_a_new_run_does_not_mix_with_the_checkpoints_of_an_old_one(tmp_path: Path) -> None:
    run(tmp_path, 4)
    with pytest.raises(ValueError, match="holds checkpoint-4, and this run starts at step 0"):
        run(tmp_path, 4)
    assert list(complete(tmp_path)) == [3, 4]


class Notebook(GeneralTracker):
    """A tracker that takes images."""

    name, requires_logging_directory = "notebook", False

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple] = []

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values) -> None:
        self.notes.append(("options", values))

    def log(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, values))

    def log_images(self, values, step=None, **kwargs) -> None:
        self.notes.append((step, {name: value.shape for name, value in values.items()}))


def test_steps_that_are_done_again_replace_their_lines(tmp_path: Path) -> None:
    run(tmp_path, 4)  # the checkpoints are at 3 and, being the last, at 4
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    run(tmp_path, 6, resume_from_checkpoint="latest")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    run(tmp_path, 3)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    run(tmp_path, 4, resume_from_checkpoint="latest")
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]


def test_trackers_get_options_figures_and_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    monkeypatch.setattr("deid_diffusion.training.config._check_tracker", lambda name: None)
    accelerator = Accelerator(log_with=notebook)
    log = RunLog(accelerator, settings(tmp_path, 3, report_to="notebook", hub_token="hf_secret"), 0)
    log.write(1, {"loss": 0.5})
    log.show(1, np.zeros((4, 6, 3), np.uint8))
    options, figures, sheet = notebook.notes
    assert options[1]["max_train_steps"] == 3
    assert "hf_secret" not in str(options)
    assert figures == (1, {"loss": 0.5})
    assert sheet == (1, {"validation": (1, 4, 6, 3)})
    assert (tmp_path / "validation" / "step-000001.png").is_file()


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
