"""Tests of image files: modes, orientations, bad files, metadata and atomic writing."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from deid_diffusion.errors import DeidError, ImageError
from deid_diffusion.io import images


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=2).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int, *, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        images.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_read_lossless(tmp_path, pixels, suffix):
    path = save(tmp_path / f"a{suffix}", Image.fromarray(pixels), lossless=True)
    photo = images.read(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.alpha is None
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert photo.format == {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}[suffix]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_read_applies_orientation(tmp_path, orientation, suffix):
    upright = smooth()
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    path = save(tmp_path / f"a{suffix}", stored, exif=exif, quality=95, lossless=True)
    photo = images.read(path)
    assert photo.pixels.shape == upright.shape
    assert np.abs(photo.pixels.astype(int) - upright).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_read_16_bit_grey(tmp_path, suffix):
    values = np.array([[0, 128, 129, 32_768, 65_535]], np.uint16)
    photo = images.read(save(tmp_path / f"a{suffix}", Image.fromarray(values)))
    assert photo.pixels[0].tolist() == [[level] * 3 for level in (0, 0, 1, 128, 255)]


def test_read_big_endian_tiff(tmp_path):
    values = np.array([[0, 65_535]], np.uint16)
    path = save(tmp_path / "a.tif", Image.frombytes("I;16B", (2, 1), values.astype(">u2").tobytes()))
    assert images.read(path).pixels[0].tolist() == [[0] * 3, [255] * 3]


def test_read_float_tiff(tmp_path):
    assert "32-bit" in refusal(save(tmp_path / "a.tif", Image.fromarray(np.ones((2, 2), np.float32))))


def test_read_1_bit_and_grey(tmp_path):
    black_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert images.read(save(tmp_path / "1.png", black_white)).pixels.tolist() == [[[0] * 3, [255] * 3]]
    assert images.read(save(tmp_path / "l.jpg", Image.new("L", (8, 8), 77))).pixels[3, 3].tolist() == [77] * 3


def test_read_alpha(tmp_path, pixels):
    alpha = np.arange(24 * 32, dtype=np.uint32).reshape(24, 32).astype(np.uint8)
    photo = images.read(save(tmp_path / "a.png", Image.fromarray(np.dstack([pixels, alpha]))))
    np.testing.assert_array_equal(photo.pixels, pixels)
    np.testing.assert_array_equal(photo.alpha, alpha)
    grey = images.read(save(tmp_path / "la.png", Image.merge("LA", [Image.new("L", (2, 2), 9)] * 2)))
    assert (grey.pixels == 9).all()
    assert (grey.alpha == 9).all()


def test_read_palette_and_colour_key(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    opaque = images.read(save(tmp_path / "p.png", palette))
    assert opaque.alpha is None
    assert opaque.pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert images.read(save(tmp_path / "pt.png", palette, transparency=1)).alpha.tolist() == [[255, 0]]
    grey = Image.fromarray(np.array([[3, 7]], np.uint8))
    assert images.read(save(tmp_path / "l.png", grey, transparency=7)).alpha.tolist() == [[255, 0]]
    deep = Image.fromarray(np.array([[3, 7]], np.uint16))
    assert images.read(save(tmp_path / "i.png", deep, transparency=7)).alpha.tolist() == [[255, 0]]


def cmyk_profile() -> bytes:
    """A CMYK profile in which black ink gives black, and all other inks a middle grey."""
    inks = bytes([128, 128, 128, 0, 128, 128])  # Lab 50, 0, 0 without black ink, 0, 0, 0 with it
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65_536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + inks * 8 + identity * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    offset = 128 + 4 + 2 * 12
    tags = struct.pack(">I", 2) + b"A2B0" + struct.pack(">2I", offset, len(table))
    tags += b"wtpt" + struct.pack(">2I", offset + len(table) + -len(table) % 4, len(white))
    body = tags + table + b"\0" * (-len(table) % 4) + white
    header = struct.pack(">I4sI4s4s4s12s4s", 128 + len(body), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"", b"acsp")
    return header.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D).ljust(60, b"\0") + body


def test_read_cmyk(tmp_path):
    white_red = Image.new("CMYK", (16, 16))
    white_red.paste((0, 255, 255, 0), (8, 0, 16, 16))
    for name in ("a.tif", "a.jpg"):  # Pillow writes Adobe's inverted values into the JPEG
        photo = images.read(save(tmp_path / name, white_red))
        assert np.abs(photo.pixels[8, 2].astype(int) - [255, 255, 255]).max() < 6
        assert np.abs(photo.pixels[8, 13].astype(int) - [255, 0, 0]).max() < 12
    through_profile = images.read(save(tmp_path / "b.jpg", white_red, icc_profile=cmyk_profile()))
    assert np.abs(through_profile.pixels[8, 13].astype(int) - [119, 119, 119]).max() < 4
    assert through_profile.icc_profile is None
    broken = images.read(save(tmp_path / "c.jpg", white_red, icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200))
    assert np.abs(broken.pixels[8, 13].astype(int) - [255, 0, 0]).max() < 12
    assert broken.icc_profile is None


def test_read_keeps_only_rgb_profiles(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert images.read(save(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), icc_profile=profile)).icc_profile == profile
    assert images.read(save(tmp_path / "b.jpg", Image.new("L", (8, 8)), icc_profile=grey)).icc_profile is None


def test_read_heic(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = save(tmp_path / "a.heic", Image.fromarray(smooth(64, 48)), quality=95)
    photo = images.read(path)
    assert photo.format == "HEIF"
    assert np.abs(photo.pixels.astype(int) - smooth(64, 48)).mean() < 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in refusal(path)


def test_read_mpo(tmp_path):
    first, second = Image.fromarray(smooth()), Image.new("RGB", (8, 8))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    photo = images.read(tmp_path / "a.jpg")
    assert photo.format == "JPEG"
    assert photo.pixels.shape == (24, 32, 3)


# bad files


def jpeg(size: int) -> bytes:
    """The first bytes of a JPEG file of about 5,000."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()[:size]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("text.jpg", b"this is a text\nwith two lines", "not a photo"),
        ("empty.jpg", b"", "empty"),
        ("truncated.jpg", jpeg(1_500), "truncated"),
        ("header.jpg", jpeg(30), "truncated"),
        ("zero.png", png(0, 0), "not a photo"),
        ("short.png", png(50, 50), "truncated"),
        ("missing.jpg", None, "no such file"),
        ("", None, "folder"),
    ],
)
def test_read_bad_files(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert words in refusal(tmp_path / name)
    assert issubclass(ImageError, DeidError)
    assert issubclass(ImageError, ValueError)


@pytest.mark.skipif(os.name == "nt", reason="has no named pipes in folders")
def test_read_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular file" in refusal(tmp_path / "pipe.jpg")


def test_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    def explode(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", explode)
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000))
    limit = Image.MAX_IMAGE_PIXELS
    assert "30000 x 30000" in refusal(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_max_pixels(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (10, 10)))
    assert images.read(path, max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(ImageError, match="limit of 99"):
        images.read(path, max_pixels=99)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_read_several_images(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert "several images" in refusal(tmp_path / f"a{suffix}")


def test_read_ignores_damaged_exif(tmp_path):
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        assert images.read(save(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=exif)).pixels.shape == (8, 8, 3)


def test_read_one_pixel(tmp_path):
    assert images.read(save(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3)))).pixels.tolist() == [[[1, 2, 3]]]


