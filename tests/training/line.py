"""Minimal training for the tests of the loop: a straight line fitted to noisy points."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from deid_diffusion.training.config import TrainConfig, read_log
from deid_diffusion.training.data import FaceDataset
from deid_diffusion.training.generator import Objective
from deid_diffusion.training.loop import train


class Points(FaceDataset):
    """Twenty points of a line, with noise that changes each epoch."""

    def __init__(self) -> None:
        self.seed = self.epoch = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.linspace(-1, 1, 20)[index : index + 1]
        return {"x": x, "y": 3 * x + 0.1 * float(self.rng(index).normal())}


class Line(Objective):
    """A slope, whose noise makes the loss depend on the random state too."""

    def __init__(self, noise: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.slope, self.noise = nn.Linear(1, 1), noise

    def trainable(self, phase: str) -> nn.Module:
        return self.slope

    def forward(self, batch, phase, step):
        predicted = self.slope(batch["x"]) + self.noise * torch.randn_like(batch["x"])
        largest = float(batch["x"].max())
        figures = {"largest": largest} | ({"high": largest} if largest > 0.9 else {})
        return (predicted - batch["y"]).square().mean(), figures

    def validate(self) -> np.ndarray:
        """Draw from the global random state, as a careless objective would."""
        return torch.randint(0, 256, (4, 6, 3)).numpy().astype(np.uint8)

    def save(self, folder: Path) -> None:
        torch.save(self.slope.state_dict(), folder / "slope.pt")


def line_config(folder: Path, steps: int | None, **options: object) -> TrainConfig:
    defaults = {"train_batch_size": 4, "learning_rate": 0.05, "lr_warmup_steps": 2, "checkpointing_steps": 3}
    return TrainConfig(folder, folder, **{**defaults, "max_train_steps": steps, "ema_decay": 0.9, **options})


def run(folder: Path, steps: int | None, objective: Objective | None = None, **options: object) -> list[float]:
    """Train and return the log's losses."""
    train(objective or Line(), Points(), line_config(folder, steps, **options))
    return [row["loss"] for row in rows(folder)]


def rows(folder: Path) -> list[dict[str, float]]:
    return list(read_log(folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "slope.pt")
