from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deid_diffusion.errors import VideoError
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

FRAMES = scene(12, (96, 64), ()).frames


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """A clip of twelve frames, 96 x 64 pixels, with sound."""
    return open_clip(write(tmp_path / "a.mp4", FRAMES))


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
    before = write(tmp_path / source, FRAMES, **options)
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
    before = write(tmp_path / "a.mp4", FRAMES, times=times, audio=None)
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
