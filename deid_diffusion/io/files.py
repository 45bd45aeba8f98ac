"""Atomic file writes: a temporary file in the target folder, fsync, then a rename."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import DeidError, ImageError, one_line

_NOT_ALLOWED = "writing there is not allowed: choose another folder, or change its permissions"
_NO_FOLDER = "its folder does not exist: create it, or choose another one"
_DISK_FULL = "the disk is full: free some space and run the command again"
_REASONS = {
    errno.ENOSPC: _DISK_FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): _DISK_FULL,
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
    errno.ENOENT: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: "exists already: pass --overwrite (overwrite=True) to replace it, or choose another name",
    errno.EISDIR: "is a folder: choose a file name",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def write_atomic(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write `data` to `path` completely or, after any failure, leave the path unchanged.

    A replaced file passes its permissions on. A symbolic link at `path` is replaced, not followed.

    Args:
        path: the file; its folder must exist.
        data: the content.
        overwrite: replace an existing file. Otherwise an existing file is never touched, not even one that another
            process creates in the meantime.

    Raises:
        ImageError: the file exists, or the system refuses (full disk, permissions). Nothing is left behind.
    """
    temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
    with image_errors(path):
        try:
            with open_synced(temporary) as stream:
                stream.write(data)
            publish(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def image_errors(path: Path, kind: type[DeidError] = ImageError) -> Iterator[None]:
    """Convert an OSError of the block, which writes `path`, to a one-line error of a kind."""
    try:
        yield
    except OSError as error:
        raise kind(write_error(path, error)) from error


@contextmanager
def read_errors(path: Path, noun: str, kind: type[DeidError] = ImageError) -> Iterator[None]:
    """Refuse a path that is no regular file, and convert errors of the block, which reads it, to one line.

    Args:
        path: the file.
        noun: its content, with an article.
        kind: class of the errors.
    """
    try:
        if path.is_dir():
            raise kind(f"{path}: is a folder, not {noun}: name {noun} in it")
        if path.exists() and not path.is_file():
            raise kind(f"{path}: is not a regular file: name {noun}")
        yield
    except kind:
        raise
    except FileNotFoundError as error:
        raise kind(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise kind(f"{path}: reading it is not allowed: change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise kind(f"{path}: cannot be read ({one_line(error)}): check the name and the disk") from error


@contextmanager
def open_synced(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file, and fsync it at the end of the block. Raises OSError."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, reading it in chunks. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Move a complete file to `path` on the same file system, as `write_atomic` does. Raises OSError."""
    if not overwrite:
        publish_new(temporary, path)
        return
    if path.is_file():
        shutil.copymode(path, temporary)
    temporary.replace(path)


def publish_new(temporary: Path, path: Path) -> None:
    """Move `temporary` to `path`. Raises FileExistsError if that exists."""
    try:
        path.hardlink_to(temporary)  # unlike a rename, a link never replaces anything
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name first, then rename over the claim
        path.touch(exist_ok=False)
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def prepare_folder(folder: Path) -> None:
    """Create `folder` and its parents if missing. Raises ImageError if it cannot be created or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError as error:
        raise ImageError(f"{folder}: is a file where a folder is needed: choose another output folder") from error
    except OSError as error:
        raise ImageError(write_error(folder, error)) from error


def write_error(path: Path, error: OSError) -> str:
    """Return a one-line reason why `path` cannot be written, and a remedy."""
    fallback = f"cannot be written ({one_line(error.strerror or error)}): choose another place"
    return f"{path}: {_REASONS.get(error.errno or 0, fallback)}"
