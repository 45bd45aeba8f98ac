"""What a training leaves on disk to go on from, and the weights that it shows and publishes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from .config import TrainConfig
from .objective import Objective

_NAME = re.compile(r"checkpoint-(\d+)")


def complete(folder: Path) -> dict[int, Path]:
    """The finished checkpoints of an output folder by their step, oldest first."""
    found = {int(match[1]): path for path in folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def resume(accelerator: Accelerator, config: TrainConfig) -> int:
    """Load the checkpoint to go on from, if there is one, and clear away what a killed run left half-written.

    Returns:
        The step it was written at, 0 to start from the beginning.

    Raises:
        FileNotFoundError: when a named checkpoint does not exist.
        ValueError: when the output folder holds checkpoints of later steps, which this run would get mixed up with.
    """
    step, folder = _chosen(config)
    later = [path.name for at, path in complete(config.output_dir).items() if at > step]
    if later:
        raise ValueError(
            f"{config.output_dir} holds {later[-1]}, and this run starts at step {step}: pass "
            f"--resume_from_checkpoint latest or another --output_dir, or remove it"
        )
    if folder is not None:
        accelerator.load_state(str(folder))
    if accelerator.is_main_process:
        for partial in config.output_dir.glob("partial-*"):
            shutil.rmtree(partial)
    return step


def _chosen(config: TrainConfig) -> tuple[int, Path | None]:
    if config.resume_from_checkpoint is None:
        return 0, None
    if config.resume_from_checkpoint == "latest":
        found = complete(config.output_dir)
        return list(found.items())[-1] if found else (0, None)
    folder = Path(config.resume_from_checkpoint)
    if not folder.is_dir():
        folder = config.output_dir / folder.name
    match = _NAME.fullmatch(folder.name)
    if match is None or not folder.is_dir():
        raise FileNotFoundError(
            f"--resume_from_checkpoint: there is no checkpoint folder {config.resume_from_checkpoint}"
        )
    return int(match[1]), folder


def save(accelerator: Accelerator, config: TrainConfig, step: int) -> None:
    """Write a checkpoint and drop the oldest; a name without "partial" is a checkpoint that is whole."""
    partial = config.output_dir / f"partial-{step}"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()  # each process writes its own random state
    if accelerator.is_main_process:
        partial.rename(config.output_dir / f"checkpoint-{step}")
        for old in list(complete(config.output_dir).values())[: -config.checkpoints_total_limit]:
            shutil.rmtree(old.rename(old.with_name(f"partial-{old.name}")))


@contextmanager
def finished(
    accelerator: Accelerator, wrapped: nn.Module, objective: Objective, ema: EMAModel | None, whole: Objective | None
) -> Iterator[Objective]:
    """Lend, on the main process, the objective with the weights to show: averaged, or gathered from their shards.

    Args:
        wrapped: the prepared objective; all processes must enter here when it is sharded.
        ema: of the first turn's weights.
        whole: an unsharded copy of the objective to gather into, only for sharded training.
    """
    if whole is not None:
        state = accelerator.get_state_dict(wrapped)
        if accelerator.is_main_process:
            whole.load_state_dict(state)
            whole.eval().to(accelerator.device)
        yield whole
        whole.cpu()
        return
    parameters = list(objective.trained(objective.turns[0]).parameters())
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    objective.eval()
    yield objective
    objective.train()
    if ema is not None:
        ema.restore(parameters)
