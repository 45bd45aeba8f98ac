"""Which files are clips, what their results are called, and which codec and pixels those get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import VideoError
from .packages import pyav

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
