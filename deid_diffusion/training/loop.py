"""The one training loop: Accelerate, checkpoints, exact resume. What is learned is an ``Objective``'s business."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import DataLoader

from .config import TrainConfig
from .data import FaceDataset


class Objective(nn.Module):
    """Models and their loss in one module, so that one ``forward`` is all that DDP and FSDP have to wrap.

    A plain objective has one turn; an adversarial one has two, each with an optimizer of its own.
    """

    turns: tuple[str, ...] = ("model",)

    def trained(self, turn: str) -> nn.Module:
        """The module whose parameters this turn's optimizer moves."""
        raise NotImplementedError

    def forward(self, batch: Mapping[str, torch.Tensor], turn: str, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss (a scalar) of one turn and the figures to log."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write the finished models."""
        raise NotImplementedError


def train(objective: Objective, dataset: FaceDataset, config: TrainConfig) -> None:
    """Run a training to ``max_train_steps``, leave the finished weights in ``objective`` and write them out.

    ``log.jsonl`` in the output folder gets one line a step. A run that was killed and resumed with
    ``resume_from_checkpoint="latest"`` continues in the middle of the epoch with the same batches and noise.

    Raises:
        ValueError: when the data set is smaller than one batch.
        FileNotFoundError: when the checkpoint to resume from does not exist.
    """
    if len(dataset) < config.train_batch_size:
        raise ValueError(f"{config.train_data_dir} holds {len(dataset)} crops, fewer than one batch")
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        project_config=ProjectConfiguration(project_dir=str(config.output_dir)),
        # a turn of an adversarial objective leaves the other side's parameters without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(objective.turns) > 1)],
    )
    set_seed(config.seed, device_specific=True)
    loader: Any = DataLoader(
        dataset,
        config.train_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.dataloader_num_workers,
        generator=torch.Generator(),  # its own, so that starting an epoch anew on resume draws nothing from the noise's
    )
    optimizers = {
        turn: torch.optim.AdamW(
            [p for p in objective.trained(turn).parameters() if p.requires_grad],
            config.learning_rate,
            weight_decay=config.adam_weight_decay,
        )
        for turn in objective.turns
    }
    schedulers = {
        turn: get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps * accelerator.num_processes,
            num_training_steps=config.max_train_steps * accelerator.num_processes,
        )
        for turn, optimizer in optimizers.items()
    }
    ema = None
    if config.ema_decay:
        ema = EMAModel(objective.trained(objective.turns[0]).parameters(), decay=config.ema_decay)
        ema.to(accelerator.device)
        accelerator.register_for_checkpointing(ema)
    wrapped = accelerator.prepare(objective)
    loader = accelerator.prepare(loader)
    optimizers = {turn: accelerator.prepare(optimizer) for turn, optimizer in optimizers.items()}
    schedulers = {turn: accelerator.prepare(scheduler) for turn, scheduler in schedulers.items()}

    step = _resume(accelerator, config)
    if accelerator.is_main_process:
        _cut_log(config.output_dir, step)
    per_epoch = len(loader) // config.gradient_accumulation_steps
    started = time.perf_counter()
    wrapped.train()
    while step < config.max_train_steps:
        dataset.set_epoch(step // per_epoch)
        for batches in _steps_of_epoch(loader, step, per_epoch, config.gradient_accumulation_steps):
            figures: dict[str, float] = {}
            for turn, optimizer in optimizers.items():
                for index, batch in enumerate(batches):
                    last = index == len(batches) - 1
                    accelerator.gradient_state._set_sync_gradients(last)
                    with accelerator.autocast():
                        loss, logged = wrapped(batch, turn, step)
                    if last:
                        accelerator.backward(loss)
                    else:
                        with accelerator.no_sync(wrapped):
                            accelerator.backward(loss)
                figures |= {"loss" if turn == "model" else f"loss_{turn}": float(loss.detach())} | logged
                trained = objective.trained(turn).parameters()
                accelerator.clip_grad_norm_(trained, config.max_grad_norm)
                optimizer.step()
                schedulers[turn].step()
                wrapped.zero_grad(set_to_none=True)
            step += 1
            if ema is not None:
                ema.step(objective.trained(objective.turns[0]).parameters())
            if accelerator.is_main_process:
                _log(config.output_dir, step, figures | {"seconds": time.perf_counter() - started})
            if step % config.checkpointing_steps == 0 or step == config.max_train_steps:
                _checkpoint(accelerator, config, step)
                _save(accelerator, objective, ema, config.output_dir)
            if step == config.max_train_steps:
                break
    accelerator.wait_for_everyone()
    if ema is not None:  # the finished model is the average; the caller's modules are it from here on
        ema.copy_to(list(objective.trained(objective.turns[0]).parameters()))
    if accelerator.is_main_process:
        objective.save(config.output_dir)
    accelerator.end_training()


def _steps_of_epoch(loader: Any, step: int, per_epoch: int, accumulate: int) -> Iterator[list[Any]]:
    """The batches of each remaining step of the epoch that ``step`` lies in, grouped by gradient accumulation."""
    epoch, done = divmod(step, per_epoch)
    loader.set_epoch(epoch)
    group: list[Any] = []
    for batch in skip_first_batches(loader, done * accumulate) if done else loader:
        group.append(batch)
        if len(group) == accumulate:
            yield group
            group = []


def _resume(accelerator: Accelerator, config: TrainConfig) -> int:
    if config.resume_from_checkpoint is None:
        return 0
    folder = Path(config.resume_from_checkpoint)
    if config.resume_from_checkpoint == "latest":
        found = sorted(config.output_dir.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        if not found:
            return 0
        folder = found[-1]
    if not folder.is_dir():
        raise FileNotFoundError(f"--resume_from_checkpoint: there is no folder {folder}")
    accelerator.load_state(str(folder))
    return int(folder.name.split("-")[1])


def _checkpoint(accelerator: Accelerator, config: TrainConfig, step: int) -> None:
    accelerator.save_state(str(config.output_dir / f"checkpoint-{step}"))
    if accelerator.is_main_process:
        found = sorted(config.output_dir.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for old in found[: -config.checkpoints_total_limit]:
            shutil.rmtree(old)


def _save(accelerator: Accelerator, objective: Objective, ema: EMAModel | None, folder: Path) -> None:
    if not accelerator.is_main_process:
        return
    parameters = list(objective.trained(objective.turns[0]).parameters())
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    objective.save(folder)
    if ema is not None:
        ema.restore(parameters)


def _cut_log(folder: Path, step: int) -> None:
    """Drop the lines of steps that are about to be done again."""
    log = folder / "log.jsonl"
    if log.is_file():
        log.write_text("".join(line for line in log.open() if json.loads(line)["step"] <= step))


def _log(folder: Path, step: int, figures: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in figures.items()}) + "\n")
