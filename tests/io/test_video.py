from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deid_diffusion import errors
from deid_diffusion.errors import DeidError, VideoError
from deid_diffusion.io import video
from deid_diffusion.io.video import (
    Clip,
    SegmentWriter,
    encoding_for,
    iter_frames,
    join,
    open_clip,
    replace_changed,
    steady_times,
)
from tests.video.clips import packets, read, scene, write

FRAMES = scene(3, (96, 64), ()).frames


@pytest.fixture
def clip_path(tmp_path: Path) -> Path:
    """A clip of three frames, 96 x 64 pixels, with sound."""
    return write(tmp_path / "a.mp4", FRAMES)


def test_suffixes() -> None:
    assert [video.is_clip(Path(name)) for name in ("a.MP4", "a.avi", "a.gif")] == [True, True, False]
    suffixes = {"a.mp4": ".mp4", "a.MOV": ".MOV", "a.webm": ".webm", "a.avi": ".mkv"}
    assert {name: video.result_suffix(Path(name)) for name in suffixes} == suffixes
    with pytest.raises(VideoError, match=r"cannot be written as \.avi"):
        video.encoding_for(".avi", "yuv420p", (320, 240))


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
def test_encoding(suffix: str, pixels: str, size: tuple[int, int], codec: str, kept: str) -> None:
    encoding = video.encoding_for(suffix, pixels, size)
    assert (encoding.codec, encoding.pixels) == (codec, kept)


def picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), np.ones((99, 99, 1), np.uint8))[:height, :width]


def decoded(pixels: str, size: tuple[int, int], matrix: int, span: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(*size)), "rgb24")
    frame.colorspace, frame.color_range = matrix, span
    return frame.reformat(format=pixels)


def samples(frame: av.VideoFrame, index: int) -> np.ndarray:
    plane = frame.planes[index]
    deep = frame.format.components[index].bits > 8
    rows = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)
    return rows[:, : plane.width].astype(int)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("pixels", "size"),
    [("yuv420p", (130, 98)), ("yuv420p", (131, 99)), ("yuv422p10le", (130, 98)), ("yuv444p", (131, 99))],
)
def test_unchanged_pixels(pixels: str, size: tuple[int, int], turns: int) -> None:
    frame = decoded(pixels, size, 1, 1)
    before = video.to_rgb(frame, turns)
    after = before.copy()
    after[40:60, 50:70] = (200, 100, 30)
    output = video.replace_changed(frame, pixels, before, after, turns)
    assert (output.colorspace, output.color_range, output.format.name) == (1, 1, pixels)
    rgb = video.to_rgb(output, turns)
    assert np.abs(rgb[44:56, 54:66].astype(int) - (200, 100, 30)).max() <= 4
    outside = np.ones(before.shape[:2], bool)
    outside[36:64, 46:74] = False
    assert (rgb == before)[outside].all()
    same = video.replace_changed(frame, pixels, before, before, turns)
    assert all((samples(same, k) == samples(frame, k)).all() for k in range(3))


@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("span", [0, 1, 2])
def test_colour_round_trip(matrix: int, span: int) -> None:
    frame = decoded("yuv444p", (64, 64), matrix, span)
    before = video.to_rgb(frame, 0)
    output = video.replace_changed(frame, "yuv444p", before, np.full_like(before, (180, 120, 90)), 0)
    assert np.abs(video.to_rgb(output, 0).astype(int) - (180, 120, 90)).max() <= 3


@pytest.mark.parametrize("pixels", ["nv12", "rgb24", "gray", "yuva420p", "p010le"])
def test_other_formats_become_planar(pixels: str) -> None:
    frame = av.VideoFrame.from_ndarray(picture(64, 48).copy(), "rgb24").reformat(format=pixels)
    before = video.to_rgb(frame, 0)
    output = video.replace_changed(frame, "yuv420p", before, before, 0)
    assert np.abs(video.to_rgb(output, 0).astype(int) - before).mean() < 8


