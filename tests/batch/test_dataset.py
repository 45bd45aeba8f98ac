"""Runs over folders: streaming, resuming, sharing; failures are left out and reported."""

import hashlib
import json
import os
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.batch import tasks
from deid_diffusion.batch.dataset import DatasetRun, run_in_process
from deid_diffusion.batch.executors import WorkShare
from deid_diffusion.batch.journal import WORK, RunDirectory
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options
from tests.batch.fakes import CONFIG, encoded, failed, manifest, messages, pixels, process, put, put_photos, written
from tests.failures import raising
from tests.fake_anonymizer import FakeAnonymizer, expected

pytestmark = pytest.mark.usefixtures("workdir")


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def failing(error: Exception) -> JobConfig:
    return JobConfig(lambda model, device: FakeAnonymizer(hook=raising(error)))


def test_folder_keeps_names_and_labels():
    names = {"a.png": encoded(1), "cats/b.jpg": encoded(2, "JPEG"), "cats/labels.json": b'{"b": 3}', "empty.txt": b""}
    put({**names, "raw.npy": b"1234"})
    outcomes, run = process()
    assert written() == ["a.png", "cats/b.png", "cats/labels.json", "empty.txt"]
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(pixels(1)))
    assert {outcome.report.status for outcome in outcomes} == {"done"}
    assert run.skipped == 1
    lines = {line.get("input") or line["file"]: line for line in manifest()}
    assert list(lines) == [f"in/{name}" for name in names]
    for name, line in lines.items():
        assert line["input_sha256"] == digest(name)
        assert line["output_sha256"] == digest(f"out/{line['output']}")
    assert not list(Path("out", WORK, "scratch").iterdir())


def test_format_keep():
    put({"b.jpg": encoded(2, "JPEG"), "c.gif": encoded(3, "GIF")})
    outcomes, _ = process(replace(CONFIG, file_format="keep"))
    assert written() == ["b.jpg"]
    assert "c.gif: .gif cannot be written" in messages(outcomes)


def test_second_run_processes_failed_and_changed_files():
    put({"a.png": encoded(1), "b.png": b"a text", "c.png": encoded(3)})
    assert failed(process()[0]) == ["in/b.png"]
    put({"c.png": encoded(4)})
    os.utime("in/c.png", (1, 1))
    outcomes, run = process()
    assert sorted(outcome.report.input for outcome in outcomes) == ["in/b.png", "in/c.png"]
    assert run.known == 2
    np.testing.assert_array_equal(images.read("out/c.png").pixels, expected(pixels(4)))
    put({"c.png": b"a text"})
    process()
    assert written() == ["a.png"]  # the old version's result is deleted
    Path("out/a.png").unlink()
    Path("in/c.png").unlink()
    assert sorted(outcome.report.input for outcome in process()[0]) == ["in/a.png", "in/b.png"]
    assert len(manifest()) == 3  # the removed photo's line included


def test_results_with_the_same_name():
    put({"a.png": encoded(1), "a.jpg": encoded(2, "JPEG")})
    for _ in range(2):
        assert messages(process()[0]).count("another file's result is a.png") == 1
        assert written() == ["a.png"]


def test_several_inputs(workdir):
    put({"a.png": encoded(1), "sub/a.png": encoded(2)})
    for inputs in (("in", "in/sub"), (workdir / "in", "in"), ("in/a.png", workdir / "in/a.png"), ("in", "in")):
        with pytest.raises(UsageError, match=r"lies inside another input|would both be called|are the same"):
            process(inputs=inputs)
    Path("other").mkdir()
    Path("other/a.png").write_bytes(encoded(3))
    outcomes, _ = process(inputs=("in", "other"))
    assert sorted(outcome.report.input for outcome in outcomes) == ["in/a.png", "in/sub/a.png", "other/a.png"]
    assert messages(outcomes).count("another file's result is a.png") == 1


def test_label_with_embedded_image():
    put({"a.json": b'{"imageData": "' + b"Zm9v" * 400_000 + b'"}', "b.json": b"[" + b"1.5, " * 400_000 + b"2]"})
    outcomes, _ = process()
    assert written() == ["b.json"]
    assert "in/a.json: may embed an image" in messages(outcomes)
    Path("out").rename("old")
    process(replace(CONFIG, copied=frozenset({".json"})))
    assert written() == ["a.json", "b.json"]


