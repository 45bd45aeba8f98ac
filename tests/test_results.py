"""The record: a round trip through one line, and appending that survives a torn line and a full disk."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest

from deid_diffusion import results
from deid_diffusion.errors import DeidError
from deid_diffusion.results import FaceRecord, ImageRecord

REPLACED = FaceRecord((1.5, 2.0, 30.25, 40.0), "centerface", 0.98, "replaced", 7, True)
COVERED = FaceRecord((0.0, 0.0, 3.0, 4.0), "mediapipe", 0.4, "covered", None, False, "no mesh")
WISHED = replace(REPLACED, kept_attributes=("age", "freckles"), changed_attributes={"gender": "man"})
REPORT = ImageRecord(
    "photos/ä\udcff\n.jpg", "out/a.png", "done", "ab" * 32, "cd" * 32, 640, 480, "builtin",
    versions={"python": "3.11.0"}, seconds=1.25, faces=(REPLACED, WISHED, COVERED),
)  # fmt: skip
FAILED = ImageRecord("a.jpg", None, "failed", error="a.jpg: is empty (0 bytes): get a complete copy")


@pytest.mark.parametrize("record", [REPORT, FAILED])
def test_round_trip(record):
    line = record.to_json()
    assert line.isascii()
    assert "\n" not in line
    assert ImageRecord.from_json(line) == record


def test_not_a_number_is_no_json():
    with pytest.raises(ValueError, match="JSON"):
        replace(REPORT, seconds=float("nan")).to_json()


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"faces": [], "colour": 1}', '{"faces": [{}]}', "null"])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match=r"line|Expecting"):
        ImageRecord.from_json(line)


def test_append(tmp_path):
    path = tmp_path / "report.jsonl"
    results.append(path, REPORT)
    results.append(path, FAILED)
    assert [ImageRecord.from_json(line) for line in path.read_text().splitlines()] == [REPORT, FAILED]


def test_a_torn_line_stays_alone(tmp_path):
    path = tmp_path / "report.jsonl"
    path.write_text('{"input": "a')
    results.append(path, REPORT)
    torn, line = path.read_text().splitlines()
    assert torn == '{"input": "a'
    assert ImageRecord.from_json(line) == REPORT


def test_full_disk(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeidError, match="disk is full"):
        results.append(tmp_path / "report.jsonl", REPORT)


def test_versions():
    found = results.versions()
    assert {"python", "deid-diffusion", "torch", "diffusers", "transformers"} <= found.keys()
    assert json.loads(json.dumps(found)) == found
