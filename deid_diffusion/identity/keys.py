"""Secret keys and key files. The holder of a key can link the pseudonyms made with it.

A key file is one line of at least 64 hexadecimal digits (32 random bytes), with or without a line break at its end, as
``deid-diffusion keys new`` or ``openssl rand -hex 32`` writes it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DeidError, UsageError, one_line
from ..io.files import write_error

KEY_BYTES = 32
"""Size of the smallest and of new keys, in bytes: the output size of SHA-256, as RFC 2104 section 3 advises."""

MAX_FILE_BYTES = 1024
"""Size of the largest key file, in bytes."""

_DOMAIN = b"deid-diffusion keys 1"


@dataclass(frozen=True)
class Key:
    """A secret from which all keyed values are derived; its repr does not show it.

    Attributes:
        secret: 32 or more random bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise UsageError for fewer than 32 bytes, or bytes that are all equal."""
        if len(self.secret) < KEY_BYTES:
            raise UsageError(f"key of {len(self.secret)} bytes: it needs at least {KEY_BYTES} random bytes")
        if len(set(self.secret)) == 1:
            raise UsageError("key of equal bytes: it needs random ones")

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits that identify the key and may be public: they reveal nothing about the secret."""
        return self.derive("fingerprint").hex()[:16]

    def derive(self, purpose: str, *parts: bytes) -> bytes:
        """Derive 32 bytes for a purpose: HMAC-SHA256 (RFC 2104, FIPS 198-1).

        Each part is preceded by its length, so different purposes or parts never give the same message. The first 8
        bytes for the purpose "fingerprint" are public.
        """
        message = b"".join(len(part).to_bytes(8, "big") + part for part in (_DOMAIN, purpose.encode(), *parts))
        return hmac.digest(self.secret, message, hashlib.sha256)


def read_key(path: str | Path) -> Key:
    """Read a key file.

    Raises:
        DeidError: no such file, a folder or no plain file, empty, under 32 or over 511 bytes of key, another format,
            bytes that are all equal, or, except on Windows, a file that others than its owner may read or write.
    """
    path = Path(path)
    make = f"make a key with: deid-diffusion keys new {path}"
    try:
        if path.is_dir():
            raise DeidError(f"{path}: is a folder: name the key file")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # does not block on a pipe
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)  # of the file that is read, not of its name
            if not stat.S_ISREG(status.st_mode):
                raise DeidError(f"{path}: is not a regular file: put the key into one that only you can read")
            check_private(path, status)
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise DeidError(f"{path}: no such key file: check the name, or {make}") from error
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise DeidError(f"{path}: the key cannot be read ({reason}): check its owner and permissions") from error
    if not data:
        raise DeidError(f"{path}: is empty: restore the key; for a new one choose another name and {make}.new")
    if len(data) > MAX_FILE_BYTES:
        raise DeidError(f"{path}: is over {MAX_FILE_BYTES} bytes, too large for a key file: check the name")
    match = re.fullmatch(rb"((?:[0-9a-fA-F]{2})+)(?:\r?\n)?", data)
    if not match:
        raise DeidError(
            f"{path}: is not a key file (one line of 64 or more hexadecimal digits, an even number): check the name"
        )
    try:
        return Key(bytes.fromhex(match[1].decode()))
    except UsageError as error:
        raise DeidError(f"{path}: contains a {error}: use the right file, or a new key of another name") from error


def new_key(path: str | Path) -> Key:
    """Create a random key in a new file, which is created with mode 0600.

    Raises DeidError if a file of that name exists (it is not touched) or the system refuses; nothing is left behind.
    """
    path = Path(path)
    key = Key(secrets.token_bytes(KEY_BYTES))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise DeidError(f"{path}: exists already, and a key is never overwritten: choose another name") from error
    except OSError as error:
        raise DeidError(write_error(path, error)) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key.secret.hex().encode() + b"\n")
            stream.flush()
            os.fsync(descriptor)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DeidError(write_error(path, error)) from error
        raise
    return key


def check_private(path: Path, status: os.stat_result) -> None:
    """Raise DeidError for a secret file that its group or others may access; Windows has no such mode bits."""
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):03o}"
        raise DeidError(f"{path}: is open to other users (mode {mode}), but it is a secret: run chmod 600 {path}")
