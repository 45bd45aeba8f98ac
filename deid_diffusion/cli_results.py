"""What the commands share that judge a folder of results: `attack` and `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deid_diffusion.errors import UsageError

Originals = Annotated[Path, typer.Argument(metavar="ORIGINALS", help="Folder of photos.")]

Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of their results, of the same names.")]

People = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        show_default="the name before the last _",
        help="Whose photo it is: what the one group of this expression finds in the name (without suffix).",
    ),
]


def check_out(named: Path, files: Sequence[Path]) -> None:
    """Refuse, before any work, an output that could not be written after it.

    Args:
        named: what the user calls it.
        files: which would be written, all in one folder.

    Raises:
        UsageError: a file exists, or the folder does not.
    """
    for path in files:
        if path.exists():
            raise UsageError(f"{path}: exists already: choose another name with -o")
    if not named.absolute().parent.is_dir():
        raise UsageError(f"{named}: its folder does not exist: create it, or choose another one")
