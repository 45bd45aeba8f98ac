"""Records as JSON lines: round trip, and appending after a torn line and on a full disk."""

import errno
import json
import os
from dataclasses import replace

import pytest

from deid_diffusion import results
from deid_diffusion.errors import DeidError
from deid_diffusion.results import FaceRecord, ImageRecord
from tests.failures import raising

REPLACED = FaceRecord((1.5, 2.0, 30.25, 40.0), "centerface", 0.98, "replaced", 7, True)
COVERED = FaceRecord((0.0, 0.0, 3.0, 4.0), "mediapipe", 0.4, "covered", None, False, "no mesh")
SELECTED = replace(REPLACED, kept_attributes=("age", "freckles"), changed_attributes={"gender": "man"})
RECORD = ImageRecord(
    "photos/ä\udcff\n.jpg", "out/a.png", "done", "ab" * 32, "cd" * 32, 640, 480, "builtin",
    versions={"python": "3.11.0"}, seconds=1.25, faces=(REPLACED, SELECTED, COVERED),
)  # fmt: skip
FAILED = ImageRecord("a.jpg", None, "failed", error="a.jpg: is empty (0 bytes): get a complete copy")


@pytest.mark.parametrize("record", [RECORD, FAILED])
def test_round_trip(record):
    line = record.to_json()
    assert line.isascii()
    assert "\n" not in line
    assert ImageRecord.from_json(line) == record


def test_nan_is_not_json():
    with pytest.raises(ValueError, match="JSON"):
        replace(RECORD, seconds=float("nan")).to_json()


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"faces": [], "colour": 1}', '{"faces": [{}]}', "null"])
def test_invalid_lines(line):
    with pytest.raises(ValueError, match=r"line|Expecting"):
        ImageRecord.from_json(line)


def test_append(tmp_path):
    path = tmp_path / "report.jsonl"
    results.append(path, RECORD)
    results.append(path, FAILED)
    assert [ImageRecord.from_json(line) for line in path.read_text().splitlines()] == [RECORD, FAILED]


def test_append_after_torn_line(tmp_path):
    path = tmp_path / "report.jsonl"
    path.write_text('{"input": "a')
    results.append(path, RECORD)
    torn, line = path.read_text().splitlines()
    assert torn == '{"input": "a'
    assert ImageRecord.from_json(line) == RECORD


def test_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DeidError, match="disk is full"):
        results.append(tmp_path / "report.jsonl", RECORD)


def test_versions():
    versions = results.versions()
    assert {"python", "deid-diffusion", "torch", "diffusers", "transformers"} <= versions.keys()
    assert json.loads(json.dumps(versions)) == versions
