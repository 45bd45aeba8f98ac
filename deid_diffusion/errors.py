"""The errors a user meets: each message is one line that names the thing and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


class DeidError(Exception):
    """Base of every error that a user can act on. The command line prints its message and exits with code 2."""


class ImageError(DeidError, ValueError):
    """A photo that cannot be read or written."""


class VideoError(DeidError, ValueError):
    """A clip that cannot be read or written."""


class UsageError(DeidError, ValueError):
    """A combination of inputs and options that cannot be carried out; raised before anything is processed."""


def one_line(value: object) -> str:
    """`value` as text without line breaks, runs of spaces or characters that a terminal obeys or cannot show."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(str(value).split())
    )


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


_HINT = "clips need more packages: pip install 'deid-diffusion[video]'"


def pyav() -> ModuleType:
    """PyAV, which reads and writes clips with FFmpeg's libraries. Raises DeidError if it is missing or too old."""
    av = _module("av")
    if not hasattr(av.VideoStream, "set_display_matrix"):
        raise DeidError(f"av {av.__version__} is too old, 17.1 or newer is needed: {_HINT}")
    return av


def supervision() -> ModuleType:
    """supervision, for its ByteTrack. Raises DeidError if it is missing, or too new to have one."""
    module = _module("supervision")
    if not hasattr(module, "ByteTrack"):
        raise DeidError(f"supervision {module.__version__} has no ByteTrack, one under 0.28 is needed: {_HINT}")
    return module


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DeidError(_HINT) from error
