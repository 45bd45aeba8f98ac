"""The result has the clip's times, colours, turn and sound, an AI mark, and nothing else of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from deid_diffusion.errors import VideoError
from deid_diffusion.io.video_reader import Clip, changed, encoding_for, open_clip, pictures
from deid_diffusion.io.video_writer import SegmentWriter, join, steady_times
from tests.video.clips import packets, read, scene, write

FRAMES = scene(12, (96, 64), ()).frames


def copied(clip: Clip, target: Path, *, ai_edited: bool = True) -> Path:
    """A clip in two segments and together again."""
    encoding = encoding_for(target.suffix, clip.pixels, (clip.width, clip.height))
    found = list(pictures(clip))
    half, segments = len(found) // 2, []
    for part in (found[:half], found[half:]):
        segments.append(target.with_name(f"{target.name}-{len(segments)}.mkv"))
        with SegmentWriter(segments[-1], clip, encoding) as segment:
            for one in part:
                picture = one.rgb()
                segment.add(changed(one.stored, encoding.pixels, picture, picture, clip.turns))
    times = steady_times([one.time for one in found], clip)
    join(clip, segments, *times, target, target.suffix, ai_edited=ai_edited)
    return target


def moments(clip: Clip) -> list[float]:
    """Seconds from the first picture on: Matroska knows no times under 0, which sound may begin with."""
    times = [float(one.time * clip.time_base) for one in pictures(clip)]
    return [time - times[0] for time in times]


@pytest.mark.parametrize(
    ("source", "target", "wishes"),
    [
        ("a.mp4", "b.mp4", {}),
        ("a.mov", "b.mov", {"rotation": 90, "colour": 5}),
        ("a.mp4", "b.mkv", {"pixels": "yuv420p10le", "colour": 9}),
        ("a.mkv", "b.mkv", {"audio": None, "pixels": "yuv444p"}),
        ("a.webm", "b.webm", {"codec": "libvpx-vp9", "audio": None}),
        ("a.avi", "b.mkv", {"codec": "mpeg4", "audio": "mp3"}),
    ],
)
def test_a_clip_is_kept(source: str, target: str, wishes: dict, tmp_path: Path) -> None:
    before = write(tmp_path / source, FRAMES, **wishes)
    after = copied(open_clip(before), tmp_path / target)
    assert packets(before) == packets(after)
    one, two = open_clip(before), open_clip(after)
    assert (one.pixels, one.colour, one.turns, one.upright, one.rate) == (
        two.pixels, two.colour, two.turns, two.upright, two.rate,
    )  # fmt: skip
    assert one.display == two.display
    assert moments(one) == pytest.approx(moments(two), abs=0.002)
    assert np.abs(np.array(read(before), int) - read(after)).mean() < 3


def test_nothing_of_the_metadata_is_copied_and_a_mark_is_added(tmp_path: Path) -> None:
    before = write(tmp_path / "a.mp4", FRAMES)
    for suffix in (".mp4", ".mkv", ".mov"):
        after = copied(open_clip(before), tmp_path / f"b{suffix}")
        with av.open(str(after)) as container:
            told = {**container.metadata, **container.streams[0].metadata, **container.streams[1].metadata}
        told = {name.lower(): value for name, value in told.items()}
        assert not {"title", "location", "creation_time", "make", "model"} & set(told)
        assert "compositeWithTrainedAlgorithmicMedia" in told["comment"]
        data = after.read_bytes()
        assert b"Bob" not in data
        assert b"+48" not in data
        assert (b"Iptc4xmpExt:DigitalSourceType" in data) == (suffix != ".mkv")
    plain = copied(open_clip(before), tmp_path / "c.mp4", ai_edited=False)
    assert b"TrainedAlgorithmicMedia" not in plain.read_bytes()


def test_frames_at_uneven_times_stay_there(tmp_path: Path) -> None:
    times = [0, 40, 90, 100, 300, 301, 340, 500, 900, 901, 902, 1000]
    before = write(tmp_path / "a.mp4", FRAMES, times=times, audio=None)
    after = copied(open_clip(before), tmp_path / "b.mp4")
    clip = open_clip(after)
    assert [round(one.time * clip.time_base * 1000) for one in pictures(clip)] == times
    with av.open(str(before)) as one, av.open(str(after)) as two:
        assert one.duration == two.duration  # so the last frame lasts as long as it did


def test_sound_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    before = write(tmp_path / "a.mp4", FRAMES)
    with pytest.raises(VideoError, match=r"its sound \(aac\) does not fit into \.webm"):
        copied(open_clip(before), tmp_path / "b.webm")


def test_a_segment_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "a.mp4", FRAMES))
    encoding = encoding_for(".mp4", clip.pixels, (clip.width, clip.height))

    def interrupted() -> None:
        with SegmentWriter(tmp_path / "s.mkv", clip, encoding) as segment:
            segment.add(next(pictures(clip)).stored)
            assert not (tmp_path / "s.mkv").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_segment_that_lacks_pictures_is_noticed(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "a.mp4", FRAMES))
    copied(clip, tmp_path / "b.mp4")
    numbers = np.arange(20)
    for count, says in ((20, "too few"), (5, "too many")):
        with pytest.raises(VideoError, match=says):
            join(
                clip, [tmp_path / "b.mp4-0.mkv"], numbers[:count], numbers[:count], tmp_path / "c.mp4", ".mp4",
                ai_edited=False,
            )  # fmt: skip


def test_times_always_ascend(tmp_path: Path) -> None:
    clip = replace(open_clip(write(tmp_path / "a.mp4", FRAMES)), time_base=Fraction(1, 250), duration=55)
    times, durations = steady_times([0, 10, None, 15, 40], clip)
    assert times.tolist() == [0, 10, 20, 21, 40]
    assert durations.tolist() == [10, 10, 1, 19, 15]
    assert [one.tolist() for one in steady_times([7], replace(clip, duration=None))] == [[7], [10]]