SECRET = b"SECRET-OF-THE-SOURCE"
MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
LOSSLESS = [".png", ".webp", ".tif", ".tiff"]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_write_lossless(tmp_path, pixels, suffix):
    path = tmp_path / f"a{suffix}"
    alpha = np.random.default_rng(1).integers(0, 3, (24, 32), dtype=np.uint8) * 127
    digest = images.write(path, pixels, alpha=alpha)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    photo = images.read(path)
    np.testing.assert_array_equal(photo.pixels, pixels)
    np.testing.assert_array_equal(photo.alpha, alpha)
    images.write(path, pixels[:, ::-1], overwrite=True)
    np.testing.assert_array_equal(images.read(path).pixels, pixels[:, ::-1])
    assert images.read(path).alpha is None


def test_write_jpeg(tmp_path):
    images.write(tmp_path / "a.jpg", smooth())
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    assert np.abs(images.read(tmp_path / "a.jpg").pixels.astype(int) - smooth()).max() < 12


def test_write_jpeg_refuses_transparency(tmp_path, pixels):
    with pytest.raises(ImageError, match=r"\.png or \.webp"):
        images.write(tmp_path / "a.jpg", pixels, alpha=np.full((24, 32), 254, np.uint8))
    assert not list(tmp_path.iterdir())
    images.write(tmp_path / "a.jpg", pixels, alpha=np.full((24, 32), 255, np.uint8))


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
def test_write_ai_mark_and_profile(tmp_path, pixels, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a{suffix}"
    images.write(path, pixels, icc_profile=profile)
    with Image.open(path) as image:
        image.load()
        packet = image.info["xmp"]
        assert image.info["icc_profile"] == profile
    description = ElementTree.fromstring(packet)[0][0]
    assert description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == MARK.decode()
    images.write(path, pixels, overwrite=True, ai_edited=False)
    assert MARK not in path.read_bytes()
    assert images.read(path).icc_profile is None


def dirty_jpeg(path: Path) -> Path:
    thumbnail = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(thumbnail, "JPEG", comment=SECRET + b"-THUMBNAIL")
    piexif = pytest.importorskip("piexif")
    block = piexif.dump(
        {
            "0th": {piexif.ImageIFD.Artist: SECRET, piexif.ImageIFD.Orientation: 6},
            "Exif": {piexif.ExifIFD.UserComment: SECRET, piexif.ExifIFD.MakerNote: SECRET},
            "GPS": {piexif.GPSIFD.GPSLatitude: ((52, 1), (31, 1), (0, 1)), piexif.GPSIFD.GPSAreaInformation: SECRET},
            "1st": {},
            "thumbnail": thumbnail.getvalue(),
        }
    )
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><secret>" + SECRET + b"</secret></x:xmpmeta>"
    save(path, Image.fromarray(smooth()), exif=block, xmp=xmp, comment=SECRET, dpi=(123, 123))
    data = path.read_bytes()
    iptc = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET)) + SECRET
    path.write_bytes(data[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(iptc)) + iptc + data[2:] + SECRET)
    assert path.read_bytes().count(SECRET) >= 8
    return path


