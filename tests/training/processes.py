"""Trainings in separate processes for test_distributed: python processes.py FOLDER

One interpreter imports everything and forks the processes of all scenarios, each of which leaves a folder.
"""

import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.context import ForkProcess
from pathlib import Path

from accelerate import Accelerator, DistributedType, PartialState
from line import Line, run

SECONDS = 100
"""Time limit of the scenarios that run at once."""
DDP = {"ACCELERATE_USE_CPU": "true"}
FSDP = {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def train(environment: dict[str, str], folder: Path, *args: object, **options: object) -> None:
    os.environ |= environment
    if "ACCELERATE_USE_FSDP" in environment:  # accelerate offers FSDP for GPUs only, torch for gloo too
        PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    run(folder, *args, **options)


def start(environment: dict[str, str], *args: object, **options: object) -> list[ForkProcess]:
    """Fork a training: two processes with the environment of a distributed one, or a single process."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environments = [{}]
    if environment:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environments = [environment | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        options["train_batch_size"] = 2
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train, args=(rank, *args), kwargs=options) for rank in environments]
    for process in processes:
        process.start()
    return processes


def check(scenarios: dict[str, list[ForkProcess]]) -> None:
    """Wait for scenarios, and demand that those of a kill were killed and all others succeeded."""
    for name, processes in scenarios.items():
        for process in processes:
            process.join(SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            assert process.exitcode == (-signal.SIGKILL if name.startswith("killed") else 0), name


class KilledInStep(Line):
    def forward(self, batch, phase, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch, phase, step)


def write_half_checkpoint(accelerator: Accelerator, folder: str) -> None:
    Path(folder).mkdir()
    (Path(folder) / "model.safetensors").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)


class KilledInCheckpoint(Line):
    def forward(self, batch, phase, step):
        if step == 5:
            Accelerator.save_state = write_half_checkpoint
        return super().forward(batch, phase, step)


def main(folder: Path) -> None:
    bf16, resume = {"mixed_precision": "bf16"}, {"resume_from_checkpoint": "latest"}
    first = {
        "ddp": start(DDP, folder / "ddp", 8, Line(noise=0), lr_scheduler="cosine"),
        "ddp_uninterrupted": start(DDP, folder / "ddp_uninterrupted", 8, Line()),
        "ddp_resumed": start(DDP, folder / "ddp_resumed", 4, Line()),
        "fsdp": start(FSDP, folder / "fsdp", 4, Line(noise=0), ema_decay=0.0),
        "killed_in_step": start({}, folder / "step", 13, KilledInStep()),
        "killed_in_checkpoint": start({}, folder / "checkpoint", 13, KilledInCheckpoint()),
        "bf16_uninterrupted": start({}, folder / "bf16_uninterrupted", 6, Line(), **bf16),
        "bf16_resumed": start({}, folder / "bf16_resumed", 4, Line(), **bf16),
    }
    check(first)
    second = {
        "ddp_resumed": start(DDP, folder / "ddp_resumed", 8, Line(), **resume),
        "fsdp": start(FSDP, folder / "fsdp", 8, Line(noise=0), **resume, validation_steps=7, ema_decay=0.0),
        "bf16_resumed": start({}, folder / "bf16_resumed", 6, Line(), **bf16, **resume),
    }
    check(second)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
