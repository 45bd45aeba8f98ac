"""Tar shards: keys, suffixes and labels as they were, pictures in their places; pieces, damage and restarts."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.batch import dataset as run_module
from deid_diffusion.batch import shards
from deid_diffusion.batch.executors import processes
from deid_diffusion.batch.tasks import JobConfig
from tests.batch.fakes import RECIPE, decoded, encoded, load_deadly, pixels
from tests.batch.test_dataset import manifest, process, written
from tests.fake_anonymizer import expected

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "PIECE", 2)
    Path("in").mkdir()


def shard(name: str, *members: tuple[str, bytes], mode: str = "w") -> None:
    with tarfile.open(Path("in", name), mode) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size, info.uname = len(data), "someone"
            tar.addfile(info, io.BytesIO(data))


def samples(count: int) -> list[tuple[str, bytes]]:
    return [
        one
        for k in range(count)
        for one in ((f"d/{k:03}.jpg", encoded(k + 1)), (f"d/{k:03}.cls", b"%d" % k), (f"d/{k:03}.json", b'{"k": 1}'))
    ]


def content(path: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_keys_and_labels_are_kept(name, mode):
    shard(name, *samples(5), mode=mode)
    outcomes, _ = process()
    assert written() == [name]
    rows = list(webdataset.WebDataset(f"out/{name}", shardshuffle=False))
    assert [row["__key__"] for row in rows] == [f"d/{k:03}" for k in range(5)]
    for k, row in enumerate(rows):
        assert row["cls"] == b"%d" % k
        assert row["json"] == b'{"k": 1}'
        np.testing.assert_array_equal(decoded(row["png"]), expected(pixels(k + 1)))
    with tarfile.open(f"out/{name}") as tar:
        assert {member.uname for member in tar} == {""}
    assert [one.report.output for one in outcomes] == [f"{name}/d/{k:03}.png" for k in range(5)]
    whole = [line for line in manifest() if "file" in line]
    assert [(line["file"], line["output"], line["items"]) for line in whole] == [(f"in/{name}", name, 5)]


def test_what_may_be_a_picture_is_left_out_with_its_sample():
    shard(
        "a.tar",
        *[("0.png", encoded(1)), ("0.npy", b"12"), ("1.png", encoded(2)), ("1.cls", b"1"), ("2.png", b"no photo")],
        *[("3.png", encoded(3)), ("3.jpg", encoded(4)), ("4.left.png", encoded(5)), ("4.right.png", encoded(6))],
        *[("5.json", b"a" * 5000), ("README", b"text"), ("6.txt", b"no picture")],
    )
    outcomes, _ = process()
    assert sorted(content("out/a.tar")) == ["1.cls", "1.png", "4.left.png", "4.right.png", "6.txt"]
    messages = " ".join(one.message or "" for one in outcomes)
    for part in ("0.npy: nobody knows", "2.png: is not a photo", "the same name", "5.json: holds encoded", "README"):
        assert part in messages
    alone = [one.report for one in outcomes if one.report.input == "in/a.tar/0.png"]
    assert [(one.status, one.output) for one in alone] == [("failed", None)]
    Path("out").rename("old")
    process(replace(RECIPE, copied=frozenset({".npy"})))
    assert content("out/a.tar")["0.npy"] == b"12"


def test_a_damaged_shard_is_reported_and_tried_again():
    shard("a.tar", *samples(4))
    whole = Path("in/a.tar").read_bytes()
    for end in (100, 3000, 3072, len(samples(4)) * 1024):
        Path("in/a.tar").write_bytes(whole[:end])
        (outcome,), _ = process()
        assert "a.tar: is damaged" in outcome.message
        assert written() == []
    Path("in/a.tar").write_bytes(whole)
    process()
    assert len(content("out/a.tar")) == 12


def test_a_killed_run_goes_on_within_a_shard(monkeypatch):
    shard("a.tar", *samples(7))
    real = run_module.DatasetRun._settle
    settled = []

    def killed(self, done):
        if len(settled) == 2:
            raise KeyboardInterrupt
        settled.append(done)
        real(self, done)

    monkeypatch.setattr(run_module.DatasetRun, "_settle", killed)
    with pytest.raises(KeyboardInterrupt):
        process()
    assert written() == []
    monkeypatch.setattr(run_module.DatasetRun, "_settle", real)
    outcomes, run = process()
    assert [len(outcomes), run.known] == [3, 4]
    assert len(content("out/a.tar")) == 21
    assert process()[0] == []
    Path("out/a.tar").unlink()
    assert len(process()[0]) == 7
    shard("a.tar", *samples(3))
    assert len(process()[0]) == 3
    assert len(content("out/a.tar")) == 9


def test_a_sample_that_kills_its_workers_is_left_out_alone(tmp_path):
    shard("a.tar", ("0.png", encoded(0)), ("1.png", encoded(1)), ("2.png", encoded(2)))
    (tmp_path / "deaths").mkdir()
    recipe = JobConfig(load_deadly, f"{tmp_path / 'deaths'}:99")
    outcomes, _ = process(recipe, partial(processes, recipe, 1))
    assert sorted(content("out/a.tar")) == ["1.png", "2.png"]
    assert [one.report.input for one in outcomes if one.report.status == "failed"] == ["in/a.tar/0"]


def test_pieces_are_small():
    assert shards.PIECE <= 32
