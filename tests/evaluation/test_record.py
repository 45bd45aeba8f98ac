"""The record of the run: speed, actions, keys."""

import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.record import keyed, read_reports, record_section
from deid_diffusion.report import FaceRecord, ImageReport


def report(name: str, *actions: str, seconds: float = 1.0, status: str = "done", pseudonym: str | None = None):
    faces = tuple(FaceRecord((0, 0, 9, 9), "d", 0.9, action, None, True, pseudonym=pseudonym) for action in actions)
    return ImageReport(f"in/{name}.jpg", f"{name}.png", status, faces=faces, gate="dlib", seconds=seconds)


def write(path, *reports):
    path.write_text("".join(one.to_json() + "\n" for one in reports))
    return path


def test_speed_and_actions(tmp_path):
    lines = [report("a", "replaced", "covered", seconds=3.0), report("b", "replaced"), report("c", status="failed")]
    found = read_reports(write(tmp_path / "r.jsonl", report("a", seconds=9), *lines, report("z")), ["a", "b", "c"])
    assert sorted(found) == ["a", "b", "c"]
    section = record_section(found, {name: name for name in "abc"})
    values = {one.name: one.value for one in section.figures}
    assert values == {
        "photos in the record": 3, "failed": 1, "faces replaced": 2, "faces covered": 1,
        "time a photo": 2, "time a face": 1.25,
    }  # fmt: skip
    assert section.summary == "By the report of the run. Gate: dlib."
    assert not keyed(found)
    assert keyed({"a": report("a", "replaced", pseudonym="x")})


def test_files_that_do_not_do(tmp_path):
    path = write(tmp_path / "r.jsonl", report("a"))
    with pytest.raises(UsageError, match="is about none of these photos"):
        read_reports(path, ["b"])
    path.write_text('{"no": 1}\n')
    with pytest.raises(UsageError, match=r"r\.jsonl, line 1: is no report of anonymize"):
        read_reports(path, ["a"])
    with pytest.raises(UsageError, match="cannot be read"):
        read_reports(tmp_path / "none", ["a"])
