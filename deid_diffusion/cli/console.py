"""What a run shows: a progress bar on a terminal, plain lines elsewhere, and a summary."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..io.video_reader import is_clip

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..batch.planning import Plan
    from ..results import RunStats
    from ..training.prepare import Prepared


class Lines:
    """Lines on the error stream, above whatever is live there."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def complain(self, line: str) -> None:
        """Print a line as it is."""
        self._console.print(line, markup=False, soft_wrap=True)


class Bar(Lines):
    """Progress over photos on the error stream, as a context manager.

    On a terminal it is a live bar. Elsewhere (a log file, a pipe) it is a plain line at each tenth of the way.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("photos"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[remark]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("photos", total=None, remark="")
        self._begun = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, remark: str = "") -> None:
        """Show `done` of `total` photos. The first call says where the run begins; each later one counts one photo."""
        if not self._begun:
            self._progress.reset(self._task, total=total, completed=done, remark=remark)
        elif not self._console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            self.complain(f"{done}/{total} photos{remark and ', '}{remark}")
        self._progress.update(self._task, completed=done, remark=remark)
        self._begun = True


class Display(Bar):
    """Progress over `total` photos, with the number of faces."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self.show(0, total, "0 faces")

    def on_frame(self, what: str, done: int, total: int) -> None:
        """Show how far a clip is, on a terminal."""
        self._progress.update(self._task, remark=f"{what}, {done}/{total or '?'} frames")

    def update(self, tally: RunStats) -> None:
        """Show the counts so far."""
        self.show(tally.photos, self._total, f"{tally.faces} faces")


class Counter(Lines):
    """Progress over pictures whose number nobody knows: a live line on a terminal, one for each thousand elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._status = self._console.status("begun")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def show(self, tally: RunStats) -> None:
        """Show the counts, after each picture."""
        line = f"{tally.photos:,} pictures, {tally.faces:,} faces"
        if self._console.is_terminal:
            self._status.update(line)
        elif tally.photos % 1000 == 0:
            self.complain(line)


def summary(tally: RunStats, plan: Plan) -> str:
    """One line: what became of the photos, and of their faces."""
    photos = [
        (tally.done, "de-identified"),
        (tally.no_face, "without a face"),
        (tally.failed, "failed"),
        (plan.done, "already done"),
        (plan.skipped, "other files skipped"),
    ]
    noun = "file" if any(is_clip(Path(name)) for name in plan.names) else "photo"
    counts = ", ".join(f"{count} {what}" for count, what in photos if count)
    return f"{_number(tally.photos + plan.done, noun)}: {counts}; {faces(tally)}"


def prepared(done: Prepared, cache: Path) -> str:
    """One line: what a cache of training faces holds."""
    counts = f"{_number(done.crops, 'crop')} of {_number(done.photographs, 'photograph')}"
    counts = f"{cache} is complete: {counts}" if done.was_complete else f"{counts} in {cache}"
    skipped = done.broken + done.faceless
    if not skipped:
        return counts
    reasons = [(done.broken, "broken"), (done.faceless, "without a face")]
    listed = ", ".join(f"{count:,} {what}" for count, what in reasons if count)
    return f"{counts}; {skipped:,} skipped: {listed} ({cache / 'skipped.jsonl'})"


def faces(tally: RunStats) -> str:
    """The counts of faces in words."""
    others = [
        (tally.partly, "of these covered in some frames"),
        (tally.covered, "covered"),
        (tally.simple, "treated by the chosen method"),
        (tally.kept, "kept"),
    ]
    listed = "".join(f", {count} {what}" for count, what in others if count)
    return f"{_number(tally.faces, 'face')}: {tally.replaced} replaced{listed}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
