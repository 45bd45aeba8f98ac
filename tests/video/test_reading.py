"""Any clip that FFmpeg reads, upright; everything else is one line."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deid_diffusion.errors import DeidError, VideoError
from deid_diffusion.video import packages
from deid_diffusion.video.reading import open_clip, pictures
from tests.video.clips import scene, write

FRAMES = scene(3, (96, 64), ()).frames


def test_what_a_clip_is(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "a.mp4", FRAMES))
    assert (clip.width, clip.height, clip.upright, clip.turns, clip.expected) == (96, 64, (64, 96), 0, 3)
    assert (clip.pixels, clip.colour, clip.rate) == ("yuv420p", (1, 1, 1, 1), Fraction(25))
    assert len(clip.sha256) == 64
    found = list(pictures(clip))
    assert [one.index for one in found] == [0, 1, 2]
    assert [one.time * clip.time_base for one in found] == [0, Fraction(1, 25), Fraction(2, 25)]
    assert np.abs(found[1].rgb().astype(int) - FRAMES[1]).mean() < 3


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_clip_is_set_upright(degrees: int, turns: int, tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "a.mp4", [np.rot90(one, -turns) for one in FRAMES], rotation=degrees))
    assert clip.turns == turns
    assert clip.upright == (64, 96)
    assert np.abs(next(pictures(clip)).rgb().astype(int) - FRAMES[0]).mean() < 3


@pytest.mark.parametrize("colour", [1, 5, 9])
def test_colours_are_read_by_the_clips_own_matrix(colour: int, tmp_path: Path) -> None:
    patches = np.zeros((64, 96, 3), np.uint8)
    patches[:, :32], patches[:, 32:64], patches[:, 64:] = (200, 40, 40), (40, 160, 40), (60, 60, 220)
    clip = open_clip(write(tmp_path / "a.mp4", [patches] * 2, colour=colour))
    seen = next(pictures(clip)).rgb()
    for x in (16, 48, 80):
        assert np.abs(seen[32, x].astype(int) - patches[32, x]).max() <= 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"hello " * 500, "is no clip, or damaged"),
        ("cut.mp4", "cut", "is no clip, or damaged"),
    ],
)
def test_what_is_no_clip_is_one_line(name: str, content: bytes | str | None, says: str, tmp_path: Path) -> None:
    if content == "cut":
        content = write(tmp_path / "whole.mp4", FRAMES).read_bytes()[:1500]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=says) as caught:
        open_clip(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_and_a_sound_alone_are_no_clips(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        open_clip(tmp_path)
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no moving picture"):
        open_clip(path)


def test_a_clip_that_ends_in_the_middle_is_one_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mkv", scene(30, (96, 64), ()).frames, audio=None)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    whole.write_bytes(data)
    clip = open_clip(whole)
    with suppress(VideoError):  # a decoder may get over it
        assert len(list(pictures(clip))) <= 30


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", FRAMES)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(packages, "import_module", missing)
    for call in (packages.pyav, packages.supervision, lambda: open_clip(path)):
        with pytest.raises(DeidError, match=r"pip install 'deid-diffusion\[video\]'"):
            call()
