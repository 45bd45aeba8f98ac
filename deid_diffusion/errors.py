"""Exceptions with one-line messages that name the thing, the problem and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DeidError(Exception):
    """Base of all errors that a user can act on, printed as one line with exit code 2."""


class ImageError(DeidError, ValueError):
    """Photo that cannot be read or written."""


class VideoError(DeidError, ValueError):
    """Clip that cannot be read or written."""


class UsageError(DeidError, ValueError):
    """Invalid combination of inputs and options, raised before anything is processed."""


def one_line(value: object) -> str:
    """Return `value` as text without line breaks, runs of spaces, and control or unprintable characters."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(str(value).split())
    )


_FAILURES = {
    "missing": "is missing",
    "model_type": "should be an object",
    "extra_forbidden": "is unknown",
    "unexpected_keyword_argument": "is unknown",
}


def validation_message(error: ValidationError) -> str:
    """Return the first failure of a pydantic validation as one line: where, the expectation, and the value."""
    failure = error.errors(include_url=False)[0]
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in failure["loc"]).lstrip(".")
    cause = failure.get("ctx", {}).get("error")
    if isinstance(cause, Exception):  # raised by a validator of ours, in its own words
        text = str(cause)
    elif failure["type"] in _FAILURES:
        text = _FAILURES[failure["type"]]
    else:
        text = failure["msg"].replace("Input should", "should").replace("greater than or equal to", "at least")
        text = f"{text.replace('less than or equal to', 'at most')}, got {repr(failure['input'])[:60]}"
    return one_line(f"{place}: {text}" if place else text)


MEDIAPIPE = "mediapipe>=0.10.14,<0.10.30"
"""Requirement for face meshes: later releases ship no models."""


@contextmanager
def needed_for(use: str, package: str) -> Iterator[None]:
    """Turn a failed import inside the block into a DeidError that names the missing package.

    >>> with needed_for("this", "no-such-package"):
    ...     import no_such_package
    Traceback (most recent call last):
    deid_diffusion.errors.DeidError: this needs a package that is missing here: pip install 'no-such-package'

    Args:
        use: the feature that needs the import.
        package: requirement, as pip takes it.

    Raises:
        DeidError: when an import fails.
    """
    try:
        yield
    except ImportError as error:
        raise DeidError(f"{use} needs a package that is missing here: pip install '{package}'") from error


_HINT = "clips need more packages: pip install 'deid-diffusion[video]'"


def pyav() -> ModuleType:
    """Return PyAV, the bindings of FFmpeg's libraries. Raises DeidError if it is missing or too old."""
    av = _module("av")
    if not hasattr(av.VideoStream, "set_display_matrix"):
        raise DeidError(f"av {av.__version__} is too old, 17.1 or newer is needed: {_HINT}")
    return av


def supervision() -> ModuleType:
    """Return supervision, for its ByteTrack. Raises DeidError if it is missing, or too new to have one."""
    module = _module("supervision")
    if not hasattr(module, "ByteTrack"):
        raise DeidError(f"supervision {module.__version__} has no ByteTrack, one under 0.28 is needed: {_HINT}")
    return module


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise DeidError(_HINT) from error
