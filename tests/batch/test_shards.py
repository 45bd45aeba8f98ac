"""WebDataset shards: keys and labels are kept, images are replaced, failed samples are left out whole."""

import io
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.batch import dataset
from deid_diffusion.batch.executors import run_in_processes
from deid_diffusion.batch.journal import RunDirectory
from deid_diffusion.batch.tasks import JobConfig
from tests.batch.fakes import CONFIG, decoded, encoded, failed, load_light, manifest, messages, pixels, process, written
from tests.fake_anonymizer import expected

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(autouse=True)
def _small_pieces(workdir, monkeypatch):
    monkeypatch.setattr(dataset, "PIECE", 2)


def write_shard(name: str, *members: tuple[str, bytes], mode: str = "w") -> None:
    with tarfile.open(Path("in", name), mode) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member)
            info.size, info.uname = len(data), "someone"
            tar.addfile(info, io.BytesIO(data))


def samples(count: int) -> list[tuple[str, bytes]]:
    suffixes = [("jpg", encoded), ("cls", lambda k: b"%d" % (k - 1)), ("json", lambda k: b'{"k": 1}')]
    return [(f"d/{k:03}.{suffix}", content(k + 1)) for k in range(count) for suffix, content in suffixes]


def members(path: str) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_keys_and_labels(name, mode):
    write_shard(name, *samples(5), mode=mode)
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
    assert [outcome.report.output for outcome in outcomes] == [f"{name}/d/{k:03}.png" for k in range(5)]
    records = [line for line in manifest() if "file" in line]
    assert [(line["file"], line["output"], line["items"]) for line in records] == [(f"in/{name}", name, 5)]


def test_failed_samples_are_left_out():
    write_shard(
        "a.tar",
        *[("0.png", encoded(1)), ("0.npy", b"12"), ("1.png", encoded(2)), ("1.cls", b"1"), ("2.png", b"no photo")],
        *[("3.png", encoded(3)), ("3.jpg", encoded(4)), ("4.left.png", encoded(5)), ("4.right.png", encoded(6))],
        *[("5.json", b"a" * 5000), ("README", b"text"), ("6.txt", b"no picture")],
        *[("7.png", encoded(7)), ("7.png", encoded(8))],
    )
    outcomes, _ = process()
    assert sorted(members("out/a.tar")) == ["1.cls", "1.png", "4.left.png", "4.right.png", "6.txt"]
    text = messages(outcomes)
    for part in ("0.npy: may be an image", "2.png: is not a photo", "the same name", "5.json: may embed", "README"):
        assert part in text
    reports = [outcome.report for outcome in outcomes if outcome.report.input == "in/a.tar/0.png"]
    assert [(report.status, report.output) for report in reports] == [("failed", None)]
    Path("out").rename("old")
    process(replace(CONFIG, copied=frozenset({".npy"})))
    assert members("out/a.tar")["0.npy"] == b"12"


def test_damaged_shard():
    write_shard("a.tar", *samples(4))
    complete = Path("in/a.tar").read_bytes()
    for end in (100, 3000, 3072, len(samples(4)) * 1024):
        Path("in/a.tar").write_bytes(complete[:end])
        (outcome,), _ = process()
        assert "a.tar: is damaged" in outcome.message
        assert written() == []
    Path("in/a.tar").write_bytes(complete)
    process()
    assert len(members("out/a.tar")) == 12


def test_resume_within_shard(monkeypatch):
    write_shard("a.tar", *samples(7))
    commit, committed = RunDirectory.commit, []

    def interrupted(self, result):
        if len(committed) == 2:
            raise KeyboardInterrupt
        committed.append(result)
        commit(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process()
    assert written() == []
    outcomes, run = process()
    assert (len(outcomes), run.known) == (3, 4)
    assert len(members("out/a.tar")) == 21
    assert process()[0] == []
    Path("out/a.tar").unlink()
    assert len(process()[0]) == 7
    write_shard("a.tar", *samples(3))
    assert len(process()[0]) == 3
    assert len(members("out/a.tar")) == 9


def test_sample_that_kills_workers(workdir):
    write_shard("a.tar", *((f"{k}.png", encoded(k)) for k in range(3)))
    (workdir / "deaths").mkdir()
    config = JobConfig(load_light, f"{workdir / 'deaths'}:99")
    outcomes, _ = process(config, partial(run_in_processes, config, 1))
    assert sorted(members("out/a.tar")) == ["1.png", "2.png"]
    assert failed(outcomes) == ["in/a.tar/0"]
    assert len(list((workdir / "deaths").iterdir())) == 2
