"""What a run shows: a progress bar on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from deid_diffusion.batch import Tally
    from deid_diffusion.planning import Plan


class Display:
    """Progress over `total` photos on the error stream, as a context manager.

    On a terminal it is a live bar. Elsewhere (a log file, a pipe) it is a plain line at each tenth of the way.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("photos"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[faces]} faces"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("photos", total=total, faces=0)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, tally: Tally) -> None:
        """Show the counts so far."""
        self._progress.update(self._task, completed=tally.photos, faces=tally.replaced + tally.covered)
        if not self._console.is_terminal and tally.photos * 10 // self._total > (tally.photos - 1) * 10 // self._total:
            self.complain(f"{tally.photos}/{self._total} photos, {tally.replaced + tally.covered} faces")

    def complain(self, line: str) -> None:
        """Print `line` above the bar, as it is."""
        self._console.print(line, markup=False, soft_wrap=True)


def summary(tally: Tally, plan: Plan) -> str:
    """One line: what became of the photos, and of their faces."""
    photos = [
        (tally.done, "de-identified"),
        (tally.no_face, "without a face"),
        (tally.failed, "failed"),
        (plan.done, "already done"),
        (plan.skipped, "other files skipped"),
    ]
    counts = ", ".join(f"{count} {what}" for count, what in photos if count)
    return f"{_number(tally.photos + plan.done, 'photo')}: {counts}; {faces(tally)}"


def faces(tally: Tally) -> str:
    """The counts of faces in words."""
    covered = f", {tally.covered} covered" if tally.covered else ""
    return f"{_number(tally.replaced + tally.covered, 'face')}: {tally.replaced} replaced{covered}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
