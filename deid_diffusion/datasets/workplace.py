"""The output folder of a run, and the hidden folder in it that holds the journal and what is not finished."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from .._version import __version__
from ..errors import DeidError, UsageError
from ..files import prepare_folder, refused
from ..fingerprint import plain_options
from .journal import Journal
from .walking import Found
from .workshop import Recipe

WORK = ".deid-work"
"""Name of the hidden folder."""

_MODE = 0o700  # records and unfinished results are nobody else's business


@dataclass(frozen=True)
class Workplace:
    """An open output folder.

    Attributes:
        out: the folder.
        journal: of what is finished there.
        scratch: this process's folder for results that have no name yet.
        lock: keeps other runs out until this process ends; None in processes that another one opened it for.
    """

    out: Path
    journal: Journal
    scratch: Path
    lock: BaseFileLock | None

    @classmethod
    def open(cls, out: Path, recipe: Recipe, *, leads: bool = True) -> Workplace:
        """Open a folder, and clear what a killed run left unfinished.

        Args:
            out: a folder that is empty or new, or that such a run wrote to.
            recipe: has to be that of the run that wrote to it.
            leads: False in the further processes of one run, which must wait until the first one has opened it.

        Raises:
            UsageError: it holds something else, or was begun with another recipe.
            DeidError: another run works on it, or it cannot be written to.
        """
        work = out / WORK
        if leads and not work.exists() and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: is not empty, and no run over a data set made it: choose another output folder")
        prepare_folder(out)
        with refused(work):
            work.mkdir(mode=_MODE, exist_ok=True)
        lock = _lock(out) if leads else None
        if leads:
            shutil.rmtree(work / "scratch", ignore_errors=True)
        scratch = work / "scratch" / secrets.token_hex(8)
        with refused(scratch):
            scratch.mkdir(parents=True)
        return cls(out, Journal(work / "journal.sqlite", _wishes(recipe)), scratch, lock)

    def pieces(self, found: Found) -> Path:
        """The folder for finished pieces of a shard."""
        digest = hashlib.sha256(f"{found.stamp} {found.name}".encode(errors="surrogateescape")).hexdigest()
        return self.out / WORK / "pieces" / digest[:32]

    def close(self) -> None:
        """Let go of the folder; what is unfinished and nobody can use is removed."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.journal.close()
        if self.lock is not None:
            self.lock.release()


def _lock(out: Path) -> BaseFileLock:
    lock = FileLock(out / WORK / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DeidError(f"{out}: another run is working on it: wait until it is done") from error
    (out / WORK / "lock").chmod(0o600)
    return lock


def _wishes(recipe: Recipe) -> str:
    shaping = {
        "version": __version__,
        "model": recipe.model,
        "options": plain_options(recipe.options),
        "format": recipe.file_format,
        "require_face": recipe.require_face,
        "copied": sorted(recipe.copied),
        "image_columns": sorted(recipe.image_columns),
    }
    return json.dumps(shaping, sort_keys=True)