def test_open_clip(clip_path: Path) -> None:
    clip = video.open_clip(clip_path)
    assert (clip.width, clip.height, clip.upright, clip.turns, clip.expected) == (96, 64, (64, 96), 0, 3)
    assert (clip.pixels, clip.colour, clip.rate) == ("yuv420p", (1, 1, 1, 1), Fraction(25))
    assert len(clip.sha256) == 64
    frames = list(video.iter_frames(clip))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.time * clip.time_base for frame in frames] == [0, Fraction(1, 25), Fraction(2, 25)]
    assert np.abs(frames[1].rgb().astype(int) - FRAMES[1]).mean() < 3


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotated_clip_is_read_upright(degrees: int, turns: int, tmp_path: Path) -> None:
    clip = video.open_clip(write(tmp_path / "a.mp4", [np.rot90(frame, -turns) for frame in FRAMES], rotation=degrees))
    assert clip.turns == turns
    assert clip.upright == (64, 96)
    assert np.abs(next(video.iter_frames(clip)).rgb().astype(int) - FRAMES[0]).mean() < 3


@pytest.mark.parametrize("colour", [1, 5, 9])
def test_colour_matrix_of_clip(colour: int, tmp_path: Path) -> None:
    patches = np.zeros((64, 96, 3), np.uint8)
    patches[:, :32], patches[:, 32:64], patches[:, 64:] = (200, 40, 40), (40, 160, 40), (60, 60, 220)
    clip = video.open_clip(write(tmp_path / "a.mp4", [patches] * 2, colour=colour))
    rgb = next(video.iter_frames(clip)).rgb()
    for x in (16, 48, 80):
        assert np.abs(rgb[32, x].astype(int) - patches[32, x]).max() <= 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"hello " * 500, "is not a clip, or damaged"),
        ("truncated", "is not a clip, or damaged"),
    ],
)
def test_bad_files(content: bytes | str | None, words: str, clip_path: Path) -> None:
    path = clip_path.with_name("bad.mp4")
    if content is not None:
        path.write_bytes(clip_path.read_bytes()[:1500] if isinstance(content, str) else content)
    with pytest.raises(VideoError, match=words) as caught:
        video.open_clip(path)
    assert "\n" not in str(caught.value)
    assert "bad.mp4" in str(caught.value)


def test_folder_and_audio_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder"):
        video.open_clip(tmp_path)
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        video.open_clip(path)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", scene(30, (96, 64), ()).frames, audio=None)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    clip = video.open_clip(path)
    with suppress(VideoError):  # a decoder may recover
        assert len(list(video.iter_frames(clip))) <= 30


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, clip_path: Path) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(errors, "import_module", missing)
    for call in (errors.pyav, errors.supervision, lambda: video.open_clip(clip_path)):
        with pytest.raises(DeidError, match=r"pip install 'deid-diffusion\[video\]'"):
            call()


WRITTEN = scene(12, (96, 64), ()).frames


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """A clip of twelve frames, 96 x 64 pixels, with sound."""
    return open_clip(write(tmp_path / "a.mp4", WRITTEN))


def copy(clip: Clip, target: Path, *, ai_edited: bool = True) -> Path:
    """Encode a clip as two segments, and join them."""
    encoding = encoding_for(target.suffix, clip.pixels, (clip.width, clip.height))
    frames = list(iter_frames(clip))
    half, segments = len(frames) // 2, []
    for part in (frames[:half], frames[half:]):
        segments.append(target.with_name(f"{target.name}-{len(segments)}.mkv"))
        with SegmentWriter(segments[-1], clip, encoding) as segment:
            for frame in part:
                rgb = frame.rgb()
                segment.add(replace_changed(frame.stored, encoding.pixels, rgb, rgb, clip.turns))
    times = steady_times([frame.time for frame in frames], clip)
    join(clip, segments, *times, target, target.suffix, ai_edited=ai_edited)
    return target


