"""Keys: what is derived never changes, files are private from their first moment, and wrong ones are refused."""

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
POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_new_key_is_private_and_read_again(tmp_path: Path):
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


def test_a_key_is_never_overwritten(tmp_path: Path):
    path = write(tmp_path / "a.key", b"x")
    with pytest.raises(DeidError, match="never overwritten"):
        new_key(path)
    assert path.read_bytes() == b"x"


def test_nothing_is_left_of_a_key_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeidError, match="the disk is full"):
        new_key(tmp_path / "a.key")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_said(tmp_path: Path):
    with pytest.raises(DeidError, match="folder does not exist"):
        new_key(tmp_path / "none/a.key")


def test_repr_and_fingerprint_show_nothing_of_the_secret():
    key = Key(SECRET)
    assert repr(key) == "Key()"
    assert len(key.fingerprint) == 16
    assert key.fingerprint == key.derive("fingerprint").hex()[:16]
    assert key.fingerprint not in (SECRET.hex(), hashlib.sha256(SECRET).hexdigest())
    assert key.fingerprint != Key(SECRET[::-1]).fingerprint
    assert pickle.loads(pickle.dumps(key)) == key


def test_derivation_is_hmac_of_parts_with_their_lengths():
    parts = (b"deid-diffusion keys 1", b"seed", b"ab", b"")
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert Key(SECRET).derive("seed", b"ab", b"") == hmac.new(SECRET, message, hashlib.sha256).digest()


def test_purposes_and_parts_are_kept_apart():
    key = Key(SECRET)
    derived = [
        key.derive("a", b"bc"),
        key.derive("ab", b"c"),
        key.derive("a", b"b", b"c"),
        key.derive("a", b"", b"bc"),
        key.derive("abc"),
        Key(SECRET + b"x").derive("abc"),
    ]
    assert len(set(derived)) == len(derived)


@pytest.mark.parametrize("secret", [b"", SECRET[:31], b"\0" * 32, b"a" * 64])
def test_weak_secrets_are_refused(secret: bytes):
    with pytest.raises(UsageError, match="key of"):
        Key(secret)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_formats_of_a_key_file(tmp_path: Path, end: bytes):
    assert read_key(write(tmp_path / "a", SECRET.hex().encode() + end)).secret == SECRET
    assert read_key(write(tmp_path / "b", (SECRET * 2).hex().upper().encode() + end)).secret == SECRET * 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (SECRET[:31].hex().encode(), "key of 31 bytes: it needs 32"),
        (b"00" * 32 + b"\n", "key of equal bytes"),
        (SECRET, "is not a key file"),
        (SECRET.hex().encode()[:-1], "is not a key file"),
        (SECRET.hex().encode() + b"\n\n", "is not a key file"),
        (SECRET.hex(" ").encode(), "is not a key file"),
        (b"\xef\xbb\xbf" + SECRET.hex().encode(), "is not a key file"),
        (SECRET.hex().encode() * 20, "over 1024 bytes"),
    ],
)
def test_files_that_are_no_key(tmp_path: Path, data: bytes, words: str):
    path = write(tmp_path / "a.key", data)
    with pytest.raises(DeidError, match=words) as caught:
        read_key(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert SECRET.hex()[:16] not in message


def test_names_that_are_no_file(tmp_path: Path):
    with pytest.raises(DeidError, match=r"no such key file: .* deid-diffusion keys new"):
        read_key(tmp_path / "none.key")
    with pytest.raises(DeidError, match="is a folder"):
        read_key(tmp_path)


@POSIX
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(DeidError, match="not a plain file"):
        read_key(tmp_path / "pipe")


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o777])
def test_files_open_to_others_are_refused(tmp_path: Path, mode: int):
    path = write(tmp_path / "a.key", SECRET.hex().encode(), mode)
    with pytest.raises(DeidError, match=f"mode {mode:o}.*run chmod 600 {path}"):
        read_key(path)
    path.chmod(0o400)
    assert read_key(path).secret == SECRET


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeidError, match=r"cannot be read \(Permission denied\)"):
        read_key(tmp_path / "a.key")
