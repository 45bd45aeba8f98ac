"""Worker processes, local and of Ray: a worker that dies is replaced, and all share the pseudonym store."""

import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from deid_diffusion.batch.executors import actor_resources, run_in_processes, run_on_ray, worker_device
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import DeidError
from tests.batch.fakes import CONFIG, failed, linking_config, load_and_die, load_missing, process, put_photos, written


@pytest.fixture(autouse=True)
def _niceness(workdir, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers starve beside other processes


def local(config: JobConfig):
    return partial(run_in_processes, config, 2)


def ray(config: JobConfig):
    pytest.importorskip("ray")
    return partial(run_on_ray, config, 2, None)


@pytest.mark.parametrize(("engine", "limit", "left_out"), [(local, 1, []), (ray, 99, ["in/p0.png"])])
def test_worker_that_dies(engine, limit, left_out, workdir):
    put_photos(range(8))  # number 0 kills its first worker, or each
    config = linking_config(workdir / "deaths", limit)
    outcomes, _ = process(config, engine(config))
    assert failed(outcomes) == left_out
    assert sorted(outcome.report.input for outcome in outcomes) == [f"in/p{k}.png" for k in range(8)]
    assert written() == [f"p{k}.png" for k in range(len(left_out), 8)]
    assert len(list((workdir / "deaths").iterdir())) == min(limit, 2)
    known = {name for name, _ in config.options.pseudonyms.people()}
    assert {face.pseudonym for outcome in outcomes for face in outcome.report.faces} == known
    assert len(known) == 2


@pytest.mark.parametrize(
    ("engine", "load", "message"), [(ray, load_missing, "^no such model$"), (local, load_and_die, "fewer --workers")]
)
def test_model_cannot_be_loaded(engine, load, message):
    put_photos(range(1, 3))
    with pytest.raises(DeidError, match=message):
        process(engine=engine(JobConfig(load)))
    assert written() == []


def test_missing_store(workdir):
    put_photos(range(1, 3))
    config = linking_config(workdir / "deaths")
    config.options.pseudonyms.store.unlink()
    with pytest.raises(DeidError, match=r"people: no such file on .*: put the store"):
        process(config, local(config))


def test_nothing_to_do_starts_no_worker():
    assert process(engine=local(JobConfig(load_missing)))[0] == []
    assert process(engine=partial(run_on_ray, CONFIG, 2, "ray://nowhere:1"))[0] == []


def test_workers_end_with_coordinator(workdir):
    put_photos(range(1, 4))
    Path("run.py").write_text("""
import multiprocessing, os, signal
from deid_diffusion.batch.executors import run_in_processes
from tests.batch.fakes import LIGHT, process

def engine(tasks):
    for result in run_in_processes(LIGHT, 1, tasks):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    process(LIGHT, engine)
""")
    run = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(run.stdout)).wait(60)


@pytest.mark.parametrize(("gpus", "devices"), [(2, ["cuda:0", "cuda:1", "cuda:0"]), (0, ["auto"] * 3)])
def test_worker_devices(gpus, devices, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert [worker_device("auto", number) for number in range(3)] == devices
    assert worker_device("cpu", 1) == "cpu"


def test_actor_resources():
    assert actor_resources({"CPU": 16.0}, None) == (4, {"num_cpus": 4})
    assert actor_resources({"CPU": 2.0}, None) == (1, {"num_cpus": 2})
    assert actor_resources({"CPU": 2.0}, 4) == (4, {"num_cpus": 0.5})
    assert actor_resources({"CPU": 16.0, "GPU": 4.0}, None) == (4, {"num_gpus": 1, "num_cpus": 1})
    assert actor_resources({"CPU": 16.0, "GPU": 1.0}, 2) == (2, {"num_gpus": 0.5, "num_cpus": 1})
