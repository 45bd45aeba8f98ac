"""Packages that only some uses need: without one, the use says in one line what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import DeidError

MEDIAPIPE = "mediapipe>=0.10.14,<0.10.30"
"""What to install for face meshes: later releases ship no models."""


@contextmanager
def needed_for(use: str, package: str) -> Iterator[None]:
    """Imports inside the block are needed for some use.

    >>> with needed_for("this", "no-such-package"):
    ...     import no_such_package
    Traceback (most recent call last):
    deid_diffusion.errors.DeidError: this needs a package that is missing here: pip install 'no-such-package'

    Args:
        use: what is not possible without.
        package: as pip is told it.

    Raises:
        DeidError: when an import fails.
    """
    try:
        yield
    except ImportError as error:
        raise DeidError(f"{use} needs a package that is missing here: pip install '{package}'") from error
