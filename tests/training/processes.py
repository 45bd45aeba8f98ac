"""Trainings in separate processes for test_distributed: python processes.py FOLDER

One interpreter imports everything and forks the processes of each scenario, which leaves a folder.
"""

import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

from accelerate import Accelerator, DistributedType, PartialState
from line import Line, run

SECONDS = 100
"""Time limit of a scenario."""
DDP = {"ACCELERATE_USE_CPU": "true"}
FSDP = {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def train(environment: dict[str, str], *args: object, **options: object) -> None:
    os.environ |= environment
    if "ACCELERATE_USE_FSDP" in environment:  # accelerate offers FSDP for GPUs only, torch for gloo too
        PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    run(*args, **options)


def fork(count: int, environment: dict[str, str], *args: object, **options: object) -> set[int]:
    """Return the exit codes of ``count`` processes that train together."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **environment}
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)} if count > 1 else {}
    context = multiprocessing.get_context("fork")
    processes = []
    for rank in range(count):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
        processes.append(context.Process(target=train, args=({**common, **size, **ranks}, *args), kwargs=options))
        processes[-1].start()
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return {process.exitcode for process in processes}


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
    both = {"train_batch_size": 2}
    ok, killed = {0}, {-signal.SIGKILL}
    assert fork(2, DDP, folder / "ddp", 8, Line(noise=0), lr_scheduler="cosine", **both) == ok
    assert fork(2, DDP, folder / "ddp_uninterrupted", 8, Line(), **both) == ok
    assert fork(2, DDP, folder / "ddp_resumed", 4, Line(), **both) == ok
    assert fork(2, DDP, folder / "ddp_resumed", 8, Line(), resume_from_checkpoint="latest", **both) == ok
    assert fork(2, FSDP, folder / "fsdp", 4, Line(noise=0), ema_decay=0.0, **both) == ok
    again = {"resume_from_checkpoint": "latest", "validation_steps": 7, "ema_decay": 0.0}
    assert fork(2, FSDP, folder / "fsdp", 8, Line(noise=0), **again, **both) == ok
    assert fork(1, {}, folder / "step", 13, KilledInStep()) == killed
    assert fork(1, {}, folder / "checkpoint", 13, KilledInCheckpoint()) == killed
    assert fork(1, {}, folder / "bf16_uninterrupted", 6, Line(), mixed_precision="bf16") == ok
    assert fork(1, {}, folder / "bf16_resumed", 4, Line(), mixed_precision="bf16") == ok
    assert (
        fork(1, {}, folder / "bf16_resumed", 6, Line(), mixed_precision="bf16", resume_from_checkpoint="latest") == ok
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
