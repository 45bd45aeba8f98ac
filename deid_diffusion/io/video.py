"""Video files: decoding, lossless replacement of changed pixels, and encoding in segments that are joined."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VideoError, one_line, pyav
from .files import read_errors, sha256_of, write_error
from .images import AI_MARK, AI_TERM, MAX_PIXELS

if TYPE_CHECKING:
    import av
    from typing_extensions import Self


WRITABLE: Mapping[str, str] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""Suffix of an output, in lower case, -> FFmpeg's name of its container."""

READABLE = frozenset({*WRITABLE, ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"})
"""Suffixes of clips, in lower case."""

_ISO = frozenset({".mp4", ".m4v", ".mov"})  # ISO base media files (ISO/IEC 14496-12), which can hold an XMP packet
_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")  # its UUID (XMP specification, part 3)
_FALLBACK = ".mkv"  # Matroska holds the audio of every container, and frames at any times


@dataclass(frozen=True)
class Encoding:
    """FFmpeg's names of an encoder and of a planar YUV pixel format, and the encoder's options.

    Segments with equal settings can be joined.
    """

    codec: str
    pixels: str
    options: tuple[tuple[str, str], ...]


# Visually lossless constant quality. Without B-frames packets are in presentation order, so that segments can be
# encoded independently and concatenated without gap or overlap.
_H264 = (("crf", "18"), ("preset", "medium"), ("bf", "0"))
_VP9 = (("crf", "24"), ("b", "0"), ("deadline", "good"), ("cpu-used", "4"), ("row-mt", "1"))


def is_clip(path: Path) -> bool:
    """Return whether a file is a clip, by its suffix."""
    return path.suffix.lower() in READABLE


def result_suffix(path: Path) -> str:
    """Return the suffix of a clip's output: its own, or Matroska's for a container that cannot be written."""
    return path.suffix if path.suffix.lower() in WRITABLE else _FALLBACK


def encoding_for(suffix: str, pixels: str, size: tuple[int, int]) -> Encoding:
    """Choose encoder settings for a clip. Raises VideoError for a suffix that cannot be written.

    Args:
        suffix: of the output.
        pixels: FFmpeg's name of the clip's pixel format. Its chroma subsampling is kept; more than 8 bits per sample
            become 10 in H.264 and 8 in VP9; transparency is dropped.
        size: (width, height) of the stored frame. H.264 does not support odd sizes with chroma subsampling: they are
            encoded as 4:4:4.
    """
    if suffix.lower() not in WRITABLE:
        raise VideoError(f"a clip cannot be written as {suffix or 'a file without suffix'}: use {', '.join(WRITABLE)}")
    source = pyav().VideoFormat(pixels)
    half_width, half_height = source.chroma_width(16) < 16, source.chroma_height(16) < 16
    if len(source.components) < 3 and not source.is_rgb:  # grey
        half_width, half_height = True, True
    if suffix.lower() == ".webm":
        return Encoding("libvpx-vp9", _planar(half_width, half_height), _VP9)
    if (half_width and size[0] % 2) or (half_width and half_height and size[1] % 2):
        half_width = False
    deep = max(component.bits for component in source.components) > 8
    return Encoding("libx264", _planar(half_width, half_height) + ("10le" if deep else ""), _H264)


def _planar(half_width: bool, half_height: bool) -> str:
    """Return FFmpeg's name of an 8-bit planar format by its chroma subsampling."""
    return f"yuv{'444' if not half_width else '420' if half_height else '422'}p"


_UNSPECIFIED = 2  # FFmpeg's code of an unspecified transfer function, and of unspecified primaries


def to_rgb(frame: av.VideoFrame, turns: int) -> np.ndarray:
    """Convert a frame to (H, W, 3) uint8 RGB by its own colour matrix and range.

    Args:
        frame: as decoded.
        turns: number of counter-clockwise quarter turns to apply.
    """
    return np.ascontiguousarray(np.rot90(_convert(frame, "rgb24").to_ndarray(), turns))


def replace_changed(
    frame: av.VideoFrame, pixels: str, before: np.ndarray, after: np.ndarray, turns: int
) -> av.VideoFrame:
    """Return a new frame with samples of ``after`` where it differs from ``before``, and the old samples elsewhere.

    With chroma subsampling, all pixels that share a sample with a changed one get their chroma from ``after``. The old
    frame's side data (captions, locations, camera metadata) is dropped.

    Args:
        frame: as decoded.
        pixels: FFmpeg's name of the output's pixel format, planar YUV.
        before: (H, W, 3) uint8, the frame by `to_rgb`.
        after: (H, W, 3) uint8, in the same orientation.
        turns: as for `to_rgb`.
    """
    old, new = _convert(frame, pixels), None
    mask = np.rot90((before != after).any(2), -turns)
    if mask.any():
        rgb = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(after, -turns)), "rgb24")
        rgb.colorspace, rgb.color_range = frame.colorspace, frame.color_range
        new = rgb.reformat(format=pixels)
    output = pyav().VideoFrame(frame.width, frame.height, pixels)
    output.colorspace, output.color_range = old.colorspace, old.color_range
    output.color_primaries, output.color_trc = frame.color_primaries, frame.color_trc
    for plane in range(len(output.planes)):
        samples = _samples(old, plane)
        if new is not None:
            samples = np.where(_subsample_mask(mask, samples.shape), _samples(new, plane), samples)
        _samples(output, plane)[...] = samples
    return output


