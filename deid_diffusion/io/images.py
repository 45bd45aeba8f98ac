"""Image files: reading as upright RGB, and writing without the source's metadata."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from ..errors import ImageError, one_line
from .files import read_errors, write_atomic

MAX_PIXELS = 200_000_000
"""Default limit of width x height: larger than any phone camera (16,320 x 12,240), smaller than decompression bombs."""

READABLE = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".gif"})
"""Suffixes of images in folders, in lower case."""

WRITABLE = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Suffix, in lower case, -> Pillow's name of the output format. All but JPEG are lossless."""

AI_TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type of images inpainted by generative AI."""

AI_MARK = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    " Iptc4xmpExt:DigitalSourceType="
    f'"{AI_TERM}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
"""XMP packet with `AI_TERM`."""

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_XMP_TAG = 700  # of TIFF
_pillow_limit = threading.Lock()


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright.
        alpha: (H, W) uint8, 0 transparent to 255 opaque, upright; None for a file without transparency.
        icc_profile: the file's colour profile if it is an RGB profile, else None.
        sha256: hex digest of the file's bytes.
        format: "JPEG", "PNG", "WEBP", "TIFF", "HEIF" or "GIF".
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    icc_profile: bytes | None
    sha256: str
    format: str


def read(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a still image: JPEG, PNG, WebP, TIFF, GIF, and HEIC if pillow-heif is installed.

    The orientation tag is applied. 16-bit, 1-bit, grey, palette and CMYK images are converted to 8-bit RGB.

    Args:
        path: the file.
        max_pixels: limit of width x height, checked against the header before decoding.

    Raises:
        ImageError: missing, empty, truncated, animated, too large, or not an image. One line, with the name.
    """
    path = Path(path)
    return decode(file_bytes(path), path, max_pixels=max_pixels)


def decode(data: bytes, name: str | Path, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a file's bytes as `read` does. Raises ImageError, whose message begins with `name`."""
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes): get a complete copy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF blocks, which are dropped anyway
        image = _open(name, data)
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width} x {height} pixels are over the limit of {max_pixels}: scale the photo down first"
            )
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # a JPEG with a preview or depth map
        try:
            # the first image of an MPO is the photo; it is not an animation
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ImageError(f"{name}: contains several images (animation or pages): extract them to single files")
            image.load()
            image = ImageOps.exif_transpose(image)
            pixels, alpha = _rgb_and_alpha(name, image)
        except ImageError:
            raise
        except MemoryError as error:
            raise ImageError(f"{name}: not enough memory for {width} x {height} pixels: scale it down first") from error
        except Exception as error:  # decoders raise OSError, ValueError, SyntaxError and more on damaged data
            raise ImageError(f"{name}: is truncated or damaged ({one_line(error)}): get a complete copy") from error
    profile = image.info.get("icc_profile")
    keep = isinstance(profile, bytes) and profile[16:20] == b"RGB " and image.mode != "CMYK"
    return Photo(pixels, alpha, profile if keep else None, hashlib.sha256(data).hexdigest(), kind)


def write(
    path: str | Path,
    pixels: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    overwrite: bool = False,
    ai_edited: bool = True,
) -> str:
    """Write an image atomically, in the format of its suffix, without metadata but the profile and the AI mark.

    Args:
        path: .png, .webp, .tif, .tiff (lossless) or .jpg, .jpeg (quality 95, no chroma subsampling).
        pixels: (H, W, 3) uint8 RGB.
        alpha: (H, W) uint8, 0 transparent to 255 opaque. JPEG accepts only opaque ones.
        icc_profile: colour profile of `pixels`.
        overwrite: replace an existing file.
        ai_edited: mark the file as edited by generative AI (IPTC digital source type, in XMP).

    Returns:
        SHA-256 of the bytes written, in hex.

    Raises:
        ImageError: unsupported suffix or arrays, or a refusal of the file system. Nothing is left behind.
    """
    data = encode(path, pixels, alpha=alpha, icc_profile=icc_profile, ai_edited=ai_edited)
    write_atomic(Path(path), data, overwrite=overwrite)
    return hashlib.sha256(data).hexdigest()


