"""Video encoding: segments of frames, muxed with the source's audio but none of its metadata."""

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
from .files import write_error
from .images import AI_MARK, AI_TERM
from .video_reader import ISO, WRITABLE, Clip, Encoding

if TYPE_CHECKING:
    import av
    from typing_extensions import Self


_XMP_BOX = bytes.fromhex(
    "BE7ACFCB97A942E89C71999491E3AFAC"
)  # UUID of the box of an XMP packet (XMP specification, part 3)


class SegmentWriter:
    """Context manager that encodes successive frames to a Matroska file.

    The file appears only when it is complete. Only the order of the frames is stored; `join` sets their times.
    """

    def __init__(self, path: Path, clip: Clip, encoding: Encoding) -> None:
        """Open the encoder. Raises VideoError if FFmpeg lacks it, or the file cannot be written."""
        self._path, self._part = path, path.with_suffix(".part")
        av = pyav()
        try:
            self._container = av.open(str(self._part), "w", format="matroska")
            stream = self._container.add_stream(encoding.codec, rate=clip.rate, options=dict(encoding.options))
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(
                f"{path}: cannot be encoded by {encoding.codec} ({one_line(error)}): choose another suffix"
            ) from error
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, encoding.pixels
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = clip.colour
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        self._stream, self._unit, self._count = stream, 1 / clip.rate, 0

    def __enter__(self) -> Self:
        return self

    def add(self, frame: av.VideoFrame) -> None:
        """Encode a frame. Raises VideoError."""
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
        except (pyav().error.FFmpegError, OSError) as failure:
            if kind is None:
                raise VideoError(f"{self._path}: {_reason(failure)}") from failure
        finally:
            self._part.unlink(missing_ok=True)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except pyav().error.FFmpegError as error:
            raise VideoError(f"{self._path}: {_reason(error)}") from error


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
    """Mux segments and the clip's audio to one file, without re-encoding.

    The frames get the clip's times and display matrix. Metadata, subtitles, data tracks, chapters and attachments of
    the clip are not copied.

    Args:
        clip: source of the audio.
        segments: files of `SegmentWriter`, in order.
        times: (N,) int64 presentation times of all frames, ascending, in units of the clip's time base.
        durations: (N,) int64, in the same units.
        path: output file.
        suffix: of the container, a key of `video_reader.WRITABLE`.
        ai_edited: mark the file as edited by generative AI (IPTC digital source type, as a comment, and in ISO files
            also as an XMP packet).

    Raises:
        VideoError: the container does not support the audio, the number of frames is wrong, or the disk refuses.
    """
    av = pyav()
    try:
        with (
            av.open(str(clip.path), metadata_errors="replace") as source,
            av.open(str(segments[0])) as first,
            av.open(str(path), "w", format=WRITABLE[suffix.lower()]) as output,
        ):
            if ai_edited:
                output.metadata["comment"] = f"Edited by generative AI: {AI_TERM}"
            video = output.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = clip.time_base
            if clip.display is not None:
                video.set_display_matrix(clip.display)
            audio = {stream.index: _add_audio_stream(output, stream, suffix) for stream in source.streams.audio}
            video_packets = _video_packets(segments, video, clip.time_base, times, durations)
            for _, packet in heapq.merge(video_packets, _audio_packets(source, audio), key=lambda timed: timed[0]):
                output.mux(packet)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path.name}: {_reason(error)}") from error
    if ai_edited and suffix.lower() in ISO:
        box = b"uuid" + _XMP_BOX + AI_MARK.encode()
        with path.open("ab") as stream:
            stream.write((len(box) + 4).to_bytes(4, "big") + box)
    _sync(path)


def _add_audio_stream(output: Any, source: Any, suffix: str) -> Any:
    try:
        return output.add_stream_from_template(source)
    except (ValueError, pyav().error.FFmpegError) as error:
        name = source.codec_context.name if source.codec_context else "of an unknown codec"
        raise VideoError(
            f"its audio ({name}) is not supported by {suffix}: name an output that ends in .mkv"
        ) from error


def _video_packets(
    segments: Sequence[Path], stream: Any, time_base: Fraction, times: np.ndarray, durations: np.ndarray
) -> Iterator[tuple[Fraction, Any]]:
    """Yield time in seconds, and packet, of each frame."""
    index = 0
    for path in segments:
        with pyav().open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if not packet.size:  # end of stream
                    continue
                if index >= len(times):
                    raise VideoError(f"{path}: contains too many frames: delete its folder and run the command again")
                packet.time_base, packet.pts, packet.dts = time_base, int(times[index]), int(times[index])
                packet.duration, packet.stream = int(durations[index]), stream
                yield int(times[index]) * time_base, packet
                index += 1
    if index < len(times):
        raise VideoError(f"{path}: contains too few frames: delete its folder and run the command again")


def _audio_packets(source: Any, streams: dict[int, Any]) -> Iterator[tuple[Fraction, Any]]:
    """Yield time in seconds, and packet, of the audio streams."""
    if not streams:
        return
    for packet in source.demux([source.streams[index] for index in streams]):
        if not packet.size:
            continue
        time = packet.dts if packet.dts is not None else packet.pts
        time_base, packet.stream = packet.time_base, streams[packet.stream.index]
        yield (time or 0) * time_base, packet


def steady_times(source_times: Iterable[int | None], clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Return strictly ascending times and positive durations, as containers require.

    Args:
        source_times: N times of the file, at least one, in units of its time base; None where unspecified.
        clip: source of the frame rate and the total duration.

    Returns:
        (N,) int64 times, those of the file wherever they ascend, and (N,) int64 durations; the last frame ends with the
        clip.
    """
    frame = max(1, round(1 / (clip.rate * clip.time_base)))
    times: list[int] = []
    for source_time in source_times:
        time = int(source_time) if source_time is not None else times[-1] + frame if times else 0
        times.append(max(time, times[-1] + 1) if times else time)
    rest = times[0] + (clip.duration or 0) - times[-1]
    return np.array(times, np.int64), np.append(np.diff(times), rest if rest > 0 else frame).astype(np.int64)


def _sync(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return write_error(Path(), error).removeprefix(".: ")
    return f"cannot be encoded ({one_line(error)})"
