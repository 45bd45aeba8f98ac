"""Clips on the command line: in a folder with photos, alone, in place, resumed; errors are one line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from deid_diffusion import errors
from deid_diffusion.cli import anonymize
from tests.video.clips import Scene, bare, read, scene, write
from tests.video.oracle import Oracle


@pytest.fixture
def shown(workdir: Path, monkeypatch: pytest.MonkeyPatch, tiny) -> Scene:
    """The scene of a photo and a clip in a folder, whose faces the loaded model detects."""
    shown = scene(6)
    Path("in").mkdir()
    Image.fromarray(shown.frames[0]).save("in/a.png")
    write(Path("in/b.mp4"), shown.frames)
    Path("in/note.txt").write_text("x")
    tiny.detector = Oracle(shown)
    monkeypatch.setattr(anonymize, "load_anonymizer", lambda model, device: tiny)
    return shown


def test_folder_of_photos_and_clips(shown, call):
    code, out, err = call("anonymize", "in", "-o", "out", "--report", "r.jsonl")
    assert (code, out) == (0, ["2 files: 2 de-identified, 1 other files skipped; 2 faces: 2 replaced"]), err
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.mp4"]
    assert bare(shown, read(Path("out/b.mp4"))) == []
    photo, clip = (json.loads(line) for line in Path("r.jsonl").read_text().splitlines())
    assert (photo["input"], len(photo["faces"])) == ("in/a.png", 1)
    assert (clip["input"], clip["output"], clip["status"], clip["frames"]) == ("in/b.mp4", "out/b.mp4", "done", 6)
    assert (clip["width"], clip["height"], clip["model"], clip["gate"]) == (320, 240, "custom", "fake gate")
    (track,) = clip["tracks"]
    assert (track["first"], track["last"], track["action"], track["replaced"]) == (0, 5, "replaced", 6)
    assert track["seed"] is not None
    assert call("anonymize", "in", "-o", "out")[1] == [
        "2 files: 2 already done, 1 other files skipped; 0 faces: 0 replaced"
    ]


def test_container_of_output(shown, call):
    assert call("anonymize", "in/b.mp4", "-o", "c.mkv")[0] == 0
    assert bare(shown, read(Path("c.mkv"))) == []
    code, _, err = call("anonymize", "in/b.mp4", "-o", "c.avi")
    assert (code, err) == (2, ["error: c.avi: .avi cannot be written: use one of .mp4, .m4v, .mov, .mkv, .webm"])
    assert call("anonymize", "in/a.png", "-o", "c.mp4")[0] == 2


def test_in_place(shown, call):
    assert call("anonymize", "in/b.mp4", "--in-place")[0] == 0
    assert bare(shown, read(Path("in/b.mp4"))) == []
    assert sorted(path.name for path in Path("in").iterdir()) == ["a.png", "b.mp4", "note.txt"]


def test_broken_clip_stops_only_itself(shown, call):
    Path("in/b.mp4").write_bytes(Path("in/b.mp4").read_bytes()[:2000])
    Path("in/c.mkv").write_bytes(b"")
    code, out, err = call("anonymize", "in", "-o", "out", "--report", "r.jsonl")
    assert code == 2
    assert out == ["3 files: 1 de-identified, 2 failed, 1 other files skipped; 1 face: 1 replaced"]
    assert any(line.startswith("in/b.mp4: is not a clip, or damaged") for line in err)
    assert any(line.startswith("in/c.mkv: is empty") for line in err)
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]
    assert [json.loads(line)["status"] for line in Path("r.jsonl").read_text().splitlines()] == [
        "done", "failed", "failed",
    ]  # fmt: skip


def test_annotations_are_refused_for_clips(shown, call):
    Path("b.json").write_text("[]")
    for option in ("--annotations", "--boxes", "--only", "--wishes"):
        code, _, err = call("anonymize", "in", "-o", "out", option, "b.json")
        message = f"error: {option}: is for photos, and in/b.mp4 is a clip: process clips in a separate run"
        assert (code, err[-1]) == (2, message)
    assert call("anonymize", "in", "-o", "out", "--export-annotations", "x.json")[0] == 2
    assert not Path("x.json").exists()


def test_exit_code_of_covered_frames(shown, call, painter):
    painter.failing = (3,)
    code, out, _ = call("anonymize", "in/b.mp4", "-o", "out")
    assert (code, out) == (3, ["1 file: 1 de-identified; 1 face: 1 replaced, 1 of these covered in some frames"])


def test_missing_package(shown, call, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(errors, "import_module", missing)
    code, out, err = call("anonymize", "in", "-o", "out")
    assert code == 2
    assert "2 files: 1 de-identified, 1 failed" in out[0]
    assert any("pip install 'deid-diffusion[video]'" in line for line in err)


def test_clip_as_report_is_refused(shown, call):
    code, _, err = call("anonymize", "in", "-o", "out", "--report", "in/b.mp4")
    assert (code, len(err)) == (2, 1)
    assert "has the suffix of a photo or clip" in err[0]
