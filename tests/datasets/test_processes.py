"""Workers of one machine: one that dies costs nothing, and each has its GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from deid_diffusion.datasets.processes import _device, processes
from deid_diffusion.datasets.workshop import Recipe
from deid_diffusion.errors import DeidError

from .fakes import RECIPE, linking_once_killed, missing_model, put
from .test_run import process, written


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
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
    recipe = Recipe(missing_model)
    with pytest.raises(DeidError, match="no such model"):
        process(recipe, partial(processes, recipe, 2))
    assert written() == []


def test_nothing_to_do_begins_no_worker():
    assert process(RECIPE, partial(processes, Recipe(missing_model), 2))[0] == []


def test_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [_device("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert _device("cpu", 1) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert _device("auto", 1) == "auto"
