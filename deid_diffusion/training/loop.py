"""Training loop on Accelerate for any ``Objective``: exact resume, log, contact sheets, model card."""

from __future__ import annotations

import copy
import json
import logging
import re
import shutil
import time
from collections import Counter, defaultdict
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
from huggingface_hub import ModelCardData
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..pipelines.publishing import TAGS, USES, figures, reason, table, upload
from .config import TrainConfig, read_log
from .data import FaceDataset
from .generator import Objective

_logger = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SINGLE_IMAGE_TRACKERS = ("aim", "clearml")  # the others' ``log_images`` takes a batch
_MEAN_OVER = 100  # last steps over which the card's losses are averaged
# licences of the sources in the built-in model's recipe, for manifests without a ``license`` column
_LICENSES = {"sfhq": "MIT", "sfhq_t2i": "MIT", "faker": "CC0-1.0", "voteview": "US government work"}
# files that are not uploaded: training states, encoded training faces and pictures of them
_PRIVATE = ("checkpoint-*", "partial-*", "encoded/*", "validation/*")


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the complete checkpoints of an output folder by their step, oldest first."""
    matches = ((_CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("checkpoint-*"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def resume(accelerator: Accelerator, config: TrainConfig) -> int:
    """Load the checkpoint to resume from, if any, remove what a killed run left half-written, and return the step.

    Raises FileNotFoundError for a named checkpoint that does not exist, ValueError if the output folder holds
    checkpoints of later steps, of another run.
    """
    checkpoints, name = list_checkpoints(config.output_dir), config.resume_from_checkpoint
    step = 0
    if name == "latest":
        step = max(checkpoints, default=0)
    elif name is not None:
        folder = Path(name) if Path(name).is_dir() else config.output_dir / Path(name).name
        match = _CHECKPOINT.fullmatch(folder.name)
        if match is None or not folder.is_dir():
            raise FileNotFoundError(f"--resume_from_checkpoint {name}: no such checkpoint folder: check the name")
        step = int(match[1])
        checkpoints[step] = folder
    if later := [path.name for saved, path in checkpoints.items() if saved > step]:
        raise ValueError(
            f"{config.output_dir} holds {later[-1]}, but this run starts at step {step}: pass "
            f"--resume_from_checkpoint latest or another --output_dir, or remove it"
        )
    if step:
        accelerator.load_state(str(checkpoints[step]))
    if accelerator.is_main_process:
        for partial in config.output_dir.glob("partial-*"):
            shutil.rmtree(partial)
    return step


def save_checkpoint(accelerator: Accelerator, config: TrainConfig, step: int) -> None:
    """Write a checkpoint and remove the oldest.

    It gets its name when it is complete: Accelerate's automatic naming would resume from a half-written folder.
    """
    partial = config.output_dir / f"partial-{step}"
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()  # each process writes its own random state
    if accelerator.is_main_process:
        partial.rename(config.output_dir / f"checkpoint-{step}")
        for old in list(list_checkpoints(config.output_dir).values())[: -config.checkpoints_total_limit]:
            shutil.rmtree(old.rename(old.with_name(f"partial-{old.name}")))


@contextmanager
def evaluation_weights(
    accelerator: Accelerator,
    wrapped: nn.Module,
    objective: Objective,
    ema: EMAModel | None,
    unsharded: Objective | None,
) -> Iterator[Objective]:
    """Yield the objective in eval mode with the weights to save: averaged, or gathered from their shards.

    With sharded training, all processes must enter, and `unsharded` is a copy of the objective to gather into.
    """
    if unsharded is not None:
        state = accelerator.get_state_dict(wrapped)
        if accelerator.is_main_process:
            unsharded.load_state_dict(state)
            unsharded.eval().to(accelerator.device)
        yield unsharded
        unsharded.cpu()
        return
    parameters = list(objective.trainable(objective.phases[0]).parameters())
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    objective.eval()
    yield objective
    objective.train()
    if ema is not None:
        ema.restore(parameters)


class RunLog:
    """Log of a run that continues after ``step``, written by the main process."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, step: int) -> None:
        self.accelerator, self.folder = accelerator, config.output_dir
        if not accelerator.is_main_process:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # drop the lines of steps that are about to be repeated
        kept = "".join(json.dumps(row) + "\n" for row in read_log(self.folder) if row["step"] <= step)
        (self.folder / "log.jsonl.new").write_text(kept)
        (self.folder / "log.jsonl.new").replace(self.folder / "log.jsonl")
        if config.report_to is not None:
            accelerator.init_trackers(self.folder.resolve().name, config.public_options())

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a step."""
        if self.accelerator.is_main_process:
            row = {"step": step} | {name: round(value, 6) for name, value in figures.items()}
            with (self.folder / "log.jsonl").open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            self.accelerator.log(dict(figures), step=step)

    def write_image(self, step: int, sheet: np.ndarray) -> None:
        """Save a contact sheet, (H, W, 3) uint8, as ``validation/step-000500.png`` and to trackers that take images."""
        path = self.folder / "validation" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(sheet).save(path)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                images = sheet if tracker.name in _SINGLE_IMAGE_TRACKERS else sheet[None]
                tracker.log_images({"validation": images}, step=step, **layout)


def train(objective: Objective, dataset: FaceDataset, config: TrainConfig) -> None:
    """Train an objective to the last step, and write its models and their card; it is left with the final weights.

    ``log.jsonl`` in the output folder gets a line per step, means over batches and processes. A resumed run continues
    within the epoch with the same batches and noise. N processes take the steps of one process with N times the
    accumulation. With FSDP the final weights are written but not left in the objective.

    Raises ValueError for a data set smaller than one step, or an option that does not work with FSDP, and as `resume`.
    """
    accelerator = _accelerator(config, objective.phases)
    unsharded = _unsharded_copy(accelerator, objective, config)
    set_seed(config.seed, device_specific=True)
    if config.allow_tf32:
        torch.set_float32_matmul_precision("high")
    if config.gradient_checkpointing:
        objective.enable_gradient_checkpointing()
    step_size = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    per_epoch = len(dataset) // step_size
    if not per_epoch:
        raise ValueError(f"{config.train_data_dir} holds {len(dataset)} crops, fewer than the {step_size} of one step")
    last = config.max_train_steps or config.num_train_epochs * per_epoch
    loader: Any = DataLoader(
        dataset,
        config.train_batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.dataloader_num_workers,
        generator=torch.Generator(),  # separate, so that restarting an epoch on resume does not advance the noise's
    )
    rate = config.learning_rate * (step_size if config.scale_lr else 1)
    unprepared = [_optimizer(objective.trainable(phase).parameters(), rate, config) for phase in objective.phases]
    warm_up = {"num_warmup_steps": config.lr_warmup_steps, "num_training_steps": last}
    rates = [get_scheduler(config.lr_scheduler, optimizer, **warm_up) for optimizer in unprepared]
    wrapped, loader, *prepared = accelerator.prepare(objective, loader, *unprepared, *rates)
    optimizers = dict(zip(objective.phases, prepared[: len(unprepared)], strict=True))
    schedulers = dict(zip(objective.phases, prepared[len(unprepared) :], strict=True))
    ema = None
    if config.ema_decay:
        ema = EMAModel(objective.trainable(objective.phases[0]).parameters(), decay=config.ema_decay)
        accelerator.register_for_checkpointing(ema)

    step = resume(accelerator, config)
    if ema is not None:
        ema.to(accelerator.device)  # load_state leaves it on the CPU
    log = RunLog(accelerator, config, step)
    bar = tqdm(initial=step, total=last, desc="training", unit="step", disable=not accelerator.is_main_process)
    started = time.perf_counter()
    wrapped.train()
    while step < last:
        dataset.set_epoch(step // per_epoch)
        for batches in _steps_of_epoch(loader, step, per_epoch, config.gradient_accumulation_steps):
            figures: dict[str, float] = {}
            for phase, optimizer in optimizers.items():
                figures |= _gradients(accelerator, wrapped, batches, phase, step)
                accelerator.clip_grad_norm_(objective.trainable(phase).parameters(), config.max_grad_norm)
                optimizer.step()
                if not optimizer.step_was_skipped:  # fp16 skips steps whose gradients overflow
                    schedulers[phase].step()
                wrapped.zero_grad(set_to_none=True)
            step += 1
            if ema is not None:
                ema.step(objective.trainable(objective.phases[0]).parameters())
            figures["lr"] = schedulers[objective.phases[0]].get_last_lr()[0]
            log.write(step, figures | {"seconds": time.perf_counter() - started})
            losses = {name: f"{value:.3g}" for name, value in figures.items() if name.startswith("loss")}
            bar.set_postfix(losses, refresh=False)
            bar.update()
            if config.validation_steps and step % config.validation_steps == 0:
                with evaluation_weights(accelerator, wrapped, objective, ema, unsharded) as evaluated:
                    _validate(accelerator, evaluated, log, step)
            if step % config.checkpointing_steps == 0 and step < last:
                save_checkpoint(accelerator, config, step)
                with evaluation_weights(accelerator, wrapped, objective, ema, unsharded) as evaluated:
                    _write(accelerator, evaluated, config)
            if step == last:
                save_checkpoint(accelerator, config, step)
                break
    bar.close()
    with evaluation_weights(accelerator, wrapped, objective, ema, unsharded) as evaluated:
        _write(accelerator, evaluated, config)
        if accelerator.is_main_process and config.push_to_hub:
            _push(config)
    if ema is not None:  # leave the average in the caller's modules
        ema.copy_to(list(objective.trainable(objective.phases[0]).parameters()))
    accelerator.end_training()


def _accelerator(config: TrainConfig, phases: Sequence[str]) -> Accelerator:
    return Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,  # one scheduler step per optimizer step for any number of processes
        log_with=config.report_to,
        project_config=ProjectConfiguration(
            project_dir=str(config.output_dir), logging_dir=str(config.output_dir / config.logging_dir)
        ),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        # a phase of an adversarial objective leaves the other's parameters without gradients
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(phases) > 1)],
    )


def _unsharded_copy(accelerator: Accelerator, objective: Objective, config: TrainConfig) -> Objective | None:
    """Return a copy of the objective to gather FSDP's shards into for saving and validation; None without FSDP."""
    if accelerator.distributed_type != DistributedType.FSDP:
        return None
    if config.ema_decay:
        raise ValueError("--ema_decay: not supported with FSDP, which shards the weights: use DDP, or 0")
    if len(objective.phases) > 1:
        raise ValueError("FSDP does not support adversarial objectives: use DDP")
    shared = {id(value): value for name, value in vars(objective).items() if not name.startswith("_")}
    return copy.deepcopy(objective, shared)  # copy modules only


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
    """Yield the batches of each remaining step of the epoch that ``step`` lies in, grouped by accumulation."""
    epoch, done = divmod(step, per_epoch)
    loader.set_epoch(epoch)
    if done:
        loader = skip_first_batches(loader, done * accumulate)
        loader.set_epoch(epoch)  # some versions of accelerate reset it
    yield from map(list, zip(*[iter(loader)] * accumulate, strict=False))


