"""Workers of one machine: one that dies costs nothing, and each has its GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from deid_diffusion.batch import executors
from deid_diffusion.batch.executors import Cluster, _counted, _device, _shares, processes
from deid_diffusion.batch.tasks import DEATHS, JobConfig, SourceFile, Task
from deid_diffusion.errors import DeidError
from deid_diffusion.results import JobResult
from tests.batch.fakes import RECIPE, linking_once_killed, missing_model, pixels, put
from tests.batch.test_dataset import manifest, process, written


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers starve beside other work
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the workers import the fakes
    Path("in").mkdir()


def test_a_worker_that_dies_costs_nothing_and_all_workers_share_the_store(tmp_path):
    put(range(6))  # number 0 kills its worker, once
    recipe = linking_once_killed(tmp_path / "deaths")
    outcomes, _ = process(recipe, partial(processes, recipe, 2))
    assert sorted(one.report.input for one in outcomes) == [f"in/p{k}.png" for k in range(6)]
    assert len(written()) == 6
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    known = {name for name, _ in recipe.options.pseudonyms.people()}
    assert {one.report.faces[0].pseudonym for one in outcomes} == known


def test_an_error_of_all_workers_is_one_line():
    put(range(1, 3))
    recipe = JobConfig(missing_model)
    with pytest.raises(DeidError, match="no such model"):
        process(recipe, partial(processes, recipe, 2))
    assert written() == []


def test_nothing_to_do_begins_no_worker():
    assert process(RECIPE, partial(processes, JobConfig(missing_model), 2))[0] == []


def test_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_device("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert _device("cpu", 1) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _device("auto", 1) == "auto"


ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


def test_a_killed_worker_costs_nothing_and_all_workers_share_the_store(tmp_path):
    put(range(12))  # number 0 kills its worker, once
    recipe = linking_once_killed(tmp_path / "deaths")
    outcomes, _ = process(recipe, Cluster(recipe, 2, None))
    assert sorted(one.report.input for one in outcomes) == sorted(f"in/p{k}.png" for k in range(12))
    assert written() == sorted(f"p{k}.png" for k in range(12))
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert len(manifest()) == 12
    found = {(int(pixels(number_of(one))[0, 0, 0]) % 2, one.report.faces[0].pseudonym) for one in outcomes}
    assert sorted(parity for parity, _ in found) == [0, 1]
    assert {name for _, name in found} == {name for name, _ in recipe.options.pseudonyms.people()}


def test_what_goes_on_killing_workers_is_found(tmp_path, monkeypatch):
    task = Task("tar", SourceFile(Path("a.tar"), "a.tar", "a.tar", ""), "a.tar", tmp_path, count=2)
    monkeypatch.setattr(executors, "carry_out", die)
    deaths = 0
    while True:  # as Ray does
        try:
            done = _counted(task, None)
        except SystemExit:
            deaths += 1
        else:
            break
    assert deaths == 2 + 2 * DEATHS
    assert [(one.task.first, one.task.count, one.made, one.failed) for one in done] == [
        (0, 1, None, True),
        (1, 1, None, True),
    ]


def die(task, workshop):
    raise SystemExit


def number_of(outcome: JobResult) -> int:
    return int(Path(outcome.report.input).stem[1:])


def test_nothing_to_do_begins_no_cluster():
    assert process(RECIPE, Cluster(RECIPE, 2, "ray://nowhere:1"))[0] == []


def test_workers_and_their_shares():
    assert _shares({"CPU": 16.0}, None) == (4, {"num_cpus": 4})
    assert _shares({"CPU": 2.0}, None) == (1, {"num_cpus": 2})
    assert _shares({"CPU": 2.0}, 4) == (4, {"num_cpus": 0.5})
    assert _shares({"CPU": 16.0, "GPU": 4.0}, None) == (4, {"num_gpus": 1, "num_cpus": 1})
    assert _shares({"CPU": 16.0, "GPU": 1.0}, 2) == (2, {"num_gpus": 0.5, "num_cpus": 1})