def seconds(clip: Clip) -> list[float]:
    """Return times from the first frame on: Matroska has no negative times, at which audio may begin."""
    times = [float(frame.time * clip.time_base) for frame in iter_frames(clip)]
    return [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("source", "target", "options"),
    [
        ("a.mp4", "b.mp4", {}),
        ("a.mov", "b.mov", {"rotation": 90, "colour": 5}),
        ("a.mp4", "b.mkv", {"pixels": "yuv420p10le", "colour": 9}),
        ("a.mkv", "b.mkv", {"audio": None, "pixels": "yuv444p"}),
        ("a.webm", "b.webm", {"codec": "libvpx-vp9", "audio": None}),
        ("a.avi", "b.mkv", {"codec": "mpeg4", "audio": "mp3"}),
    ],
)
def test_properties_and_audio_are_kept(source: str, target: str, options: dict, tmp_path: Path) -> None:
    before = write(tmp_path / source, WRITTEN, **options)
    after = copy(open_clip(before), tmp_path / target)
    assert packets(before) == packets(after)
    clips = open_clip(before), open_clip(after)
    for name in ("pixels", "colour", "turns", "upright", "rate", "display"):
        assert getattr(clips[0], name) == getattr(clips[1], name), name
    assert seconds(clips[0]) == pytest.approx(seconds(clips[1]), abs=0.002)
    assert np.abs(np.array(read(before), int) - read(after)).mean() < 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_metadata_is_replaced_by_ai_mark(suffix: str, clip: Clip, tmp_path: Path) -> None:
    output = copy(clip, tmp_path / f"b{suffix}")
    with av.open(str(output)) as container:
        metadata = {**container.metadata, **container.streams[0].metadata, **container.streams[1].metadata}
    metadata = {name.lower(): value for name, value in metadata.items()}
    assert not {"title", "location", "creation_time", "make", "model"} & set(metadata)
    assert "compositeWithTrainedAlgorithmicMedia" in metadata["comment"]
    data = output.read_bytes()
    assert b"Bob" not in data
    assert b"+48" not in data
    assert (b"Iptc4xmpExt:DigitalSourceType" in data) == (suffix != ".mkv")
    unmarked = copy(clip, tmp_path / f"c{suffix}", ai_edited=False)
    assert b"TrainedAlgorithmicMedia" not in unmarked.read_bytes()


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [0, 40, 90, 100, 300, 301, 340, 500, 900, 901, 902, 1000]
    before = write(tmp_path / "a.mp4", WRITTEN, times=times, audio=None)
    after = copy(open_clip(before), tmp_path / "b.mp4")
    clip = open_clip(after)
    assert [round(frame.time * clip.time_base * 1000) for frame in iter_frames(clip)] == times
    with av.open(str(before)) as source, av.open(str(after)) as output:
        assert source.duration == output.duration  # includes the duration of the last frame


def test_interrupted_segment(clip: Clip, tmp_path: Path) -> None:
    encoding = encoding_for(".mp4", clip.pixels, (clip.width, clip.height))

    def interrupt() -> None:
        with SegmentWriter(tmp_path / "s.mkv", clip, encoding) as segment:
            segment.add(next(iter_frames(clip)).stored)
            assert not (tmp_path / "s.mkv").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_refused_joins(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"its audio \(aac\) is not supported by \.webm"):
        copy(clip, tmp_path / "b.webm")
    copy(clip, tmp_path / "b.mp4")
    for times, words in ((np.arange(20), "too few"), (np.arange(5), "too many")):
        with pytest.raises(VideoError, match=words):
            join(clip, [tmp_path / "b.mp4-0.mkv"], times, times, tmp_path / "c.mp4", ".mp4", ai_edited=False)


def test_steady_times(clip: Clip) -> None:
    clip = replace(clip, time_base=Fraction(1, 250), duration=55)
    times, durations = steady_times([0, 10, None, 15, 40], clip)
    assert times.tolist() == [0, 10, 20, 21, 40]
    assert durations.tolist() == [10, 10, 1, 19, 15]
    assert [values.tolist() for values in steady_times([7], replace(clip, duration=None))] == [[7], [10]]