def _gradients(
    accelerator: Accelerator, wrapped: nn.Module, batches: list[Any], phase: str, step: int
) -> dict[str, float]:
    """Accumulate the mean gradient of a step's batches in the parameters; return the means of the logged figures."""
    figures: list[dict[str, float]] = []
    for batch in batches:
        with nullcontext() if batch is batches[-1] else accelerator.no_sync(wrapped):
            with accelerator.autocast():
                loss, logged = wrapped(batch, phase, step)
            accelerator.backward(loss)
        figures.append({"loss" if phase == "model" else f"loss_{phase}": float(loss.detach())} | logged)
    gathered = gather_object(figures)
    names = dict.fromkeys(name for logged in gathered for name in logged)  # a batch may lack some figures
    return {name: fmean(logged[name] for logged in gathered if name in logged) for name in names}


def _validate(accelerator: Accelerator, objective: Objective, log: RunLog, step: int) -> None:
    """Write a contact sheet without advancing the training's random state."""
    if not accelerator.is_main_process:
        return
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), accelerator.autocast():
        sheet = objective.validate()
    if sheet is not None:
        log.write_image(step, sheet)


def _write(accelerator: Accelerator, objective: Objective, config: TrainConfig) -> None:
    """Write the current models and their card."""
    if accelerator.is_main_process:
        objective.save(config.output_dir)
        (config.output_dir / "README.md").write_text(model_card(objective, config))