def _convert(frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
    """Convert a frame to another pixel format by its own colour matrix and range.

    Transfer function and primaries are masked: PyAV before 18 passes them to FFmpeg, which refuses some.
    """
    original = frame.color_trc, frame.color_primaries
    frame.color_trc = frame.color_primaries = _UNSPECIFIED
    try:
        return frame.reformat(format=pixels)
    finally:
        frame.color_trc, frame.color_primaries = original


def _samples(frame: Any, index: int) -> np.ndarray:
    """Return an (h, w) view of a plane's samples, uint8 or uint16, without the padding of its rows."""
    plane = frame.planes[index]
    dtype = np.dtype(np.uint8 if frame.format.components[index].bits <= 8 else np.uint16)
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[: plane.height, : plane.width]


def _subsample_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reduce an (H, W) bool mask to a plane's (h, w): True for samples that any True pixel shares."""
    steps = [-(-full // part) for full, part in zip(mask.shape, shape, strict=True)]
    padding = [(0, part * step - full) for full, part, step in zip(mask.shape, shape, steps, strict=True)]
    return np.pad(mask, padding).reshape(shape[0], steps[0], shape[1], steps[1]).any((1, 3))


_RATES = (1, 500)  # limits of the encoder's nominal frame rate; the frames keep their times


@dataclass(frozen=True)
class Clip:
    """Properties of a clip.

    Attributes:
        path: the file.
        sha256: hex digest of its bytes.
        width, height: of the stored frames, in pixels.
        turns: counter-clockwise quarter turns that make the stored frames upright: 0 to 3.
        display: the nine numbers of the display matrix (ISO/IEC 14496-12), or None.
        pixels: FFmpeg's name of the pixel format.
        colour: FFmpeg's codes of matrix, range, primaries and transfer function.
        aspect: width of a pixel divided by its height; None if unspecified.
        rate: average frames per second.
        time_base: unit of the frames' times, in seconds.
        duration: of the video stream, in units of the time base; None if unspecified.
        expected: number of frames according to the file's header; 0 if unspecified.
    """

    path: Path
    sha256: str
    width: int
    height: int
    turns: int
    display: tuple[int, ...] | None
    pixels: str
    colour: tuple[int, int, int, int]
    aspect: Fraction | None
    rate: Fraction
    time_base: Fraction
    duration: int | None
    expected: int

    @property
    def upright(self) -> tuple[int, int]:
        """Return (height, width) of the upright frames."""
        return (self.width, self.height) if self.turns % 2 else (self.height, self.width)


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a clip.

    Attributes:
        index: from 0 on.
        stored: the decoded frame.
        time: presentation time, in units of the clip's time base; None if unspecified.
        turns: as `Clip.turns`.
    """

    index: int
    stored: av.VideoFrame
    time: int | None
    turns: int

    def rgb(self) -> np.ndarray:
        """Return (H, W, 3) uint8 RGB, upright."""
        return to_rgb(self.stored, self.turns)


def open_clip(path: str | Path) -> Clip:
    """Read the properties of a clip, and decode its first frame.

    Raises:
        VideoError: missing, empty, damaged, too large, or without frames. One line, with the name.
        DeidError: PyAV is not installed.
    """
    path = Path(path)
    with read_errors(path, "a clip", VideoError):
        if not path.stat().st_size:
            raise VideoError(f"{path}: is empty (0 bytes): get a complete copy")
        digest = sha256_of(path)
    with _reading(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path}: contains no frame: use another clip")
        if first.width * first.height > MAX_PIXELS:
            raise VideoError(
                f"{path}: {first.width} x {first.height} pixels are over the limit of {MAX_PIXELS}: scale the clip down"
            )
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Clip(
            path,
            digest,
            first.width,
            first.height,
            round(first.rotation / 90) % 4,
            _display_matrix(first),
            first.format.name,
            (int(first.colorspace), int(first.color_range), int(first.color_primaries), int(first.color_trc)),
            stream.sample_aspect_ratio or None,
            min(max(Fraction(rate), Fraction(_RATES[0])), Fraction(_RATES[1])),
            stream.time_base,
            stream.duration,
            stream.frames,
        )


def iter_frames(clip: Clip) -> Iterator[Frame]:
    """Yield the frames of a clip in presentation order, one in memory at a time.

    Raises VideoError if the file is damaged or the size of its frames changes.
    """
    with _reading(clip.path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if (frame.width, frame.height) != (clip.width, clip.height):
                sizes = f"{clip.width} x {clip.height} to {frame.width} x {frame.height}"
                raise VideoError(f"{clip.path}: its size changes from {sizes} at frame {index}: split it there")
            yield Frame(index, frame, frame.pts, clip.turns)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a clip's container and video stream; FFmpeg's errors become one line."""
    av = pyav()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            streams = [stream for stream in container.streams.video if not _is_still(stream)]
            if not streams:
                raise VideoError(f"{path}: contains no video stream: use another clip")
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path}: is not a clip, or damaged ({one_line(error.strerror)}): get a complete copy"
        ) from error


def _is_still(stream: Any) -> bool:
    """Return whether a video stream is a cover image or thumbnail; they may show faces and are never copied."""
    return bool(stream.disposition & (stream.disposition.attached_pic | stream.disposition.timed_thumbnails))


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(bytes(data), np.int32).tolist())
    return None


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
        try:
            if kind is not None:
                with suppress(pyav().error.FFmpegError, OSError):
                    self._container.close()
                return
            self._mux(None)
            with _encoding_errors(self._path):
                self._container.close()
                _sync(self._part)
                self._part.replace(self._path)
        finally:
            self._part.unlink(missing_ok=True)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with _encoding_errors(self._path):
            self._container.mux(self._stream.encode(frame))


@contextmanager
def _encoding_errors(name: object) -> Iterator[None]:
    """Convert errors of FFmpeg and of the disk inside the block to one line about a file."""
    try:
        yield
    except (pyav().error.FFmpegError, OSError) as error:
        reason = f"cannot be encoded ({one_line(error)})"
        if isinstance(error, OSError) and error.errno:
            reason = write_error(Path(), error).removeprefix(".: ")
        raise VideoError(f"{name}: {reason}") from error


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

    Metadata, subtitles, data tracks, chapters and attachments of the clip are not copied; its display matrix is.

    Args:
        clip: source of the audio.
        segments: files of `SegmentWriter`, in order.
        times: (N,) int64 presentation times of all frames, ascending, in units of the clip's time base.
        durations: (N,) int64, in the same units.
        path: output file.
        suffix: of the container, a key of `WRITABLE`.
        ai_edited: mark the file as edited by generative AI (IPTC digital source type, as a comment, and in ISO files
            also as an XMP packet).

    Raises:
        VideoError: the container does not support the audio, the number of frames is wrong, or the disk refuses.
    """
    av = pyav()
    with (
        _encoding_errors(path.name),
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
    if ai_edited and suffix.lower() in _ISO:
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
