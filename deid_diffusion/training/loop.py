"""The one training loop: Accelerate, checkpoints, exact resume. What is learned is an ``Objective``'s business."""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    ProjectConfiguration,
    gather_object,
    set_seed,
)
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import hub
from .config import TrainConfig, read_log
from .data import FaceDataset
from .generator import Objective
from .hub import model_card

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


_ONE_IMAGE = ("aim", "clearml")  # the other trackers' ``log_images`` take a list


class RunLog:
    """The main process's record of a run, going on after ``step``."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, step: int) -> None:
        self.accelerator, self.folder = accelerator, config.output_dir
        if not accelerator.is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # the lines of steps that are about to be done again go
        kept = "".join(json.dumps(row) + "\n" for row in read_log(self.folder) if row["step"] <= step)
        (self.folder / "log.jsonl.new").write_text(kept)
        (self.folder / "log.jsonl.new").replace(self.folder / "log.jsonl")
        if config.report_to is not None:
            accelerator.init_trackers(self.folder.resolve().name, config.public_options())

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Note one step's figures."""
        if self.accelerator.is_main_process:
            row = {"step": step} | {name: round(value, 6) for name, value in figures.items()}
            with (self.folder / "log.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            self.accelerator.log(dict(figures), step=step)

    def show(self, step: int, sheet: np.ndarray) -> None:
        """Keep a contact sheet, (H, W, 3) uint8, as ``validation/step-000500.png`` and in trackers that take images."""
        path = self.folder / "validation" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(path)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                shown = sheet if tracker.name in _ONE_IMAGE else sheet[None]
                tracker.log_images({"validation": shown}, step=step, **layout)


def train(objective: Objective, dataset: FaceDataset, config: TrainConfig) -> None:
    """Run a training to its last step, leave the finished weights in ``objective`` and write them out with a card.

    ``log.jsonl`` in the output folder gets one line a step, means over batches and processes. A run that was killed and
    resumed with ``resume_from_checkpoint="latest"`` continues in the middle of the epoch with the same batches and
    noise. N processes take the steps that one process takes with N times the accumulation. With FSDP the finished
    weights are only written.

    Raises:
        ValueError: when the data set is smaller than one step, or FSDP cannot do what is asked.
        FileNotFoundError: when the checkpoint to resume from does not exist.
    """
    accelerator = _accelerator(config, objective.turns)
    whole = _whole_copy(accelerator, objective, config)
    set_seed(config.seed, device_specific=True)
    if config.allow_tf32:
        torch.set_float32_matmul_precision("high")
    if config.gradient_checkpointing:
        objective.enable_gradient_checkpointing()
    together = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    per_epoch = len(dataset) // together
    if not per_epoch:
        raise ValueError(f"{config.train_data_dir} holds {len(dataset)} crops, fewer than the {together} of one step")
    last = config.max_train_steps or config.num_train_epochs * per_epoch
    loader: Any = DataLoader(
        dataset,
        config.train_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.dataloader_num_workers,
        generator=torch.Generator(),  # its own, so that starting an epoch anew on resume draws nothing from the noise's
    )
    rate = config.learning_rate * (together if config.scale_lr else 1)
    made = [
        _optimizer(objective.trained(turn).parameters(), rate * objective.rate(turn), config)
        for turn in objective.turns
    ]
    warm_up = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": last}
    rates = [get_scheduler(config.lr_scheduler, optimizer, **warm_up) for optimizer in made]
    wrapped, loader, *prepared = accelerator.prepare(objective, loader, *made, *rates)
    optimizers = dict(zip(objective.turns, prepared[: len(made)], strict=True))
    schedulers = dict(zip(objective.turns, prepared[len(made) :], strict=True))
    ema = None
    if config.ema_decay:
        ema = EMAModel(objective.trained(objective.turns[0]).parameters(), decay=config.ema_decay)
        accelerator.register_for_checkpointing(ema)

    step = resume(accelerator, config)
    if ema is not None:
        ema.to(accelerator.device)  # a checkpoint's average is loaded onto the CPU
    log = RunLog(accelerator, config, step)
    bar = tqdm(initial=step, total=last, desc="training", unit="step", disable=not accelerator.is_main_process)
    started = time.perf_counter()
    wrapped.train()
    while step < last:
        dataset.set_epoch(step // per_epoch)
        for batches in _steps_of_epoch(loader, step, per_epoch, config.gradient_accumulation_steps):
            figures: dict[str, float] = {}
            for turn, optimizer in optimizers.items():
                figures |= _gradients(accelerator, wrapped, batches, turn, step)
                accelerator.clip_grad_norm_(objective.trained(turn).parameters(), config.max_grad_norm)
                optimizer.step()
                if not optimizer.step_was_skipped:  # as fp16 does where gradients overflow
                    schedulers[turn].step()
                wrapped.zero_grad(set_to_none=True)
            step += 1
            if ema is not None:
                ema.step(objective.trained(objective.turns[0]).parameters())
            figures["lr"] = schedulers[objective.turns[0]].get_last_lr()[0]
            log.write(step, figures | {"seconds": time.perf_counter() - started})
            losses = {name: f"{value:.3g}" for name, value in figures.items() if name.startswith("loss")}
            bar.set_postfix(losses, refresh=False)
            bar.update()
            if config.validation_steps and step % config.validation_steps == 0:
                with finished(accelerator, wrapped, objective, ema, whole) as shown:
                    _validate(accelerator, shown, log, step)
            if step % config.checkpointing_steps == 0 and step < last:
                save(accelerator, config, step)
                with finished(accelerator, wrapped, objective, ema, whole) as shown:
                    _write(accelerator, shown, config)
            if step == last:
                save(accelerator, config, step)
                break
    bar.close()
    with finished(accelerator, wrapped, objective, ema, whole) as shown:
        _write(accelerator, shown, config)
        if accelerator.is_main_process and config.push_to_hub:
            hub.push(config)
    if ema is not None:  # the finished model is the average; the caller's modules are it from here on
        ema.copy_to(list(objective.trained(objective.turns[0]).parameters()))
    accelerator.end_training()


def _accelerator(config: TrainConfig, turns: Sequence[str]) -> Accelerator:
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,  # one step of the rate a step of the weights, however many processes
        log_with=config.report_to,
        project_config=ProjectConfiguration(
            project_dir=str(config.output_dir), logging_dir=str(config.output_dir / config.logging_dir)
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        # a turn of an adversarial objective leaves the other side's parameters without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(turns) > 1)],
    )


def _whole_copy(accelerator: Accelerator, objective: Objective, config: TrainConfig) -> Objective | None:
    """FSDP leaves shards in the objective's modules: a copy to gather them into for saving and sheets."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return None
    if config.ema_decay:
        raise ValueError("--ema_decay: FSDP shards the weights, and their average cannot be kept; use DDP or 0")
    if len(objective.turns) > 1:
        raise ValueError("FSDP trains objectives of one turn; an adversarial one needs DDP")
    shared = {id(value): value for name, value in vars(objective).items() if not name.startswith("_")}
    return copy.deepcopy(objective, shared)  # of the modules that are trained; what else an objective holds is shared


def _optimizer(parameters: Iterable[nn.Parameter], rate: float, config: TrainConfig) -> torch.optim.Optimizer:
    kind: Any = torch.optim.AdamW
    if config.use_8bit_adam:
        import bitsandbytes

        kind = bitsandbytes.optim.AdamW8bit
    return kind(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )


def _steps_of_epoch(loader: Any, step: int, per_epoch: int, accumulate: int) -> Iterator[list[Any]]:
    """The batches of each remaining step of the epoch that ``step`` lies in, grouped by gradient accumulation."""
    epoch, done = divmod(step, per_epoch)
    loader.set_epoch(epoch)
    if done:
        loader = skip_first_batches(loader, done * accumulate)
        loader.set_epoch(epoch)  # the new loader counts from 0 in some versions of accelerate
    group: list[Any] = []
    for batch in loader:
        group.append(batch)
        if len(group) == accumulate:
            yield group
            group = []


def _gradients(
    accelerator: Accelerator, wrapped: nn.Module, batches: list[Any], turn: str, step: int
) -> dict[str, float]:
    """Leave the mean gradient of a step's batches in the parameters; the means of what there is to log."""
    each: list[dict[str, float]] = []
    for batch in batches:
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(wrapped):
            with accelerator.autocast():
                loss, logged = wrapped(batch, turn, step)
            accelerator.backward(loss)
        each.append({"loss" if turn == "model" else f"loss_{turn}": float(loss.detach())} | logged)
    everywhere = gather_object(each)
    names = dict.fromkeys(name for logged in everywhere for name in logged)  # a batch may lack what others can tell
    return {name: fmean(logged[name] for logged in everywhere if name in logged) for name in names}


def _validate(accelerator: Accelerator, objective: Objective, log: RunLog, step: int) -> None:
    """Draw a contact sheet; the training's noise goes on as if it had not been drawn."""
    if not accelerator.is_main_process:
        return
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), accelerator.autocast():
        sheet = objective.validate()
    if sheet is not None:
        log.show(step, sheet)


def _write(accelerator: Accelerator, objective: Objective, config: TrainConfig) -> None:
    """The finished models and their card."""
    if accelerator.is_main_process:
        objective.save(config.output_dir)
        (config.output_dir / "README.md").write_text(model_card(objective, config))
