"""Writing photos: lossless, atomic, and clean of everything the source carried."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from deid_diffusion import images
from deid_diffusion.errors import ImageError

SECRET = b"SECRET-OF-THE-SOURCE"
MARK = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
LOSSLESS = [".png", ".webp", ".tif", ".tiff"]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def smooth() -> np.ndarray:
    y, x = np.mgrid[:24, :32]
    return np.stack([x * 8, y * 10, np.full_like(x, 90)], axis=2).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_writing(tmp_path, pixels, suffix):
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


def test_jpeg_is_close_and_not_subsampled(tmp_path):
    images.write(tmp_path / "a.jpg", smooth())
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    assert np.abs(images.read(tmp_path / "a.jpg").pixels.astype(int) - smooth()).max() < 12


def test_jpeg_never_loses_transparency_silently(tmp_path, pixels):
    with pytest.raises(ImageError, match=r"\.png or \.webp"):
        images.write(tmp_path / "a.jpg", pixels, alpha=np.full((24, 32), 254, np.uint8))
    assert not list(tmp_path.iterdir())
    images.write(tmp_path / "a.jpg", pixels, alpha=np.full((24, 32), 255, np.uint8))


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
def test_mark_and_profile(tmp_path, pixels, suffix):
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
def test_nothing_of_the_source_but_its_pixels_is_carried(tmp_path, make, suffix):
    source = make(tmp_path / ("source.jpg" if make is dirty_jpeg else "source.png"))
    photo = images.read(source)
    target = tmp_path / f"target{suffix}"
    images.write(target, photo.pixels, alpha=photo.alpha, icc_profile=photo.icc_profile)
    data = target.read_bytes()
    assert SECRET not in data
    assert b"Exif" not in data
    assert b"eXIf" not in data
    assert b"EXIF" not in data
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
def test_other_suffixes_are_refused(tmp_path, pixels, name):
    with pytest.raises(ImageError, match=r"cannot be written: use one of \.png"):
        images.write(tmp_path / name, pixels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)]
)
def test_arrays_are_checked(tmp_path, shape, dtype):
    with pytest.raises(ImageError, match=r"^pixels: "):
        images.write(tmp_path / "a.png", np.zeros(shape, dtype))
    with pytest.raises(ImageError, match=r"^alpha: "):
        images.write(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), alpha=np.zeros((4, 5), np.uint8))


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65_501), (".webp", 16_384)])
def test_formats_with_a_largest_side(tmp_path, suffix, side):
    with pytest.raises(ImageError, match="at most"):
        images.write(tmp_path / f"a{suffix}", np.zeros((1, side, 3), np.uint8))


# all or nothing


def test_an_existing_file_is_kept(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(b"before")
    with pytest.raises(ImageError, match="--overwrite"):
        images.write(tmp_path / "a.png", pixels)
    assert (tmp_path / "a.png").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_in_the_meantime_is_kept(tmp_path, pixels, monkeypatch, links):
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


def test_a_file_system_without_hard_links(tmp_path, pixels, monkeypatch):
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
def test_a_failure_leaves_nothing_behind(tmp_path, pixels, monkeypatch, failure, words, step, before):
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


def test_missing_and_unwritable_folders(tmp_path, pixels):
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
def test_permissions(tmp_path, pixels):
    umask = os.umask(0o027)
    try:
        images.write(tmp_path / "new.png", pixels)
    finally:
        os.umask(umask)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new.png").chmod(0o600)
    images.write(tmp_path / "new.png", pixels, overwrite=True)
    assert (tmp_path / "new.png").stat().st_mode & 0o777 == 0o600
