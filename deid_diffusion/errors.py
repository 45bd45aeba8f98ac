"""The errors a user meets: each message is one line that names the thing and says what to do about it."""

from __future__ import annotations


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
