"""Clips in: what a file says of its pictures, and the pictures one by one."""

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
"""Suffix, in lower case, of a result -> FFmpeg's name of its container."""

READABLE = frozenset({*WRITABLE, ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"})
"""Suffixes, in lower case, by which clips are recognised."""

ISO = frozenset({".mp4", ".m4v", ".mov"})
"""Suffixes of files made of ISO boxes (ISO/IEC 14496-12), which can carry an XMP packet."""

_ELSE = ".mkv"  # Matroska takes the sound of every container, and frames at any times


@dataclass(frozen=True)
class Encoding:
    """How a result's pictures are encoded. The same values give the same stream parameters, so segments can be joined.

    Attributes:
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format, planar YUV.
        options: of the encoder.
    """

    codec: str
    pixels: str
    options: tuple[tuple[str, str], ...]


#: Constant quality that is hard to tell from the source. No B-frames: then packets are in the order of their times, and
#: segments that were encoded apart follow each other without a gap or an overlap.
_H264 = (("crf", "18"), ("preset", "medium"), ("bf", "0"))
_VP9 = (("crf", "24"), ("b", "0"), ("deadline", "good"), ("cpu-used", "4"), ("row-mt", "1"))


def is_clip(path: Path) -> bool:
    """Whether a file is a clip, by its suffix."""
    return path.suffix.lower() in READABLE


def result_suffix(path: Path) -> str:
    """The suffix of a clip's result: its own, or that of Matroska for a container that is read only."""
    suffix = path.suffix.lower()
    return path.suffix if suffix in WRITABLE else _ELSE


def encoding_for(suffix: str, pixels: str, size: tuple[int, int]) -> Encoding:
    """What a clip is encoded with. Raises VideoError for a suffix that cannot be written.

    Args:
        suffix: of the result.
        pixels: FFmpeg's name of the clip's pixel format. Its subsampling of colour is kept; of more than 8 bits a
            sample, 10 are kept in H.264 and 8 in VP9; transparency is left out.
        size: (width, height) of the stored picture. H.264 cannot hold odd ones with subsampled colour: those get 4:4:4.
    """
    if suffix.lower() not in WRITABLE:
        raise VideoError(f"a clip cannot be written as {suffix or 'a file without suffix'}: use {', '.join(WRITABLE)}")
    of = pyav().VideoFormat(pixels)
    across, down = of.chroma_width(16) < 16, of.chroma_height(16) < 16
    if len(of.components) < 3 and not of.is_rgb:  # grey
        across, down = True, True
    if suffix.lower() == ".webm":
        return Encoding("libvpx-vp9", _planar(across, down), _VP9)
    if (across and size[0] % 2) or (across and down and size[1] % 2):
        across = False
    deep = max(one.bits for one in of.components) > 8
    return Encoding("libx264", _planar(across, down) + ("10le" if deep else ""), _H264)


def _planar(across: bool, down: bool) -> str:
    """FFmpeg's name of the 8-bit planar format that has half the colour samples across, or also down."""
    return f"yuv{'444' if not across else '420' if down else '422'}p"


_UNSPECIFIED = 2  # FFmpeg's number of an unknown transfer function, and of unknown primaries


def to_rgb(frame: av.VideoFrame, turns: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a frame, turned by so many quarter turns counter-clockwise.

    The frame's own colour matrix and range are used.
    """
    return np.ascontiguousarray(np.rot90(_converted(frame, "rgb24").to_ndarray(), turns))


def changed(frame: av.VideoFrame, pixels: str, before: np.ndarray, after: np.ndarray, turns: int) -> av.VideoFrame:
    """A new frame that shows ``after`` wherever that differs from ``before``, and the old samples elsewhere.

    Where colour is subsampled, all pixels that share a sample with a changed one get their colour from ``after``.
    Nothing that hangs on the old frame (captions, positions, the camera's remarks) hangs on the new one.

    Args:
        frame: as it was decoded.
        pixels: FFmpeg's name of the result's pixel format, planar YUV.
        before: (H, W, 3) uint8, what `to_rgb` made of the frame.
        after: (H, W, 3) uint8, likewise turned.
        turns: as for `to_rgb`.
    """
    base, made = _converted(frame, pixels), None
    different = np.rot90((before != after).any(2), -turns)
    if different.any():
        picture = np.ascontiguousarray(np.rot90(after, -turns))
        rgb = pyav().VideoFrame.from_ndarray(picture, "rgb24")
        rgb.colorspace, rgb.color_range = frame.colorspace, frame.color_range
        made = rgb.reformat(format=pixels)
    result = pyav().VideoFrame(frame.width, frame.height, pixels)
    result.colorspace, result.color_range = base.colorspace, base.color_range
    result.color_primaries, result.color_trc = frame.color_primaries, frame.color_trc
    for number in range(len(result.planes)):
        samples = _samples(base, number)
        if made is not None:
            samples = np.where(_shared(different, samples.shape), _samples(made, number), samples)
        _samples(result, number)[...] = samples
    return result


def _converted(frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
    """A frame in another pixel format, by its own colour matrix and range.

    Transfer function and primaries play no part in that, but PyAV before 18 hands them on, and some are refused.
    """
    told = frame.color_trc, frame.color_primaries
    frame.color_trc = frame.color_primaries = _UNSPECIFIED
    try:
        return frame.reformat(format=pixels)
    finally:
        frame.color_trc, frame.color_primaries = told


def _samples(frame: Any, number: int) -> np.ndarray:
    """(h, w) view of a plane's samples, uint8 or uint16, without the padding at its right."""
    plane = frame.planes[number]
    kind = np.dtype(np.uint8 if frame.format.components[number].bits <= 8 else np.uint16)
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    return rows[: plane.height, : plane.width]


def _shared(different: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: which samples of a plane any True pixel of an (H, W) mask has a part in."""
    rows, columns = (-(-full // part) for full, part in zip(different.shape, shape, strict=True))
    missing = [
        (0, part * step - full) for full, part, step in zip(different.shape, shape, (rows, columns), strict=True)
    ]
    whole = np.pad(different, missing)
    return whole.reshape(shape[0], rows, shape[1], columns).any((1, 3))


_RATES = (1, 500)  # pictures a second that an encoder is told at least and at most; times are kept whatever it is told


@dataclass(frozen=True)
class Clip:
    """What is known of a clip before its pictures are gone through.

    Attributes:
        path: the file.
        sha256: hex digest of its bytes.
        width: of the stored picture, in pixels.
        height: likewise.
        turns: quarter turns, counter-clockwise, that set the stored picture upright: 0 to 3.
        display: the nine numbers of the display matrix that says so (ISO/IEC 14496-12), or None.
        pixels: FFmpeg's name of the pixel format.
        colour: FFmpeg's numbers of matrix, range, primaries and transfer function.
        aspect: width of a pixel by its height; None if the file does not say.
        rate: pictures a second, on average.
        time_base: unit of the pictures' times, in seconds.
        duration: of all pictures together, in units of the time base; None if the file does not say.
        expected: number of pictures that the file promises; 0 if it does not say.
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
        """(height, width) of the upright picture."""
        return (self.width, self.height) if self.turns % 2 else (self.height, self.width)


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of a clip.

    Attributes:
        index: from 0 on.
        stored: as it was decoded.
        time: when it is shown, in units of the clip's time base; None if the file does not say.
        turns: as `Clip.turns`.
    """

    index: int
    stored: av.VideoFrame
    time: int | None
    turns: int

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        return to_rgb(self.stored, self.turns)


def open_clip(path: str | Path) -> Clip:
    """What a clip is. Its first picture is decoded.

    Raises:
        VideoError: missing, empty, damaged, too large, or without any picture. One line, with the name.
        DeidError: PyAV is missing.
    """
    path = Path(path)
    digest = _digest(path)
    with _reading(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path}: holds no picture: give a clip that shows something")
        if first.width * first.height > MAX_PIXELS:
            raise VideoError(f"{path}: {first.width} x {first.height} pixels are over the limit of {MAX_PIXELS}")
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


def pictures(clip: Clip) -> Iterator[Picture]:
    """The frames of a clip in the order in which they are shown, one in memory at a time.

    Raises VideoError where the file is damaged, or its pictures change their size.
    """
    with _reading(clip.path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if (frame.width, frame.height) != (clip.width, clip.height):
                sizes = f"{clip.width} x {clip.height} to {frame.width} x {frame.height}"
                raise VideoError(f"{clip.path}: changes its size from {sizes} at frame {index}: cut it there")
            yield Picture(index, frame, frame.pts, clip.turns)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open container and its picture stream; FFmpeg's errors become one line."""
    av = pyav()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            moving = [stream for stream in container.streams.video if not _is_still(stream)]
            if not moving:
                raise VideoError(f"{path}: holds no moving picture: give a clip")
            yield container, moving[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: is no clip, or damaged ({one_line(error.strerror)}): get a complete copy") from error


def _is_still(stream: Any) -> bool:
    """Whether a picture stream is a cover picture or the like; those may show faces and are never copied."""
    return bool(stream.disposition & (stream.disposition.attached_pic | stream.disposition.timed_thumbnails))


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(int(one) for one in np.frombuffer(bytes(data), np.int32))
    return None


def _digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises VideoError."""
    try:
        if path.is_dir():
            raise VideoError(f"{path}: is a folder where a clip is needed: name a clip in it")
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
