"""Clips out: pictures into segments, and segments with the source's sound into one file that carries nothing else."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VideoError, one_line, pyav
from .files import refusal
from .images import AI_MARK, AI_TERM
from .video_reader import ISO, WRITABLE, Clip, Encoding

if TYPE_CHECKING:
    import av
    from typing_extensions import Self


_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")  # UUID of an XMP packet's box (XMP, part 3)


class SegmentWriter:
    """Encodes some successive pictures into a Matroska file, which has its name once it is complete, and not before.

    Only their order is stored: `join` gives them their times.
    """

    def __init__(self, path: Path, clip: Clip, encoding: Encoding) -> None:
        """Raises VideoError if this FFmpeg has no such encoder, or the file cannot be written."""
        self._path, self._part = path, path.with_suffix(".part")
        av = pyav()
        try:
            self._container = av.open(str(self._part), "w", format="matroska")
            stream = self._container.add_stream(encoding.codec, rate=clip.rate, options=dict(encoding.options))
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{path}: cannot be written with {encoding.codec} ({one_line(error)})") from error
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, encoding.pixels
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = clip.colour
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        self._stream, self._unit, self._count = stream, 1 / clip.rate, 0

    def __enter__(self) -> Self:
        return self

    def add(self, frame: av.VideoFrame) -> None:
        """Encode one more picture. Raises VideoError."""
        frame.pts, frame.time_base = self._count, self._unit
        self._count += 1
        self._mux(frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._mux(None)
        try:
            self._container.close()
            if kind is None:
                _sync(self._part)
                self._part.replace(self._path)
        except (pyav().error.FFmpegError, OSError) as problem:
            if kind is None:
                raise VideoError(f"{self._path}: {_why(problem)}") from problem
        finally:
            self._part.unlink(missing_ok=True)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except pyav().error.FFmpegError as error:
            raise VideoError(f"{self._path}: {_why(error)}") from error


def join(
    clip: Clip,
    segments: Sequence[Path],
    times: np.ndarray,
    durations: np.ndarray,
    path: Path,
    suffix: str,
    *,
    ai_edited: bool,
) -> None:
    """Write segments and the clip's sound to one file, packet for packet.

    The pictures get the clip's times and display matrix. Of the clip's metadata nothing is copied, nor are its
    subtitles, data tracks, chapters and attachments.

    Args:
        clip: where the sound is.
        segments: made by `SegmentWriter`, in order.
        times: (N,) int64, ascending, in units of the clip's time base: one for each picture.
        durations: (N,) int64, likewise.
        path: the file to be written.
        suffix: says which container it is, a key of `formats.WRITABLE`.
        ai_edited: mark the file as edited by generative AI (IPTC digital source type, as a comment, and in ISO files as
            an XMP packet, too).

    Raises:
        VideoError: the container cannot hold the sound, a segment is not what it should be, or the disk refuses.
    """
    av = pyav()
    try:
        with (
            av.open(str(clip.path), metadata_errors="replace") as source,
            av.open(str(segments[0])) as first,
            av.open(str(path), "w", format=WRITABLE[suffix.lower()]) as result,
        ):
            if ai_edited:
                result.metadata["comment"] = f"Edited by generative AI: {AI_TERM}"
            picture = result.add_stream_from_template(first.streams.video[0], opaque=True)
            picture.time_base = clip.time_base
            if clip.display is not None:
                picture.set_display_matrix(clip.display)
            sound = {one.index: _sound_stream(result, one, suffix) for one in source.streams.audio}
            moving = _pictures(segments, picture, clip.time_base, times, durations)
            for _, packet in heapq.merge(moving, _sounds(source, sound), key=lambda timed: timed[0]):
                result.mux(packet)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path.name}: {_why(error)}") from error
    if ai_edited and suffix.lower() in ISO:
        box = b"uuid" + _XMP_BOX + AI_MARK.encode()
        with path.open("ab") as stream:
            stream.write((len(box) + 4).to_bytes(4, "big") + box)
    _sync(path)


def _sound_stream(result: Any, source: Any, suffix: str) -> Any:
    try:
        return result.add_stream_from_template(source)
    except (ValueError, pyav().error.FFmpegError) as error:
        name = source.codec_context.name if source.codec_context else "of an unknown kind"
        raise VideoError(f"its sound ({name}) does not fit into {suffix}: name an output that ends in .mkv") from error


def _pictures(
    segments: Sequence[Path], stream: Any, time_base: Fraction, times: np.ndarray, durations: np.ndarray
) -> Iterator[tuple[Fraction, Any]]:
    """Time in seconds, and packet, of each picture."""
    number = 0
    for path in segments:
        with pyav().open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:  # the end's mark
                    continue
                if number >= len(times):
                    raise VideoError(f"{path}: holds too many pictures: delete its folder and run the command again")
                packet.time_base, packet.pts, packet.dts = time_base, int(times[number]), int(times[number])
                packet.duration, packet.stream = int(durations[number]), stream
                yield int(times[number]) * time_base, packet
                number += 1
    if number < len(times):
        raise VideoError(f"{path}: holds too few pictures: delete its folder and run the command again")


def _sounds(source: Any, streams: dict[int, Any]) -> Iterator[tuple[Fraction, Any]]:
    """Time in seconds, and packet, of each piece of sound."""
    if not streams:
        return
    for packet in source.demux([source.streams[index] for index in streams]):
        if not packet.size:
            continue
        moment = packet.dts if packet.dts is not None else packet.pts
        time_base, packet.stream = packet.time_base, streams[packet.stream.index]
        yield (moment or 0) * time_base, packet


def steady_times(found: Iterable[int | None], clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Times and durations that a container takes: every time later than the one before, every duration over 0.

    Args:
        found: N times as the file gives them, in units of its time base; None where it gives none. At least one.
        clip: says how long a frame usually is, and all of them together are.

    Returns:
        (N,) int64 times, those of the file wherever they ascend, and (N,) int64 durations; the last frame ends when the
        clip does.
    """
    usual = max(1, round(1 / (clip.rate * clip.time_base)))
    times: list[int] = []
    for time in found:
        earliest = times[-1] + 1 if times else None
        chosen = int(time) if time is not None else times[-1] + usual if times else 0
        times.append(chosen if earliest is None else max(chosen, earliest))
    left = times[0] + (clip.duration or 0) - times[-1]
    return np.array(times, np.int64), np.append(np.diff(times), left if left > 0 else usual).astype(np.int64)


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return refusal(Path(), error).removeprefix(".: ")
    return f"cannot be encoded ({one_line(error)})"
