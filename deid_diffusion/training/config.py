"""Training options as frozen dataclasses that also make the command line; names are Hugging Face's own flags."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints


@dataclass(frozen=True)
class TrainConfig:
    """Options that every training script shares.

    Attributes:
        train_data_dir: cache made by ``training/prepare.py``.
        output_dir: checkpoints and the finished model.
        seed: of sampling, noise and initial weights.
        train_batch_size: crops a process takes a step.
        gradient_accumulation_steps: batches summed before the weights move.
        max_train_steps: optimizer steps in all.
        learning_rate: peak rate.
        lr_scheduler: a name that diffusers' ``get_scheduler`` knows.
        lr_warmup_steps: steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        adam_weight_decay: of AdamW.
        mixed_precision: "no", "fp16" or "bf16".
        ema_decay: of the weights' moving average; 0 keeps none.
        checkpointing_steps: steps between checkpoints.
        checkpoints_total_limit: newest checkpoints kept.
        resume_from_checkpoint: a checkpoint folder, or "latest".
        dataloader_num_workers: of the data loader.
    """

    train_data_dir: Path
    output_dir: Path
    seed: int = 0
    train_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 1000
    learning_rate: float = 2e-4
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 100
    max_grad_norm: float = 1.0
    adam_weight_decay: float = 1e-2
    mixed_precision: str = "no"
    ema_decay: float = 0.0
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str | None = None
    dataloader_num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "checkpointing_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(f"--mixed_precision must be no, fp16 or bf16, got {self.mixed_precision!r}")


Config = TypeVar("Config", bound=TrainConfig)


def parse(kind: type[Config], description: str, arguments: Sequence[str] | None = None) -> Config:
    """Read a config dataclass from the command line: one flag a field, required where it has no default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        if hints[field.name] is bool:
            parser.add_argument(f"--{field.name}", action="store_true")
            continue
        convert = str if hints[field.name] == str | None else hints[field.name]
        shown = "required" if required else f"default: {default}"
        parser.add_argument(f"--{field.name}", type=convert, required=required, default=default, help=shown)
    values = vars(parser.parse_args(arguments))
    try:
        return kind(**values)
    except ValueError as error:
        parser.error(str(error))
