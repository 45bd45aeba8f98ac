"""Files that appear whole or not at all: a temporary file in the target folder, fsync, then one rename."""

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

from ..errors import ImageError, one_line

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
    errno.EISDIR: "is a folder: choose the name of a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def write_atomic(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write `data` to `path` so that the name holds all of it or, after any failure, what it held before.

    A file that is replaced hands its permissions on. A symbolic link at `path` is replaced, not followed.

    Args:
        path: the file; its folder must exist.
        data: the whole content.
        overwrite: replace a file of that name. Without it an existing file is never touched, not even one that
            another process creates in the meantime.

    Raises:
        ImageError: the file exists, or the system refuses (full disk, permissions). Nothing is left behind.
    """
    temporary = path.with_name(f".deid-{secrets.token_hex(8)}.tmp")
    with refused(path):
        try:
            with synced(temporary) as stream:
                stream.write(data)
            publish(temporary, path, overwrite=overwrite)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """Raises ImageError, with what to do about it, instead of OSError: what happens inside writes `path`."""
    try:
        yield
    except OSError as error:
        raise ImageError(refusal(path, error)) from error


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to, which is on the disk when the block ends. Raises OSError."""
    with path.open("xb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in pieces. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file of the same file system its name, as `write_atomic` does. Raises OSError."""
    if not overwrite:
        publish_new(temporary, path)
        return
    if path.is_file():
        shutil.copymode(path, temporary)
    temporary.replace(path)


def publish_new(temporary: Path, path: Path) -> None:
    """Give `temporary` the name `path`, which must be free. Raises FileExistsError if it is not."""
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
    """Create `folder` and its parents if need be. Raises ImageError if it cannot be created or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError as error:
        raise ImageError(f"{folder}: is a file where a folder is needed: choose another output folder") from error
    except OSError as error:
        raise ImageError(refusal(folder, error)) from error


def refusal(path: Path, error: OSError) -> str:
    """One line that says why the system refused to write `path`, and what to do."""
    fallback = f"cannot be written ({one_line(error.strerror or error)}): choose another place"
    return f"{path}: {_REASONS.get(error.errno or 0, fallback)}"
