"""Functions that fail."""

from collections.abc import Callable
from typing import NoReturn


def raising(error: BaseException | type[BaseException]) -> Callable[..., NoReturn]:
    """Return a function that raises an error and takes any arguments."""

    def fail(*args: object, **kwargs: object) -> NoReturn:
        raise error

    return fail