def encode(
    name: str | Path,
    pixels: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    ai_edited: bool = True,
) -> bytes:
    """Encode an image as `write` does, for a file of this name. Raises ImageError."""
    path = Path(name)
    _check_array("pixels", pixels, 3)
    if alpha is not None:
        _check_array("alpha", alpha, 2)
        if alpha.shape != pixels.shape[:2]:
            raise ImageError(f"alpha: {alpha.shape}, expected {pixels.shape[:2]}, the size of pixels")
    check_target(path, (pixels.shape[0], pixels.shape[1]), alpha)
    kind = output_format(path)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None and kind != "JPEG":
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    options = _save_options(kind, AI_MARK.encode() if ai_edited else None)
    if icc_profile:
        options["icc_profile"] = icc_profile
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"{path}: cannot be encoded as {kind} ({one_line(error)}): choose another format") from error
    return buffer.getvalue()


def output_format(path: Path) -> str:
    """Return the format of `path`: "PNG", "WEBP", "TIFF" or "JPEG". Raises ImageError for other suffixes."""
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: {path.suffix or 'no suffix'} cannot be written: use one of {', '.join(WRITABLE)}")
    return kind


def check_target(path: Path, size: tuple[int, int], alpha: np.ndarray | None) -> None:
    """Raise ImageError if the format of `path` cannot store an image of this (height, width) and (H, W) uint8 alpha."""
    kind = output_format(path)
    if kind == "JPEG" and alpha is not None and alpha.size and alpha.min() < 255:
        raise ImageError(f"{path}: JPEG does not support transparency: use .png or .webp")
    limit = _MAX_SIDE.get(kind)
    if limit is not None and max(size) > limit:
        raise ImageError(f"{path}: {kind} supports at most {limit} pixels per side, not {max(size)}: use .png")


def _save_options(kind: str, xmp: bytes | None) -> dict[str, Any]:
    """Return Pillow's `save` arguments for a format and an XMP packet."""
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if xmp:
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        return {"pnginfo": info}
    if kind == "TIFF":
        return {"compression": "tiff_deflate", "tiffinfo": {_XMP_TAG: xmp} if xmp else {}}
    quality = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True, "exact": True}
    return {**quality, "xmp": xmp} if xmp else quality


def file_bytes(path: Path) -> bytes:
    """Read a regular file. Raises ImageError."""
    with read_errors(path, "an image"):
        return path.read_bytes()


def _open(name: str | Path, data: bytes) -> Image.Image:
    """Parse the header, decode nothing. Raises ImageError."""
    formats: tuple[str, ...] = _FORMATS
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        try:
            import pillow_heif
        except ImportError as error:
            raise ImageError(f"{name}: HEIC needs another package: pip install pillow-heif") from error
        pillow_heif.register_heif_opener()
        formats = ("HEIF",)
    with _pillow_limit:  # Pillow's own limit is below large phone photos; `decode` checks the size afterwards
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        except Image.UnidentifiedImageError as error:
            problem = "is not a photo, or its header is damaged: use JPEG, PNG, WebP, TIFF or HEIC"
            raise ImageError(f"{name}: {problem}") from error
        except Exception as error:  # see `decode`
            raise ImageError(f"{name}: is truncated or damaged ({one_line(error)}): get a complete copy") from error
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _rgb_and_alpha(name: str | Path, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert a decoded image of any mode to (H, W, 3) uint8 RGB and (H, W) uint8 alpha or None."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values * 255 + 32_767) // 65_535).astype(np.uint8)
        key = image.info.get("transparency")
        alpha = None if key is None else np.where(values == key, 0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey], axis=2), alpha
    if image.mode in ("I", "F"):
        raise ImageError(f"{name}: has 32-bit samples of unknown range: convert it to 8 or 16 bits per sample")
    if image.mode == "CMYK":
        return np.array(_cmyk_to_srgb(image)), None
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    return np.array(image.convert("RGB")), None


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    """Convert by the embedded CMYK profile, or by Pillow's formula without a usable one."""
    profile = image.info.get("icc_profile")
    if profile and profile[16:20] == b"CMYK":
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # damaged profile
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


def _check_array(name: str, array: np.ndarray, dimensions: int) -> None:
    shape_ok = array.ndim == dimensions and (dimensions == 2 or array.shape[2] == 3) and array.size > 0
    if array.dtype != np.uint8 or not shape_ok:
        expected = "(H, W, 3)" if dimensions == 3 else "(H, W)"
        raise ImageError(f"{name}: {array.shape} {array.dtype}, expected {expected} uint8 with at least one pixel")
