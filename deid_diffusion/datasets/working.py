"""What a worker does with a task, in whatever process it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import DeidError, ImageError, one_line
from ..files import refusal
from . import single_files, tables, tars
from .kinds import Kind
from .tasks import Done, Task, left_out
from .workshop import Recipe, Workshop

_WAYS: dict[Kind, Callable[[Task, Workshop], Done]] = {
    "photo": single_files.photo,
    "label": single_files.label,
    "tar": tars.FORMAT.piece,
    "table": tables.FORMAT.piece,
}


def carry_out(task: Task, workshop: Workshop) -> Done:
    """Do a task. What keeps every task from being done, such as a full disk, comes back as the reason to stop."""
    try:
        return _WAYS[task.kind](task, workshop)
    except ImageError as error:  # of a shard: what is wrong with a picture is no exception here
        return left_out(task, one_line(error))
    except DeidError as error:
        return Done(task, stop=one_line(error))
    except OSError as error:
        return Done(task, stop=refusal(task.scratch, error))


def here(recipe: Recipe, tasks: Iterator[Task]) -> Iterator[Done]:
    """The simplest engine: one worker, in this process."""
    workshop = Workshop(recipe)
    for task in tasks:
        yield carry_out(task, workshop)
