import errno
import hashlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import cv2
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


def read(path: Path, image: Image.Image, **options: object) -> images.Photo:
    """Save an image, and read it."""
    image.save(path, **options)
    return images.read(path)


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


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".webp", "WEBP"), (".tif", "TIFF")])
def test_read_lossless(tmp_path, pixels, suffix, kind):
    path = tmp_path / f"a{suffix}"
    photo = read(path, Image.fromarray(pixels), lossless=True)
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (photo.alpha, photo.format) == (None, kind)


TRANSPOSES = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]


@pytest.mark.parametrize(("orientation", "transpose"), enumerate([None, *TRANSPOSES], 1))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_read_applies_orientation(tmp_path, orientation, transpose, suffix):
    stored, exif = Image.fromarray(smooth()), Image.Exif()
    exif[274] = orientation
    if transpose:
        stored = stored.transpose(Image.Transpose[transpose])
    photo = read(tmp_path / f"a{suffix}", stored, exif=exif, quality=95, lossless=True)
    assert photo.pixels.shape == smooth().shape
    assert np.abs(photo.pixels.astype(int) - smooth()).mean() < 4


def test_read_other_depths(tmp_path):
    values = np.array([[0, 128, 129, 32_768, 65_535]], np.uint16)
    big_endian = Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes())
    deep = Image.fromarray(values)
    for name, image in (("a.png", deep), ("a.tif", deep), ("b.tif", big_endian)):
        assert read(tmp_path / name, image).pixels[0].tolist() == [[level] * 3 for level in (0, 0, 1, 128, 255)]
    black_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert read(tmp_path / "1.png", black_white).pixels.tolist() == [[[0] * 3, [255] * 3]]
    assert read(tmp_path / "l.jpg", Image.new("L", (8, 8), 77)).pixels[3, 3].tolist() == [77] * 3
    assert read(tmp_path / "one.png", Image.new("RGB", (1, 1), (1, 2, 3))).pixels.tolist() == [[[1, 2, 3]]]
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    assert "32-bit" in refusal(tmp_path / "float.tif")


def test_read_alpha(tmp_path, pixels):
    alpha = np.arange(24 * 32, dtype=np.uint32).reshape(24, 32).astype(np.uint8)
    photo = read(tmp_path / "a.png", Image.fromarray(np.dstack([pixels, alpha])))
    np.testing.assert_array_equal(photo.pixels, pixels)
    np.testing.assert_array_equal(photo.alpha, alpha)
    grey = read(tmp_path / "la.png", Image.merge("LA", [Image.new("L", (2, 2), 9)] * 2))
    assert (grey.pixels == 9).all()
    assert (grey.alpha == 9).all()


def test_read_palette_and_colour_key(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    opaque = read(tmp_path / "p.png", palette)
    assert opaque.alpha is None
    assert opaque.pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]
    grey, deep = (Image.fromarray(np.array([[3, 7]], dtype)) for dtype in (np.uint8, np.uint16))
    for image, key in ((palette, 1), (grey, 7), (deep, 7)):
        assert read(tmp_path / "key.png", image, transparency=key).alpha.tolist() == [[255, 0]]


def cmyk_profile() -> bytes:
    """Return a CMYK profile in which black ink gives black, and all other inks a middle grey."""
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
        photo = read(tmp_path / name, white_red)
        assert np.abs(photo.pixels[8, 2].astype(int) - [255, 255, 255]).max() < 6
        assert np.abs(photo.pixels[8, 13].astype(int) - [255, 0, 0]).max() < 12
    broken = b"\0" * 16 + b"CMYK" + b"\0" * 200
    for profile, colour, tolerance in ((cmyk_profile(), [119, 119, 119], 4), (broken, [255, 0, 0], 12)):
        photo = read(tmp_path / "b.jpg", white_red, icc_profile=profile)
        assert np.abs(photo.pixels[8, 13].astype(int) - colour).max() < tolerance
        assert photo.icc_profile is None


def test_read_keeps_only_rgb_profiles(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert read(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), icc_profile=profile).icc_profile == profile
    assert read(tmp_path / "b.jpg", Image.new("L", (8, 8)), icc_profile=grey).icc_profile is None


def test_read_heic(tmp_path, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    photo = read(tmp_path / "a.heic", Image.fromarray(smooth(64, 48)), quality=95)
    assert photo.format == "HEIF"
    assert np.abs(photo.pixels.astype(int) - smooth(64, 48)).mean() < 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in refusal(tmp_path / "a.heic")


def test_read_mpo(tmp_path):
    options = {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (8, 8))]}
    photo = read(tmp_path / "a.jpg", Image.fromarray(smooth()), **options, quality=95)
    assert (photo.format, photo.pixels.shape) == ("JPEG", (24, 32, 3))


# bad files


JPEG = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("text.jpg", b"this is a text\nwith two lines", "not a photo"),
        ("empty.jpg", b"", "empty"),
        ("truncated.jpg", JPEG[:1_500], "truncated"),
        ("header.jpg", JPEG[:30], "truncated"),
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
    assert {DeidError, ValueError} <= set(ImageError.mro())


