"""Worker processes, local and of Ray: a worker that dies costs nothing, and all share the pseudonym store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from deid_diffusion.batch.executors import actor_resources, run_in_processes, run_on_ray, worker_device
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import DeidError
from tests.batch.fakes import (
    CONFIG,
    failed,
    linking_config,
    load_and_die,
    load_missing,
    manifest,
    process,
    put_photos,
    written,
)


@pytest.fixture(autouse=True)
def _niceness(workdir, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers starve beside other processes


def run_locally(config: JobConfig):
    return partial(run_in_processes, config, 2)


def run_with_ray(config: JobConfig):
    pytest.importorskip("ray")
    return partial(run_on_ray, config, 2, None)


@pytest.mark.parametrize(
    ("engine", "limit", "left_out"), [(run_locally, 1, []), (run_with_ray, 99, ["in/p0.png"])], ids=["local", "ray"]
)
def test_worker_that_dies(engine, limit, left_out, workdir):
    put_photos(range(8))  # number 0 kills its first worker, or each
    config = linking_config(workdir / "deaths", limit)
    outcomes, _ = process(config, engine(config))
    assert failed(outcomes) == left_out
    assert sorted(outcome.report.input for outcome in outcomes) == [f"in/p{k}.png" for k in range(8)]
    assert written() == [f"p{k}.png" for k in range(len(left_out), 8)]
    assert len(manifest()) == 8
    assert len(list((workdir / "deaths").iterdir())) == min(limit, 2)
    known = {name for name, _ in config.options.pseudonyms.people()}
    assert {face.pseudonym for outcome in outcomes for face in outcome.report.faces} == known
    assert len(known) == 2


def test_error_of_ray_worker():
    put_photos(range(1, 3))
    config = JobConfig(load_missing)
    with pytest.raises(DeidError, match=r"^no such model$"):
        process(config, run_with_ray(config))
    assert written() == []


def test_worker_that_dies_while_loading():
    put_photos(range(1, 3))
    config = JobConfig(load_and_die)
    with pytest.raises(DeidError, match="use fewer --workers"):
        process(config, run_locally(config))


def test_missing_store(workdir):
    put_photos(range(1, 3))
    config = linking_config(workdir / "deaths")
    config.options.pseudonyms.store.unlink()
    with pytest.raises(DeidError, match=r"people: no such file on .*: put the store"):
        process(config, run_locally(config))


@pytest.mark.parametrize(
    "engine", [partial(run_in_processes, JobConfig(load_missing), 2), partial(run_on_ray, CONFIG, 2, "ray://nowhere:1")]
)
def test_nothing_to_do_starts_no_worker(engine):
    assert process(CONFIG, engine)[0] == []


def test_workers_end_with_coordinator(workdir):
    script = (
        "import os, signal\nfrom tests.batch.fakes import *\nfrom deid_diffusion.batch.executors import *\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    put_photos(range(1, 4))\n"
        "    def engine(tasks):\n"
        "        for result in run_in_processes(CONFIG, 1, tasks):\n"
        "            print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    process(CONFIG, engine)\n"
    )
    Path("run.py").write_text(script)
    run = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    (worker,) = map(int, run.stdout.split())
    for _ in range(600):
        if not is_running(worker):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker outlives its coordinator")


def is_running(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(("gpus", "devices"), [(2, ["cuda:0", "cuda:1", "cuda:0"]), (0, ["auto"] * 3)])
def test_worker_devices(gpus, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert [worker_device("auto", number) for number in range(3)] == devices
    assert worker_device("cpu", 1) == "cpu"


@pytest.mark.parametrize(
    ("cluster", "workers", "count", "resources"),
    [
        ({"CPU": 16.0}, None, 4, {"num_cpus": 4}),
        ({"CPU": 2.0}, None, 1, {"num_cpus": 2}),
        ({"CPU": 2.0}, 4, 4, {"num_cpus": 0.5}),
        ({"CPU": 16.0, "GPU": 4.0}, None, 4, {"num_gpus": 1, "num_cpus": 1}),
        ({"CPU": 16.0, "GPU": 1.0}, 2, 2, {"num_gpus": 0.5, "num_cpus": 1}),
    ],
)
def test_actor_resources(cluster, workers, count, resources):
    assert actor_resources(cluster, workers) == (count, resources)
