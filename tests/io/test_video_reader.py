"""Which results clips get."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deid_diffusion import errors
from deid_diffusion.errors import DeidError, VideoError
from deid_diffusion.io.video_reader import changed, encoding_for, is_clip, open_clip, pictures, result_suffix, to_rgb
from tests.video.clips import scene, write


def test_clips_are_known_by_their_suffix() -> None:
    assert is_clip(Path("a.MP4"))
    assert is_clip(Path("a.avi"))
    assert not is_clip(Path("a.gif"))  # a photo's suffix
    assert [result_suffix(Path(name)) for name in ("a.mp4", "a.MOV", "a.webm", "a.avi")] == [
        ".mp4",
        ".MOV",
        ".webm",
        ".mkv",
    ]


@pytest.mark.parametrize(
    ("suffix", "pixels", "size", "codec", "kept"),
    [
        (".mp4", "yuv420p", (320, 240), "libx264", "yuv420p"),
        (".mp4", "yuvj420p", (320, 240), "libx264", "yuv420p"),
        (".mp4", "yuv420p", (321, 240), "libx264", "yuv444p"),
        (".mp4", "yuv422p", (320, 241), "libx264", "yuv422p"),
        (".mkv", "yuv420p10le", (320, 240), "libx264", "yuv420p10le"),
        (".mov", "yuv422p12le", (320, 240), "libx264", "yuv422p10le"),
        (".mkv", "bgr24", (320, 240), "libx264", "yuv444p"),
        (".mkv", "gray", (320, 240), "libx264", "yuv420p"),
        (".mkv", "nv12", (320, 240), "libx264", "yuv420p"),
        (".webm", "yuv420p", (321, 241), "libvpx-vp9", "yuv420p"),
        (".webm", "yuva444p", (320, 240), "libvpx-vp9", "yuv444p"),
    ],
)
def test_the_pixel_format_is_kept_as_far_as_it_can_be(
    suffix: str, pixels: str, size: tuple[int, int], codec: str, kept: str
) -> None:
    made = encoding_for(suffix, pixels, size)
    assert (made.codec, made.pixels) == (codec, kept)


def test_a_container_that_is_read_only_is_refused() -> None:
    with pytest.raises(VideoError, match=r"cannot be written as \.avi"):
        encoding_for(".avi", "yuv420p", (320, 240))


def picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), np.ones((99, 99, 1), np.uint8))[:height, :width]


def stored(pixels: str, size: tuple[int, int], matrix: int, span: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(*size)), "rgb24")
    frame.colorspace, frame.color_range = matrix, span
    return frame.reformat(format=pixels)


def samples(frame: av.VideoFrame, plane: int) -> np.ndarray:
    one = frame.planes[plane]
    deep = frame.format.components[plane].bits > 8
    rows = np.frombuffer(one, np.uint16 if deep else np.uint8).reshape(one.height, -1)
    return rows[:, : one.width].astype(int)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("pixels", "size"),
    [("yuv420p", (130, 98)), ("yuv420p", (131, 99)), ("yuv422p10le", (130, 98)), ("yuv444p", (131, 99))],
)
def test_only_what_changed_is_converted_back(pixels: str, size: tuple[int, int], turns: int) -> None:
    frame = stored(pixels, size, 1, 1)
    before = to_rgb(frame, turns)
    after = before.copy()
    after[40:60, 50:70] = (200, 100, 30)
    made = changed(frame, pixels, before, after, turns)
    assert (made.colorspace, made.color_range, made.format.name) == (1, 1, pixels)
    seen = to_rgb(made, turns)
    assert np.abs(seen[44:56, 54:66].astype(int) - (200, 100, 30)).max() <= 4
    away = np.ones(before.shape[:2], bool)
    away[36:64, 46:74] = False
    assert (seen == before)[away].all()
    same = changed(frame, pixels, before, before, turns)
    assert all((samples(same, k) == samples(frame, k)).all() for k in range(3))


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("span", [0, 1, 2])
def test_the_way_there_and_back_keeps_the_colour(matrix: int, span: int) -> None:
    frame = stored("yuv444p", (64, 64), matrix, span)
    before = to_rgb(frame, 0)
    made = changed(frame, "yuv444p", before, np.full_like(before, (180, 120, 90)), 0)
    assert np.abs(to_rgb(made, 0).astype(int) - (180, 120, 90)).max() <= 3


def test_other_formats_become_planar() -> None:
    for pixels in ("nv12", "rgb24", "gray", "yuva420p", "p010le"):
        frame = av.VideoFrame.from_ndarray(picture(64, 48).copy(), "rgb24").reformat(format=pixels)
        before = to_rgb(frame, 0)
        made = changed(frame, "yuv420p", before, before, 0)
        assert np.abs(to_rgb(made, 0).astype(int) - before).mean() < 8


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

    monkeypatch.setattr(errors, "import_module", missing)
    for call in (errors.pyav, errors.supervision, lambda: open_clip(path)):
        with pytest.raises(DeidError, match=r"pip install 'deid-diffusion\[video\]'"):
            call()
