"""The hidden folder beside a result in which a clip's finished stretches wait for the others, also after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..errors import VideoError
from ..files import refusal
from ..fingerprint import plain_options
from .formats import Encoding

if TYPE_CHECKING:
    from ..options import Options

STRETCH = 120
"""Frames of a stretch: what a kill costs at most."""

_VERSION = 2  # of what lies in the folder
_MODE = 0o700  # boxes, seeds and attribute features are nobody else's business


@dataclass(frozen=True)
class Workplace:
    """Names of what lies in the folder; a file that has its name is complete.

    Attributes:
        folder: made by `open`; its name holds the target's name and a digest of everything that shapes the result.
    """

    folder: Path

    @classmethod
    def open(cls, target: Path, **shaping: str) -> Workplace:
        """The folder of a result; what an earlier run with the same values left in it is still there.

        Raises VideoError if it cannot be made.
        """
        text = json.dumps({"version": _VERSION, "program": __version__, "stretch": STRETCH, **shaping}, sort_keys=True)
        folder = target.with_name(f"{_prefix(target)}{hashlib.sha256(text.encode()).hexdigest()[:16]}")
        try:
            folder.mkdir(mode=_MODE, exist_ok=True)
        except OSError as error:
            raise VideoError(refusal(folder, error)) from error
        return cls(folder)

    def found(self, number: int) -> Path:
        """What the detectors found in a stretch."""
        return self.folder / f"found-{number:05}.npz"

    @property
    def roles(self) -> Path:
        """Who is who."""
        return self.folder / "roles.npz"

    def tally(self, number: int) -> Path:
        """What was done in a stretch; written before its segment."""
        return self.folder / f"tally-{number:05}.json"

    def segment(self, number: int) -> Path:
        """The finished pictures of a stretch."""
        return self.folder / f"segment-{number:05}.mkv"

    def result(self, suffix: str) -> Path:
        """The whole clip, until it gets its name."""
        return self.folder / f"result{suffix}"

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def clear(target: Path) -> None:
    """Delete what runs with other options or another input left for a result that is finished now."""
    for folder in target.parent.glob(f"{_escaped(_prefix(target))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def fingerprint(options: Options, encoding: Encoding) -> str:
    """A text that differs where results may differ."""
    return json.dumps([plain_options(options), encoding.codec, encoding.pixels, encoding.options], sort_keys=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.deid-"


def _escaped(name: str) -> str:
    """A name with glob's special letters made plain."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
