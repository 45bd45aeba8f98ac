"""Plans: names, collisions, invalid options and resuming, without reading a photo."""

import os
from pathlib import Path

import pytest

from deid_diffusion.batch.planning import Plan, make_plan
from deid_diffusion.errors import UsageError

pytestmark = pytest.mark.usefixtures("workdir")


def touch(*names: str, data: bytes = b"photo") -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def pairs(plan: Plan) -> list[tuple[str, str]]:
    return [(job.input_name, job.output_name) for job in plan.jobs]


def plan(*inputs: str, out: str | None = "out", **options: object) -> Plan:
    return make_plan([Path(name) for name in inputs], Path(out) if out else None, **options)


def refusal(*inputs: str, out: str | None = "out", **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        plan(*inputs, out=out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_and_files():
    touch("in/b.JPG", "in/a.webp", "in/.hidden.jpg", "in/note.txt", "in/deep/c.png", "in/.git/d.png", "x/e.v2.jpg", "y")
    planned = plan("in", "x/e.v2.jpg", "y")
    assert pairs(planned) == [
        ("in/a.webp", "out/a.png"),
        ("in/b.JPG", "out/b.png"),
        ("x/e.v2.jpg", "out/e.v2.png"),
        ("y", "out/y.png"),
    ]
    assert (planned.done, planned.skipped) == (0, 1)
    deep = plan("in", recursive=True, file_format="jpeg")
    assert pairs(deep) == [("in/a.webp", "out/a.jpg"), ("in/b.JPG", "out/b.jpg"), ("in/deep/c.png", "out/deep/c.jpg")]
    assert not Path("out").exists()


def test_single_file():
    touch("a.jpg")
    assert pairs(plan("a.jpg", out="x/b.webp")) == [("a.jpg", "x/b.webp")]
    assert pairs(plan("a.jpg", out="b.jpeg", file_format="jpeg")) == [("a.jpg", "b.jpeg")]
    assert pairs(plan("a.jpg", out="v1.2")) == [("a.jpg", "v1.2/a.png")]
    Path("c.png").mkdir()
    assert pairs(plan("a.jpg", out="c.png")) == [("a.jpg", "c.png/a.png")]


def test_relative_names(tmp_path):
    touch("in/a.jpg", "in/deep/b.jpg", "c.jpg")
    planned = plan(str(tmp_path / "in"), str(tmp_path / "c.jpg"), out=str(tmp_path / "out"), recursive=True)
    assert pairs(planned) == [("in/a.jpg", "out/a.png"), ("in/deep/b.jpg", "out/deep/b.png"), ("c.jpg", "out/c.png")]
    assert all(job.source.is_file() for job in planned.jobs)
    assert pairs(plan(str(tmp_path / "c.jpg"), out=str(tmp_path / "d.png"))) == [("c.jpg", "d.png")]


def test_shared_output_names():
    touch("a/x.jpg", "b/x.png", "a/x.webp")
    assert "a/x.jpg and b/x.png would both become out/x.png" in refusal("a/x.jpg", "b")
    assert "a/x.jpg and a/x.webp" in refusal("a")
    assert "would both become" in refusal("a/x.jpg", "./a/x.jpg")


def test_output_is_input():
    touch("in/a.png", "in/b.jpg")
    Path("hard").mkdir()
    os.link("in/a.png", "hard/a.png")
    Path("soft").mkdir()
    Path("soft/b.png").symlink_to(Path("in/a.png").resolve())
    assert "is the input in/a.png itself" in refusal("in/a.png", out="in/a.png")
    assert "is the input in/a.png itself" in refusal("in/a.png", out="in", overwrite=True)
    assert "is the input in/a.png itself" in refusal("in", out="hard", overwrite=True)
    assert "is the input in/a.png itself" in refusal("in", out="soft", overwrite=True)  # through b.jpg's target
    assert "both input and output" in refusal("in", out="in")
    Path("alias").symlink_to("in")
    assert "both input and output" in refusal("in", out="alias")
    if Path("IN").exists():  # a file system that ignores case
        assert "is the input" in refusal("in/a.png", out="IN/A.PNG")


def test_output_inside_input():
    touch("in/a.jpg", "in/out/old.png")
    assert pairs(plan("in", out="in/out", recursive=True)) == [("in/a.jpg", "in/out/a.png")]


def test_contradicting_options():
    touch("a.jpg", "b.jpg", "file")
    assert "-o" in refusal("a.jpg", out=None)
    assert "--in-place" in refusal("a.jpg", in_place=True)
    assert "--in-place" in refusal("a.jpg", out=None, in_place=True, file_format="png")
    assert "--in-place" in refusal("a.jpg", out=None, in_place=True, overwrite=True)
    assert "disagree" in refusal("a.jpg", out="x.png", file_format="jpeg")
    assert ".heic cannot be written" in refusal("a.jpg", out="x.heic")
    assert "needs an output folder" in refusal("a.jpg", "b.jpg", out="x.png")
    assert "needs an output folder" in refusal("a.jpg", out="file")


def test_no_photos():
    touch("in/note.txt", "in/deep/a.jpg")
    assert refusal("in") == "in: no photo or clip found (folders below it are searched with --recursive)"
    Path("empty").mkdir()
    assert refusal("empty", recursive=True) == "empty: no photo or clip found"


def test_in_place():
    touch("in/a.jpg", "in/b.heic")
    Path("link.jpg").symlink_to("in/a.jpg")
    planned = plan("in", out=None, in_place=True)
    assert pairs(planned) == [("in/a.jpg", "in/a.jpg"), ("in/b.heic", "in/b.heic")]
    assert all(job.replace for job in planned.jobs)
    assert plan("link.jpg", out=None, in_place=True).jobs[0].target == Path("in/a.jpg").resolve()
    assert "would both become" in refusal("in", "link.jpg", out=None, in_place=True)


def test_resume():
    touch("in/a.jpg", "in/b.jpg", "in/c.jpg", "in/d.jpg")
    touch("out/a.png", data=b"a finished result")
    touch("out/b.png", data=b"")  # a claim that a crash left
    touch("out/c.png", data=b"photo")  # the original itself
    planned = plan("in")
    assert planned.done == 1
    assert [(job.input_name, job.replace, job.holds_original) for job in planned.jobs] == [
        ("in/b.jpg", True, False),
        ("in/c.jpg", True, True),
        ("in/d.jpg", False, False),
    ]
    again = plan("in", overwrite=True)
    assert again.done == 0
    assert [(job.replace, job.holds_original) for job in again.jobs] == [
        (True, False), (True, False), (True, True), (True, False),
    ]  # fmt: skip


def test_missing_input():
    touch("a.jpg")
    assert pairs(plan("a.jpg", "none.jpg")) == [("a.jpg", "out/a.png"), ("none.jpg", "out/none.png")]


def test_plan_reads_no_photo(monkeypatch):
    names = [f"{number:05}.jpg" for number in range(1000)]
    monkeypatch.setattr(os, "walk", lambda folder, onerror: iter([(str(folder), [], names[::-1])]))

    def explode(*_: object, **__: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(Path, "open", explode)
    monkeypatch.setattr(Path, "read_bytes", explode)
    assert [job.output_name for job in plan("in").jobs] == [f"out/{number:05}.png" for number in range(1000)]