def test_dangling_links():
    Path("in/a.png").symlink_to("nothing.png")
    Path("in/a.txt").symlink_to("nothing.txt")
    assert failed(process()[0]) == ["in/a.png", "in/a.txt"]
    assert str(Path.cwd()) not in Path("m.jsonl").read_text()


def test_fingerprint_is_renewed():
    put({"state.json": b'{"_fingerprint": "abc", "_split": null}'})
    process()
    state = json.loads(Path("out/state.json").read_text())
    assert state["_fingerprint"] != "abc"
    assert state["_split"] is None


def test_output_folder():
    put_photos(range(1, 2))
    Path("out").mkdir()
    Path("out/other.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        process()
    Path("out/other.txt").unlink()
    process()
    with pytest.raises(UsageError, match="other options"):
        process(replace(CONFIG, options=Options(seed=1)))
    with pytest.raises(UsageError, match="both input and output"):
        process(inputs=["out"])
    directory = RunDirectory.open(Path("out"), CONFIG)
    with pytest.raises(DeidError, match="another run"):
        process()
    directory.close()
    assert process(inputs=["."])[1].known == 1  # the output folder is not entered


def test_folders_are_streamed(monkeypatch):
    scandir, names = os.scandir, list[str]()

    @contextmanager
    def record(folder):
        with scandir(folder) as entries:
            yield (names.append(entry.name) or entry for entry in entries)

    put({f"p{k}.png": b"" for k in range(9)})
    monkeypatch.setattr(tasks.os, "scandir", record)
    files = tasks.iter_files([Path("in")], Path("out"))
    next(files)
    assert len(names) == 1
    assert len(list(files)) == 8


def test_interrupted_run_is_resumed():
    put_photos(range(1, 10))
    for count in (2, 0, 3):
        directory = RunDirectory.open(Path("out"), CONFIG)
        run = iter(DatasetRun([Path("in")], directory, CONFIG, partial(run_in_process, CONFIG)))
        for _ in range(count):
            next(run)
        directory.close()
        (directory.out / WORK / "scratch" / "torn").mkdir(parents=True)
    outcomes, run = process()
    assert len(outcomes) + run.known == 9
    assert len(outcomes) <= 9 - 3
    assert written() == [f"p{k}.png" for k in range(1, 10)]
    assert [line["output"] for line in manifest()] == written()
    assert not list(Path("out", WORK, "scratch").iterdir())


def test_kill_between_row_and_rename(monkeypatch):
    put_photos(range(1, 4))
    with monkeypatch.context() as patch:
        patch.setattr("deid_diffusion.batch.journal.publish", lambda *args, **keywords: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            process()
    assert written() == []
    outcomes, _ = process()
    assert len(outcomes) == len(written()) == len(manifest()) == 3


def test_processes_share_files():
    put_photos(range(1, 10))
    shares = [WorkShare(number, 2, "cpu", lambda: None) for number in range(2)]
    counts = [len(process(mine=share.has)[0]) for share in shares]
    assert sum(counts) == 9
    assert all(counts)
    assert len(written()) == 9


def test_error_of_all_images_stops_run():
    put_photos(range(1, 3))
    with pytest.raises(DeidError, match="locked"):
        process(failing(DeidError("the store is locked")))
    assert written() == []


def test_unexpected_error_leaves_image_out():
    put_photos(range(1, 2))
    (outcome,), _ = process(failing(RuntimeError("of a path of this machine")))
    assert outcome.report.error == "internal error: RuntimeError"
    assert "of a path" in str(outcome.unexpected)
    assert written() == []


def test_unusable_journal_stops_run():
    put_photos(range(1, 3))
    process()
    put({"c.png": encoded(3)})
    with sqlite3.connect(Path("out", WORK, "journal.sqlite")) as database:
        database.execute("ALTER TABLE tasks RENAME COLUMN stamp TO seal")
    with pytest.raises(DeidError, match=r"journal\.sqlite: cannot be used"):
        process()
    assert written() == ["p1.png", "p2.png"]