def test_max_pixels(tmp_path, monkeypatch):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png", max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(ImageError, match="limit of 99"):
        images.read(tmp_path / "a.png", max_pixels=99)
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000))
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    limit = Image.MAX_IMAGE_PIXELS
    assert "30000 x 30000" in refusal(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_read_several_images(tmp_path, suffix):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "green"))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    assert "several images" in refusal(tmp_path / f"a{suffix}")


def test_read_ignores_damaged_exif(tmp_path):
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        assert read(tmp_path / "a.jpg", Image.new("RGB", (8, 8)), exif=exif).pixels.shape == (8, 8, 3)


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
    path = tmp_path / "a.jpg"
    with pytest.raises(ImageError, match=r"\.png or \.webp"):
        images.write(path, smooth(), alpha=np.full((24, 32), 254, np.uint8))
    assert not list(tmp_path.iterdir())
    images.write(path, smooth(), alpha=np.full((24, 32), 255, np.uint8))
    with Image.open(path) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    assert np.abs(images.read(path).pixels.astype(int) - smooth()).max() < 12


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


def dirty_jpeg(path: Path) -> None:
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
    Image.fromarray(smooth()).save(path, "JPEG", exif=block, xmp=xmp, comment=SECRET, dpi=(123, 123))
    data = path.read_bytes()
    iptc = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET)) + SECRET
    path.write_bytes(data[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(iptc)) + iptc + data[2:] + SECRET)
    assert path.read_bytes().count(SECRET) >= 8


def dirty_png(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET.decode())
    info.add_text("parameters", SECRET.decode(), zip=True)
    info.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    info.add(b"prVt", SECRET)
    exif = Image.Exif()
    exif[315] = SECRET.decode()
    Image.fromarray(smooth()).save(path, "PNG", pnginfo=info, exif=exif, dpi=(123, 123))


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".jpeg"])
@pytest.mark.parametrize("make", [dirty_jpeg, dirty_png])
def test_write_drops_metadata(tmp_path, make, suffix):
    source, target = tmp_path / "source", tmp_path / f"target{suffix}"
    make(source)
    photo = images.read(source)
    images.write(target, photo.pixels, alpha=photo.alpha, icc_profile=photo.icc_profile)
    data = target.read_bytes()
    assert not [text for text in (SECRET, b"Exif", b"eXIf", b"EXIF") if text in data]
    assert data.count(b"\xff\xd8\xff") == (suffix in (".jpg", ".jpeg"))  # no thumbnail
    with Image.open(target) as image:
        image.load()
        assert "comment" not in image.info
        assert image.info.get("dpi", (1, 1))[0] != 123
        assert getattr(image, "text", {}).keys() <= {"XML:com.adobe.xmp"}
        exif = image.getexif()
        assert not exif.get_ifd(0x8825) | exif.get_ifd(0x8769)  # GPS and Exif
        assert {274, 315}.isdisjoint(exif)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        *(
            (name, (4, 4, 3), np.uint8, r"cannot be written: use one of \.png")
            for name in ("a.gif", "a.heic", "a.bmp", "a")
        ),
        *(("a.png", shape, np.uint8, r"^pixels: ") for shape in ((4, 4), (4, 4, 4), (0, 4, 3))),
        ("a.png", (4, 4, 3), np.float32, r"^pixels: "),
        ("a.png", (4, 5, 3), np.uint8, r"^alpha: "),
        ("a.jpg", (1, 65_501, 3), np.uint8, "at most"),
        ("a.webp", (1, 16_384, 3), np.uint8, "at most"),
    ],
)
def test_write_refuses(tmp_path, name, shape, dtype, message):
    alpha = np.zeros((4, 4), np.uint8) if shape == (4, 5, 3) else None
    with pytest.raises(ImageError, match=message):
        images.write(tmp_path / name, np.zeros(shape, dtype), alpha=alpha)
    assert not list(tmp_path.iterdir())


# all or nothing


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_write_keeps_other_file(tmp_path, pixels, monkeypatch, links):
    path, sync = tmp_path / "a.png", os.fsync
    if not links:
        no_links(monkeypatch)
    images.write(path, pixels)
    before = path.read_bytes()
    with pytest.raises(ImageError, match="--overwrite"):
        images.write(path, 255 - pixels)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(images.read(path).pixels, pixels)
    path.unlink()

    def appear(number: int) -> None:
        sync(number)
        path.write_bytes(b"another process")

    monkeypatch.setattr(os, "fsync", appear)
    with pytest.raises(ImageError, match="exists already"):
        images.write(path, pixels)
    assert path.read_bytes() == b"another process"
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
    (tmp_path / "file").touch()
    for folder in ("none", "file"):
        with pytest.raises(ImageError, match="folder does not exist"):
            images.write(tmp_path / folder / "a.png", pixels)
    (tmp_path / "d.png").mkdir()
    for overwrite in (True, False):
        with pytest.raises(ImageError, match=r"folder|exists"):
            images.write(tmp_path / "d.png", pixels, overwrite=overwrite)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and pipes")
def test_pipes_and_permissions(tmp_path, pixels):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular file" in refusal(tmp_path / "pipe.jpg")
    path, umask = tmp_path / "new.png", os.umask(0o027)
    try:
        images.write(path, pixels)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    images.write(path, pixels, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o600