def dirty_png(path: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    info.add_text("parameters", SECRET.decode(), zip=True)
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    info.add(b"prVt", SECRET)
    exif = Image.Exif()
    exif[315] = SECRET.decode()
    return save(path, Image.fromarray(smooth()), pnginfo=info, exif=exif, dpi=(123, 123))


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".jpeg"])
@pytest.mark.parametrize("make", [dirty_jpeg, dirty_png])
def test_write_drops_metadata(tmp_path, make, suffix):
    source = make(tmp_path / ("source.jpg" if make is dirty_jpeg else "source.png"))
    photo = images.read(source)
    target = tmp_path / f"target{suffix}"
    images.write(target, photo.pixels, alpha=photo.alpha, icc_profile=photo.icc_profile)
    data = target.read_bytes()
    for text in (SECRET, b"Exif", b"eXIf", b"EXIF"):
        assert text not in data
    assert data.count(b"\xff\xd8\xff") == (suffix in (".jpg", ".jpeg"))  # no thumbnail
    with Image.open(target) as image:
        image.load()
        assert "comment" not in image.info
        assert image.info.get("dpi", (1, 1))[0] != 123
        assert getattr(image, "text", {}).keys() <= {"XML:com.adobe.xmp"}
        exif = image.getexif()
        assert not exif.get_ifd(0x8825)  # GPS
        assert not exif.get_ifd(0x8769)
        assert {274, 315}.isdisjoint(exif)


