import hashlib
import hmac
import os
import pickle
import stat
from pathlib import Path

import pytest

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.identity.keys import Key, new_key, read_key

SECRET = bytes(range(32))
HEX = SECRET.hex().encode()


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def raising(error: OSError):
    def refuse(*_: object) -> int:
        raise error

    return refuse


def test_new_key_is_private(tmp_path: Path):
    path = tmp_path / "team.key"
    umask = os.umask(0)
    try:
        key = new_key(path)
    finally:
        os.umask(umask)
    assert read_key(path) == key
    assert read_key(str(path)).fingerprint == key.fingerprint
    assert path.read_bytes() == key.secret.hex().encode() + b"\n"
    assert len(key.secret) == 32
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert new_key(tmp_path / "other.key") != key


def test_failed_new_key_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.key", b"x")
    with pytest.raises(DeidError, match="never overwritten"):
        new_key(path)
    assert path.read_bytes() == b"x"
    with pytest.raises(DeidError, match="folder does not exist"):
        new_key(tmp_path / "none/a.key")
    monkeypatch.setattr(os, "fsync", raising(OSError(28, "No space left on device")))
    with pytest.raises(DeidError, match="the disk is full"):
        new_key(tmp_path / "b.key")
    assert list(tmp_path.iterdir()) == [path]


def test_repr_and_fingerprint_hide_secret():
    key = Key(SECRET)
    assert repr(key) == "Key()"
    assert len(key.fingerprint) == 16
    assert key.fingerprint == key.derive("fingerprint").hex()[:16]
    assert key.fingerprint not in (SECRET.hex(), hashlib.sha256(SECRET).hexdigest())
    assert key.fingerprint != Key(SECRET[::-1]).fingerprint
    assert pickle.loads(pickle.dumps(key)) == key


def test_derive():
    key, parts = Key(SECRET), (b"deid-diffusion keys 1", b"seed", b"ab", b"")
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert key.derive("seed", b"ab", b"") == hmac.new(SECRET, message, hashlib.sha256).digest()
    splits = (("a", b"bc"), ("ab", b"c"), ("a", b"b", b"c"), ("a", b"", b"bc"), ("abc",))
    assert len({key.derive(*split) for split in splits} | {Key(SECRET + b"x").derive("abc")}) == 6


@pytest.mark.parametrize("secret", [b"", SECRET[:31], b"\0" * 32, b"a" * 64])
def test_weak_secrets(secret: bytes):
    with pytest.raises(UsageError, match="key of"):
        Key(secret)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_key_file_formats(tmp_path: Path, end: bytes):
    assert read_key(write(tmp_path / "a", HEX + end)).secret == SECRET
    assert read_key(write(tmp_path / "b", (SECRET * 2).hex().upper().encode() + end)).secret == SECRET * 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (HEX[:62], "key of 31 bytes: it needs at least 32"),
        (b"00" * 32 + b"\n", "key of equal bytes"),
        (SECRET, "is not a key file"),
        (HEX[:-1], "is not a key file"),
        (HEX + b"\n\n", "is not a key file"),
        (SECRET.hex(" ").encode(), "is not a key file"),
        (b"\xef\xbb\xbf" + HEX, "is not a key file"),
        (HEX * 20, "over 1024 bytes"),
    ],
)
def test_invalid_key_files(tmp_path: Path, data: bytes, words: str):
    path = write(tmp_path / "a.key", data)
    with pytest.raises(DeidError, match=words) as caught:
        read_key(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not [text for text in ("\n", SECRET.hex()[:16]) if text in str(caught.value)]


def test_unreadable_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DeidError, match=r"no such key file: .* deid-diffusion keys new"):
        read_key(tmp_path / "none.key")
    with pytest.raises(DeidError, match="is a folder"):
        read_key(tmp_path)
    monkeypatch.setattr(os, "open", raising(PermissionError(13, "Permission denied")))
    with pytest.raises(DeidError, match=r"cannot be read \(Permission denied\)"):
        read_key(tmp_path / "a.key")


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o777])
def test_key_file_open_to_others(tmp_path: Path, mode: int):
    path = write(tmp_path / "a.key", HEX, mode)
    with pytest.raises(DeidError, match=f"mode {mode:o}.*run chmod 600 {path}"):
        read_key(path)
    path.chmod(0o400)
    assert read_key(path).secret == SECRET
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(DeidError, match="not a regular file"):  # without blocking
        read_key(tmp_path / "pipe")
