"""Options of the training scripts as dataclasses, parsed by ``transformers.HfArgumentParser``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from transformers.hf_argparser import HfArg, HfArgumentParser

from ..errors import DeidError, one_line


@dataclass(frozen=True)
class TrainConfig:
    """Options that every training script shares; the names are those of diffusers' example scripts."""

    train_data_dir: Path = HfArg(help='face cache written by "deid-diffusion prepare"')
    output_dir: Path = HfArg(help="folder for checkpoints and the trained model")
    seed: int = HfArg(default=0, help="random seed for initial weights, sampling and noise")
    train_batch_size: int = HfArg(default=16, help="crops per process and batch")
    gradient_accumulation_steps: int = HfArg(
        default=1, help="batches whose gradients are averaged for one optimizer step"
    )
    gradient_checkpointing: bool = HfArg(
        default=False, help="recompute activations in the backward pass: slower, less memory"
    )
    max_train_steps: int | None = HfArg(default=None, help="optimizer steps; overrides --num_train_epochs")
    num_train_epochs: int = HfArg(default=1, help="passes over the data")
    learning_rate: float = HfArg(default=2e-4, help="peak learning rate")
    scale_lr: bool = HfArg(
        default=False,
        help="multiply the learning rate by batch size, accumulation and number of processes",
    )
    lr_scheduler: str = HfArg(default="constant_with_warmup", help="scheduler name of diffusers' get_scheduler")
    lr_warmup_steps: int = HfArg(default=100, help="steps of linear warm-up")
    max_grad_norm: float = HfArg(default=1.0, help="norm to which gradients are clipped")
    use_8bit_adam: bool = HfArg(default=False, help="use AdamW with 8-bit states; needs bitsandbytes")
    adam_beta1: float = HfArg(default=0.9, help="decay of AdamW's first moment")
    adam_beta2: float = HfArg(default=0.999, help="decay of AdamW's second moment")
    adam_weight_decay: float = HfArg(default=1e-2, help="AdamW's weight decay")
    adam_epsilon: float = HfArg(default=1e-8, help="AdamW's epsilon")
    mixed_precision: Literal["no", "fp16", "bf16"] = HfArg(default="no", help="number format of the forward pass")
    allow_tf32: bool = HfArg(default=False, help="allow TF32 matrix multiplication on Ampere and later GPUs")
    ema_decay: float = HfArg(default=0.0, help="decay of the weights' exponential moving average; 0 disables it")
    checkpointing_steps: int = HfArg(default=500, help="steps between checkpoints")
    checkpoints_total_limit: int = HfArg(default=2, help="number of newest checkpoints to keep")
    resume_from_checkpoint: str | None = HfArg(default=None, help='checkpoint folder to resume from, or "latest"')
    validation_steps: int = HfArg(
        default=0, help="steps between contact sheets in output_dir/validation; 0 disables them"
    )
    dataloader_num_workers: int = HfArg(default=0, help="worker processes of the data loader")
    report_to: str | None = HfArg(
        default=None, help='tracker of Accelerate, such as tensorboard or wandb, or "all"; log.jsonl is always written'
    )
    logging_dir: str = HfArg(default="logs", help="the tracker's folder, relative to output_dir")
    push_to_hub: bool = HfArg(default=False, help="upload the trained model and its card")
    hub_model_id: str | None = HfArg(default=None, help="repository to push to; default: the name of output_dir")
    hub_token: str | None = HfArg(default=None, repr=False, help="token for the upload; default: the stored login")

    def __post_init__(self) -> None:
        for name in (
            "train_batch_size",
            "gradient_accumulation_steps",
            "max_train_steps",
            "num_train_epochs",
            "checkpointing_steps",
            "checkpoints_total_limit",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must be at least 0 and less than 1, got {self.ema_decay}")
        if self.use_8bit_adam and find_spec("bitsandbytes") is None:
            raise ValueError("--use_8bit_adam needs bitsandbytes: pip install bitsandbytes")
        if self.report_to is not None:
            _check_tracker(self.report_to)

    def public_options(self) -> dict[str, Any]:
        """Return the options that trackers and the model card may show: no token and no local paths."""
        private = {"hub_token", "resume_from_checkpoint", "logging_dir"}
        options = {option.name: getattr(self, option.name) for option in fields(self) if option.name not in private}
        return {name: value for name, value in options.items() if not isinstance(value, Path) and value is not None}


def _check_tracker(name: str) -> None:
    """Raise ValueError for a tracker that is not installed, which Accelerate would ignore silently."""
    from accelerate.tracking import get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    if name not in [*installed, "all"]:
        raise ValueError(
            f"--report_to {name}: unknown or not installed tracker: choose from {', '.join(installed) or 'none'}"
        )


Config = TypeVar("Config", bound=TrainConfig)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help text that states default values and keeps the description's line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parse(config_class: type[Config], description: str, arguments: Sequence[str] | None = None) -> Config:
    """Return the config of the command line; exit with code 2 and one line if an option is wrong."""
    parser = HfArgumentParser(config_class, description=description, formatter_class=_HelpFormatter)
    try:
        (config,) = parser.parse_args_into_dataclasses(arguments)
    except ValueError as error:
        parser.error(str(error))
    return config


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a script and exit; user errors are one line and exit code 1, or a traceback if DEID_DEBUG is set."""
    try:
        main()
    except (OSError, ValueError, DeidError) as error:
        sys.exit(f"error: {one_line(error)}" if os.environ.get("DEID_DEBUG") is None else traceback.format_exc())
    sys.exit(0)


def read_log(folder: Path) -> Iterator[dict[str, float]]:
    """Yield the rows of a folder's ``log.jsonl``, up to a last one that a crash truncated."""
    log = folder / "log.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