@pytest.mark.parametrize("name", ["a.gif", "a.heic", "a.bmp", "a"])
def test_write_other_suffixes(tmp_path, pixels, name):
    with pytest.raises(ImageError, match=r"cannot be written: use one of \.png"):
        images.write(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)]
)
def test_write_checks_arrays(tmp_path, shape, dtype):
    with pytest.raises(ImageError, match=r"^pixels: "):
        images.write(tmp_path / "a.png", np.zeros(shape, dtype))
    with pytest.raises(ImageError, match=r"^alpha: "):
        images.write(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65_501), (".webp", 16_384)])
def test_write_checks_size(tmp_path, suffix, side):
    with pytest.raises(ImageError, match="at most"):
        images.write(tmp_path / f"a{suffix}", np.zeros((1, side, 3), np.uint8))


# all or nothing


def test_write_keeps_existing_file(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(b"before")
    with pytest.raises(ImageError, match="--overwrite"):
        images.write(tmp_path / "a.png", pixels)
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("links", [True, False])
def test_write_keeps_concurrent_file(tmp_path, pixels, monkeypatch, links):
    if not links:
        no_links(monkeypatch)
    sync = os.fsync

    def appear(number: int) -> None:
        sync(number)
        (tmp_path / "a.png").write_bytes(b"another process")

    monkeypatch.setattr(os, "fsync", appear)
    with pytest.raises(ImageError, match="exists already"):
        images.write(tmp_path / "a.png", pixels)
    assert (tmp_path / "a.png").read_bytes() == b"another process"
    assert len(list(tmp_path.iterdir())) == 1


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


def test_write_without_hard_links(tmp_path, pixels, monkeypatch):
    no_links(monkeypatch)
    images.write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").pixels, pixels)
    assert len(list(tmp_path.iterdir())) == 1


FAILURES = [
    (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    (OSError(errno.EACCES, "Permission denied"), "not allowed"),
    (OSError(errno.EROFS, "Read-only file system"), "not allowed"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    (KeyboardInterrupt(), None),
]


@pytest.mark.parametrize(("failure", "words"), FAILURES)
@pytest.mark.parametrize("step", ["fsync", "rename"])
@pytest.mark.parametrize("before", [None, b"before"])
def test_failed_write_leaves_nothing(tmp_path, pixels, monkeypatch, failure, words, step, before):
    def fail(*_: object) -> None:
        raise failure

    path = tmp_path / "a.png"
    if before is not None:
        path.write_bytes(before)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
        no_links(monkeypatch)
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        images.write(path, pixels, overwrite=before is not None)
    if words is not None:
        assert words in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ([] if before is None else ["a.png"])
    assert before is None or path.read_bytes() == before


def test_write_to_missing_folder(tmp_path, pixels):
    with pytest.raises(ImageError, match="folder does not exist"):
        images.write(tmp_path / "none" / "a.png", pixels)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match="folder does not exist"):
        images.write(tmp_path / "file" / "a.png", pixels)
    (tmp_path / "d.png").mkdir()
    for overwrite in (True, False):
        with pytest.raises(ImageError, match=r"folder|exists"):
            images.write(tmp_path / "d.png", pixels, overwrite=overwrite)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_write_permissions(tmp_path, pixels):
    umask = os.umask(0o027)
    try:
        images.write(tmp_path / "new.png", pixels)
    finally:
        os.umask(umask)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new.png").chmod(0o600)
    images.write(tmp_path / "new.png", pixels, overwrite=True)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o600
