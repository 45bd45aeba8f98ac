"""A run over a folder: streamed, resumed, shared out; what fails is left out and reported."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.batch import tasks
from deid_diffusion.batch.dataset import DatasetRun, run_in_process
from deid_diffusion.batch.executors import WorkShare
from deid_diffusion.batch.journal import WORK, RunDirectory, write_manifest
from deid_diffusion.batch.tasks import JobConfig
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.io import images
from deid_diffusion.options import Options
from deid_diffusion.results import JobResult
from tests.batch.fakes import RECIPE, encoded, pixels
from tests.fake_anonymizer import FakeAnonymizer, expected


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(**files: bytes) -> None:
    for name, data in files.items():
        path = Path("in", name.replace("__", "/").replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def process(recipe: JobConfig = RECIPE, engine=None, inputs=("in",), **more) -> tuple[list[JobResult], DatasetRun]:
    place = RunDirectory.open(Path("out"), recipe)
    try:
        run = DatasetRun(
            [Path(one) for one in inputs], place, recipe, engine or partial(run_in_process, recipe), **more
        )
        outcomes = list(run)
        write_manifest(Path("m.jsonl"), place.journal)
    finally:
        place.close()
    return outcomes, run


def written() -> list[str]:
    return sorted(
        path.relative_to("out").as_posix()
        for path in Path("out").rglob("*")
        if path.is_file() and WORK not in path.parts
    )


def manifest() -> list[dict]:
    return [json.loads(line) for line in Path("m.jsonl").read_text().splitlines()]


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_names_labels_and_hashes_are_kept():
    put(a_png=encoded(1), cats__b_jpg=encoded(2, "JPEG"), cats__labels_json=b'{"b": 3}', raw_npy=b"1234")
    outcomes, run = process()
    assert written() == ["a.png", "cats/b.png", "cats/labels.json"]
    np.testing.assert_array_equal(images.read("out/a.png").pixels, expected(pixels(1)))
    assert {one.report.status for one in outcomes} == {"done"}
    assert run.skipped == 1
    lines = {line.get("input") or line["file"]: line for line in manifest()}
    assert list(lines) == ["in/a.png", "in/cats/b.jpg", "in/cats/labels.json"]
    for name, line in lines.items():
        assert line["input_sha256"] == digest(name)
        assert line["output_sha256"] == digest(f"out/{line['output']}")
    assert not list(Path("out", WORK, "scratch").iterdir())


def test_a_picture_may_keep_its_format():
    put(b_jpg=encoded(2, "JPEG"), c_gif=encoded(3, "GIF"))
    outcomes, _ = process(replace(RECIPE, file_format="keep"))
    assert written() == ["b.jpg"]
    assert any("c.gif: .gif cannot be written" in (one.message or "") for one in outcomes)


def test_a_second_run_makes_nothing_again_but_what_failed_or_changed():
    put(a_png=encoded(1), b_png=b"a text", c_png=encoded(3))
    first, _ = process()
    assert [one.report.status for one in first].count("failed") == 1
    put(c_png=encoded(4))
    os.utime("in/c.png", (1, 1))
    second, run = process()
    assert sorted(one.report.input for one in second) == ["in/b.png", "in/c.png"]
    assert run.known == 2
    np.testing.assert_array_equal(images.read("out/c.png").pixels, expected(pixels(4)))
    put(c_png=b"a text")
    process()
    assert written() == ["a.png"]  # no result of what the photo was before
    Path("out/a.png").unlink()
    Path("in/c.png").unlink()
    assert sorted(one.report.input for one in process()[0]) == ["in/a.png", "in/b.png"]
    assert len(manifest()) == 3  # the removed photo's line among them


def test_two_photos_never_share_a_name():
    put(a_png=encoded(1), a_jpg=encoded(2, "JPEG"))
    outcomes, _ = process()
    assert written() == ["a.png"]
    assert sum("another file's result is a.png" in (one.message or "") for one in outcomes) == 1
    assert sum("another file's result is a.png" in (one.message or "") for one in process()[0]) == 1


def test_inputs_never_overlap():
    put(a_png=encoded(1), sub__a_png=encoded(2))
    root = Path.cwd()
    for inputs in (
        ["in", "in/sub"],
        [root / "in", "in"],
        ["in/a.png", root / "in" / "a.png"],
        ["in", "in"],
    ):
        with pytest.raises(UsageError, match=r"is in another input|would both be called|are the same"):
            process(inputs=inputs)
    put(**{"other__a_png": encoded(3)})
    Path("in/other").rename("other")
    outcomes, _ = process(inputs=["in", "other"])
    assert sorted(one.report.input for one in outcomes) == ["in/a.png", "in/sub/a.png", "other/a.png"]
    assert sum("another file's result is a.png" in (one.message or "") for one in outcomes) == 1


def test_labels_that_hold_a_picture_are_left_out():
    put(a_json=b'{"imageData": "' + b"Zm9v" * 400_000 + b'"}', b_json=b"[" + b"1.5, " * 400_000 + b"2]")
    outcomes, _ = process()
    assert written() == ["b.json"]
    assert "in/a.json: holds encoded data" in outcomes[0].message
    Path("out").rename("old")
    process(replace(RECIPE, copied=frozenset({".json"})))
    assert written() == ["a.json", "b.json"]


def test_the_fingerprint_of_a_saved_data_set_is_a_new_one():
    put(state_json=b'{"_fingerprint": "abc", "_split": null}')
    process()
    state = json.loads(Path("out/state.json").read_text())
    assert state["_fingerprint"] != "abc"
    assert state["_split"] is None


def test_the_output_folder_has_to_be_ours():
    put(a_png=encoded(1))
    Path("out").mkdir()
    Path("out/other.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        process()
    Path("out/other.txt").unlink()
    process()
    with pytest.raises(UsageError, match="other options"):
        process(replace(RECIPE, options=Options(seed=1)))
    with pytest.raises(UsageError, match="both input and output"):
        process(inputs=["out"])
    place = RunDirectory.open(Path("out"), RECIPE)
    with pytest.raises(DeidError, match="another run"):
        process()
    place.close()
    assert process(inputs=["."])[1].known == 1  # the output folder is not entered


def test_a_walk_asks_for_one_name_at_a_time(monkeypatch):
    asked: list[str] = []
    real = os.scandir

    class Watched:
        def __init__(self, folder):
            self.entries = real(folder)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                asked.append(entry.name)
                yield entry

    put(**{f"p{k}_png": b"" for k in range(9)})
    monkeypatch.setattr(tasks.os, "scandir", Watched)
    names = tasks.iter_files([Path("in")], Path("out"))
    next(names)
    assert len(asked) == 1
    assert len(list(names)) == 8


def test_an_interrupted_run_loses_and_doubles_nothing():
    put(**{f"p{k}_png": encoded(k + 1) for k in range(9)})
    for count in (2, 0, 3):
        place = RunDirectory.open(Path("out"), RECIPE)
        run = iter(DatasetRun([Path("in")], place, RECIPE, partial(run_in_process, RECIPE)))
        for _ in range(count):
            next(run)
        place.close()  # as a kill leaves it: the journal has what is finished, and nothing is told
        (place.out / WORK / "scratch" / "torn").mkdir(parents=True)
    outcomes, run = process()
    assert len(outcomes) + run.known == 9
    assert len(outcomes) <= 9 - 3
    assert written() == [f"p{k}.png" for k in range(9)]
    assert [line["output"] for line in manifest()] == written()
    assert not list(Path("out", WORK, "scratch").iterdir())


def test_two_processes_share_the_files():
    put(**{f"p{k}_png": encoded(k + 1) for k in range(9)})
    shares = [WorkShare(number, 2, "cpu", lambda: None) for number in range(2)]
    counts = [len(process(mine=share.has)[0]) for share in shares]
    assert sum(counts) == 9
    assert all(counts)
    assert len(written()) == 9


def test_an_error_of_all_pictures_stops_the_run():
    put(a_png=encoded(1), b_png=encoded(2))

    def fail(image):
        raise DeidError("the store is locked")

    with pytest.raises(DeidError, match="locked"):
        process(JobConfig(lambda model, device: FakeAnonymizer(hook=fail)))
    assert written() == []


def test_a_journal_that_cannot_be_used_stops_the_run():
    put(a_png=encoded(1), b_png=encoded(2))
    process()
    put(c_png=encoded(3))
    journal = Path("out", WORK, "journal.sqlite")
    with sqlite3.connect(journal) as database:
        database.execute("ALTER TABLE tasks RENAME COLUMN stamp TO seal")
    with pytest.raises(DeidError, match=r"journal\.sqlite: cannot be used"):
        process()
    assert written() == ["a.png", "b.png"]


def test_an_unexpected_error_leaves_its_picture_out():
    put(a_png=encoded(1))

    def fail(image):
        raise RuntimeError("of a path of this machine")

    (outcome,), _ = process(JobConfig(lambda model, device: FakeAnonymizer(hook=fail)))
    assert outcome.report.error == "internal error: RuntimeError"
    assert "of a path" in str(outcome.unexpected)
    assert written() == []
