import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from deid_diffusion.training.config import TrainConfig, parse
from deid_diffusion.training.data import FaceDataset
from deid_diffusion.training.loop import Objective, train


class Points(FaceDataset):
    """Each point is moved a little, anew in each epoch."""

    def __init__(self) -> None:
        self.seed = self.epoch = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.linspace(-1, 1, 20)[index : index + 1]
        return {"x": x, "y": 3 * x + 0.1 * float(self.rng(index).normal())}


class Line(Objective):
    """Fits a slope to noisy points; the noise makes the loss depend on the random state too."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Linear(1, 1)

    def trained(self, turn: str) -> nn.Module:
        return self.slope

    def forward(self, batch, turn, step):
        made = self.slope(batch["x"]) + 0.1 * torch.randn_like(batch["x"])
        return (made - batch["y"]).square().mean(), {}

    def save(self, folder: Path) -> None:
        torch.save(self.slope.state_dict(), folder / "slope.pt")


def run(folder: Path, steps: int, *, resume: str | None = None, batch: int = 4, accumulate: int = 1) -> list[float]:
    torch.manual_seed(3)
    config = TrainConfig(
        train_data_dir=folder,
        output_dir=folder,
        train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        max_train_steps=steps,
        learning_rate=0.05,
        lr_warmup_steps=2,
        checkpointing_steps=3,
        ema_decay=0.9,
        resume_from_checkpoint=resume,
    )
    folder.mkdir(exist_ok=True)
    train(Line(), Points(), config)
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_gives_the_same_losses_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 13)
    first = run(tmp_path / "parts", 6)  # an epoch has 5 steps
    both = run(tmp_path / "parts", 13, resume="latest")
    assert first == whole[:6]
    assert both == pytest.approx(whole, abs=1e-5)


def test_steps_that_are_done_again_replace_their_log_lines(tmp_path: Path) -> None:
    run(tmp_path, 4)  # the checkpoints are at 3 and, being the last, at 4
    (tmp_path / "checkpoint-4").rename(tmp_path / "lost")
    assert len(run(tmp_path, 6, resume="latest")) == 6


def test_it_learns_and_keeps_only_the_newest_checkpoints(tmp_path: Path) -> None:
    losses = run(tmp_path, 60)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-57", "checkpoint-60"]


def test_accumulated_small_batches_take_as_many_steps(tmp_path: Path) -> None:
    assert len(run(tmp_path, 7, batch=2, accumulate=2)) == 7


def test_resuming_without_a_checkpoint_starts_from_the_beginning(tmp_path: Path) -> None:
    assert len(run(tmp_path, 3, resume="latest")) == 3


def test_a_named_checkpoint_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        run(tmp_path, 3, resume=str(tmp_path / "checkpoint-9"))


def test_too_little_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 20 crops, fewer than one batch"):
        run(tmp_path, 3, batch=21)


@dataclass(frozen=True)
class _More(TrainConfig):
    widths: str = "1,2"
    fast: bool = False


def test_flags_come_from_the_dataclass() -> None:
    config = parse(_More, "", ["--train_data_dir", "a", "--output_dir", "b", "--fast", "--learning_rate", "1e-3"])
    assert config == _More(Path("a"), Path("b"), fast=True, learning_rate=1e-3)


@pytest.mark.parametrize("flags", [["--train_batch_size", "0"], ["--mixed_precision", "int8"], []])
def test_bad_flags_exit_with_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    required = ["--train_data_dir", "a", "--output_dir", "b"] if flags else []
    with pytest.raises(SystemExit) as stop:
        parse(_More, "", [*required, *flags])
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err.splitlines()[-1]
