"""Training options as frozen dataclasses that also make the command line; names are Hugging Face's own flags."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from ..errors import DeidError, one_line


@dataclass(frozen=True)
class TrainConfig:
    """Options that every training script shares.

    Attributes:
        train_data_dir: cache made by ``deid-diffusion prepare``.
        output_dir: checkpoints and the finished model.
        seed: of sampling, noise and initial weights.
        train_batch_size: crops a process takes a step.
        gradient_accumulation_steps: batches whose gradients are averaged before the weights move.
        gradient_checkpointing: compute activations again in the backward pass; slower, for less memory.
        max_train_steps: optimizer steps in all; goes before num_train_epochs.
        num_train_epochs: passes over the data, when max_train_steps is not given.
        learning_rate: peak rate.
        scale_lr: multiply the rate by batch size, accumulation and number of processes.
        lr_scheduler: a name that diffusers' ``get_scheduler`` knows.
        lr_warmup_steps: steps of linear warm-up.
        max_grad_norm: gradients are clipped to this norm.
        use_8bit_adam: AdamW with 8-bit states; needs bitsandbytes.
        adam_beta1: decay of AdamW's first moment.
        adam_beta2: decay of AdamW's second moment.
        adam_weight_decay: of AdamW.
        adam_epsilon: of AdamW.
        mixed_precision: "no", "fp16" or "bf16".
        allow_tf32: let Ampere and later GPUs multiply float32 matrices in TF32.
        ema_decay: of the weights' moving average; 0 keeps none.
        checkpointing_steps: steps between checkpoints.
        checkpoints_total_limit: newest checkpoints kept.
        resume_from_checkpoint: a checkpoint folder, or "latest".
        validation_steps: steps between contact sheets in output_dir/validation; 0 draws none.
        dataloader_num_workers: of the data loader.
        report_to: a tracker that Accelerate knows, as tensorboard or wandb, or "all"; log.jsonl is always written.
        logging_dir: the tracker's folder, inside output_dir.
        push_to_hub: upload the finished model and its card.
        hub_model_id: repository to push to; output_dir's name when not given.
        hub_token: to push with; the stored login when not given.
    """

    train_data_dir: Path
    output_dir: Path
    seed: int = 0
    train_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    max_train_steps: int | None = None
    num_train_epochs: int = 1
    learning_rate: float = 2e-4
    scale_lr: bool = False
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 100
    max_grad_norm: float = 1.0
    use_8bit_adam: bool = False
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_weight_decay: float = 1e-2
    adam_epsilon: float = 1e-8
    mixed_precision: str = "no"
    allow_tf32: bool = False
    ema_decay: float = 0.0
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str | None = None
    validation_steps: int = 0
    dataloader_num_workers: int = 0
    report_to: str | None = None
    logging_dir: str = "logs"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_token: str | None = dataclasses.field(default=None, repr=False)

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
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(f"--mixed_precision must be no, fp16 or bf16, got {self.mixed_precision!r}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay must be at least 0 and less than 1, got {self.ema_decay}")
        if self.use_8bit_adam and find_spec("bitsandbytes") is None:
            raise ValueError("--use_8bit_adam needs bitsandbytes: pip install bitsandbytes")
        if self.report_to is not None:
            _check_tracker(self.report_to)

    def shown(self) -> dict[str, Any]:
        """The options that a tracker and the model card may show: no token, no paths of this machine."""
        hidden = {"hub_token", "resume_from_checkpoint", "logging_dir"}
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {k: v for k, v in options.items() if k not in hidden and not isinstance(v, Path) and v is not None}


def _check_tracker(name: str) -> None:
    """Accelerate drops a tracker that is not installed without a word."""
    from accelerate.tracking import get_available_trackers

    installed = [str(one) for one in get_available_trackers()]
    if name not in [*installed, "all"]:
        raise ValueError(f"--report_to {name}: not installed or not known; here are: {', '.join(installed) or 'none'}")


Config = TypeVar("Config", bound=TrainConfig)


def parse(kind: type[Config], description: str, arguments: Sequence[str] | None = None) -> Config:
    """Read a config dataclass from the command line: one flag a field, required where it has no default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints, lines = get_type_hints(kind), _documented(kind)
    for field in dataclasses.fields(kind):
        text = lines.get(field.name, "").replace("%", "%%")
        if hints[field.name] is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=text)
            continue
        required = field.default is dataclasses.MISSING
        default = None if required else field.default
        ends = " (required)" if required else "" if default is None else f" (default: {default})"
        convert = next((one for one in get_args(hints[field.name]) if one is not type(None)), hints[field.name])
        parser.add_argument(f"--{field.name}", type=convert, required=required, default=default, help=text + ends)
    values = vars(parser.parse_args(arguments))
    try:
        return kind(**values)
    except ValueError as error:
        parser.error(str(error))


def _documented(kind: type) -> dict[str, str]:
    """What the "Attributes:" of a dataclass and its bases say of each field, as ``name: ...`` or ``a, b: ...``."""
    name = rf"(?:{'|'.join(field.name for field in dataclasses.fields(kind))})"
    entry = re.compile(rf"(?<!\S)({name}(?:, {name})*): (.*?)(?=\s{name}(?:, {name})*: |$)", re.DOTALL)
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        attributes = (base.__doc__ or "").partition("Attributes:")[2].strip().split("\n\n")[0]
        for names, text in entry.findall(attributes):
            said |= dict.fromkeys(names.split(", "), " ".join(text.replace("``", "").split()))
    return said


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a script; what it says of a wrong folder, model or option is one line and exit code 1, not a traceback."""
    try:
        main()
    except (OSError, ValueError, DeidError) as error:
        sys.exit(f"error: {one_line(error)}" if os.environ.get("DEID_DEBUG") is None else traceback.format_exc())
    sys.exit(0)


def read(folder: Path) -> Iterator[dict[str, float]]:
    """The rows of a folder's ``log.jsonl``, but for a last one that a crash cut off."""
    log = folder / "log.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
