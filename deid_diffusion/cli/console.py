"""Console output of a run: progress on standard error, and summaries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ..io.video_reader import is_clip

if TYPE_CHECKING:
    from ..batch.planning import Plan
    from ..results import RunStats
    from ..training.prepare import Prepared


class _Lines(Progress):
    """Progress on standard error, live on a terminal only, with lines above it."""

    def __init__(self, *columns: ProgressColumn) -> None:
        console = Console(stderr=True, highlight=False)
        super().__init__(*columns, console=console, disable=not console.is_terminal)
        self._photos = self.add_task("photos", total=None, remark="")

    def complain(self, line: str) -> None:
        """Print a line without markup or wrapping."""
        self.console.print(line, markup=False, soft_wrap=True)


class Bar(_Lines):
    """Progress over a known number of photos: a bar on a terminal, elsewhere a line per tenth."""

    def __init__(self) -> None:
        remark = TextColumn("{task.fields[remark]}")
        super().__init__(TextColumn("photos"), BarColumn(), MofNCompleteColumn(), remark, TimeRemainingColumn())
        self._begun = False

    def show(self, done: int, total: int, remark: str = "") -> None:
        """Show `done` of `total` photos. The first call says where the run begins; each later one counts one photo."""
        if not self._begun:
            self.reset(self._photos, total=total)
        elif not self.console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            self.complain(f"{done}/{total} photos{remark and ', '}{remark}")
        self.update(self._photos, completed=done, remark=remark)
        self._begun = True


class Display(Bar):
    """Progress over `total` photos and clips, with the number of faces."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self.show(0, total, "0 faces")

    def on_frame(self, name: str, done: int, total: int) -> None:
        """Show the position in a clip, on a terminal."""
        self.update(self._photos, remark=f"{name}, {done}/{total or '?'} frames")

    def count(self, tally: RunStats) -> None:
        """Show the counts so far."""
        self.show(tally.photos, self._total, f"{tally.faces} faces")


class Counter(_Lines):
    """Progress over an unknown number of images: counts on a terminal, elsewhere a line per thousand."""

    def __init__(self) -> None:
        super().__init__(SpinnerColumn(), TextColumn("{task.fields[remark]}"))

    def show(self, tally: RunStats) -> None:
        """Show the counts, after each image."""
        counts = f"{tally.photos:,} pictures, {tally.faces:,} faces"
        self.update(self._photos, remark=counts)
        if not self.console.is_terminal and tally.photos % 1000 == 0:
            self.complain(counts)


def summary(tally: RunStats, plan: Plan) -> str:
    """Return the counts of photos by status and of faces by action, as one line."""
    photos = [
        (tally.done, "de-identified"),
        (tally.no_face, "without a face"),
        (tally.failed, "failed"),
        (plan.done, "already done"),
        (plan.skipped, "other files skipped"),
    ]
    noun = "file" if any(is_clip(Path(name)) for name in plan.names) else "photo"
    counts = ", ".join(f"{count} {status}" for count, status in photos if count)
    return f"{_number(tally.photos + plan.done, noun)}: {counts}; {faces(tally)}"


def prepared(result: Prepared, cache: Path) -> str:
    """Return the size of a cache of training faces, as one line."""
    counts = f"{_number(result.crops, 'crop')} of {_number(result.photographs, 'photograph')}"
    counts = f"{cache} is complete: {counts}" if result.was_complete else f"{counts} in {cache}"
    skipped = result.broken + result.faceless
    if not skipped:
        return counts
    reasons = [(result.broken, "broken"), (result.faceless, "without a face")]
    listed = ", ".join(f"{count:,} {reason}" for count, reason in reasons if count)
    return f"{counts}; {skipped:,} skipped: {listed} ({cache / 'skipped.jsonl'})"


def faces(tally: RunStats) -> str:
    """Return the counts of faces by action, in words."""
    others = [
        (tally.partly, "of these covered in some frames"),
        (tally.covered, "covered"),
        (tally.simple, "treated by the chosen method"),
        (tally.kept, "kept"),
    ]
    listed = "".join(f", {count} {action}" for count, action in others if count)
    return f"{_number(tally.faces, 'face')}: {tally.replaced} replaced{listed}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
