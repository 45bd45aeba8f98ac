"""Video decoding: a clip's properties, its frames, and lossless replacement of changed pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VideoError, one_line, pyav
from .files import sha256_of
from .images import MAX_PIXELS

if TYPE_CHECKING:
    import av


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

ISO = frozenset({".mp4", ".m4v", ".mov"})
"""Suffixes of ISO base media files (ISO/IEC 14496-12), which can hold an XMP packet."""

_FALLBACK = ".mkv"  # Matroska holds the audio of every container, and frames at any times


@dataclass(frozen=True)
class Encoding:
    """Encoder settings of an output; segments with equal settings can be joined.

    Attributes:
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format, planar YUV.
        options: of the encoder.
    """

    codec: str
    pixels: str
    options: tuple[tuple[str, str], ...]


#: Visually lossless constant quality. Without B-frames packets are in presentation order, so that independently encoded
#: segments can be concatenated without gap or overlap.
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
    """Return FFmpeg's name of the 8-bit planar format with chroma of half the width, and maybe half the height."""
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
    """Return a new frame with the samples of ``after`` where it differs from ``before``, and the old samples elsewhere.

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

    Transfer function and primaries are masked: they are not needed, but PyAV before 18 passes them to FFmpeg, which
    refuses some.
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
        width: of the stored frames, in pixels.
        height: of the stored frames, in pixels.
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
    digest = _digest(path)
    with _reading(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path}: contains no frame: use another clip")
        if first.width * first.height > MAX_PIXELS:
            raise VideoError(
                f"{path}: {first.width} x {first.height} pixels are over the limit of {MAX_PIXELS}: scale the clip down"
            )
        matrix = _display_matrix(first)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Clip(
            path,
            digest,
            first.width,
            first.height,
            round(first.rotation / 90) % 4,
            matrix,
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

    Raises VideoError where the file is damaged or the size of its frames changes.
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


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises VideoError."""
    try:
        if path.is_dir():
            raise VideoError(f"{path}: is a folder, not a clip: name a clip in it")
        if path.exists() and not path.is_file():
            raise VideoError(f"{path}: is not a regular file: name a clip")
        if not path.stat().st_size:
            raise VideoError(f"{path}: is empty (0 bytes): get a complete copy")
        return sha256_of(path)
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise VideoError(f"{path}: reading it is not allowed: change its permissions") from error
    except VideoError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise VideoError(f"{path}: cannot be read ({one_line(error)}): check the name and the disk") from error