def model_card(objective: Objective, config: TrainConfig) -> str:
    """Return the model card of a training: models, data, options, losses and measured figures.

    Sources are counted from the cache's ``rows.jsonl``, losses averaged from the output folder's ``log.jsonl``, and
    measured figures read from a ``figures.json`` there, as ``benchmarks/folder.py`` prints it.
    """
    data = ModelCardData(license=objective.license, library_name="diffusers", tags=list(TAGS))
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {config.hub_model_id or config.output_dir.resolve().name}",
        objective.description,
        "## Training data",
        _source_table(config.train_data_dir),
        "## Training",
        _loss_table(config.output_dir),
        table(("option", "value"), [(f"`{name}`", value) for name, value in config.public_options().items()]),
        "## Measured figures",
        figures(config.output_dir),
        USES,
    ]
    return "\n\n".join(sections)


def _source_table(cache: Path) -> str:
    """Return the numbers of photographs and crops of each source."""
    if not (cache / "rows.jsonl").is_file():
        return "Not recorded."
    files: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    crops: Counter[tuple[str, ...]] = Counter()
    for line in (cache / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        source = row.get("source") or "not stated"
        key = (source, row.get("kind") or "not stated", row.get("license") or _LICENSES.get(source, "not stated"))
        files[key].add(row["file"])
        crops[key] += 1
    rows = [(*key, len(files[key]), count) for key, count in sorted(crops.items())]
    return table(("source", "kind", "licence", "photographs", "crops"), rows)


def _loss_table(folder: Path) -> str:
    """Return the means of the logged figures over the last steps."""
    rows = list(read_log(folder))
    if not rows:
        return "No step was logged."
    names = [name for name in rows[-1] if name not in ("step", "seconds", "lr")]
    means = [(name, fmean(row[name] for row in rows[-_MEAN_OVER:] if name in row)) for name in names]
    summary = f"{int(rows[-1]['step'])} optimizer steps. Means over the last {min(_MEAN_OVER, len(rows))}:"
    return f"{summary}\n\n{table(('figure', 'value'), means)}\n\nOptions:"


def _push(config: TrainConfig) -> None:
    """Upload ``output_dir``; a failure is a one-line warning, since the models are on disk."""
    name = config.hub_model_id or config.output_dir.resolve().name
    try:
        ignored = [*_PRIVATE, f"{config.logging_dir}/*"]
        upload(config.output_dir, name, "End of training", token=config.hub_token, ignored=ignored)
    except Exception as error:  # of the hub's client, the network or the name: none may lose the result
        failure, folder = reason(error), config.output_dir
        _logger.warning("--push_to_hub: %s was not uploaded (%s); the model is in %s", name, failure, folder)
