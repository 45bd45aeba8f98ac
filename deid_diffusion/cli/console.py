"""Console output of a run: progress on standard error, and summaries."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
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

from ..io.video import is_clip

if TYPE_CHECKING:
    from ..batch.dataset import DatasetRun
    from ..batch.planning import Plan
    from ..results import JobResult, RunStats
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

    def report(self, outcome: JobResult, *, debug: bool) -> None:
        """Print the message of a failed job and, with `debug`, the traceback of an unexpected exception."""
        if outcome.message:
            self.complain(outcome.message)
        if outcome.unexpected and debug:
            self.complain("".join(traceback.format_exception(outcome.unexpected)))


class Bar(_Lines):
    """Progress over a known number of photos: a bar on a terminal, elsewhere a line per tenth."""

    def __init__(self) -> None:
        remark = TextColumn("{task.fields[remark]}")
        super().__init__(TextColumn("photos"), BarColumn(), MofNCompleteColumn(), remark, TimeRemainingColumn())
        self._started = False

    def show(self, done: int, total: int, remark: str = "") -> None:
        """Show `done` of `total` photos. The first call says where the run begins; each later one counts one photo."""
        if not self._started:
            self.reset(self._photos, total=total)
        elif not self.console.is_terminal and done * 10 // total > (done - 1) * 10 // total:
            self.complain(f"{done}/{total} photos{remark and ', '}{remark}")
        self.update(self._photos, completed=done, remark=remark)
        self._started = True


class Display(Bar):
    """Progress over `total` photos and clips, with the number of faces."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self.show(0, total, "0 faces")

    def on_frame(self, name: str, done: int, total: int) -> None:
        """Show the position in a clip, on a terminal."""
        self.update(self._photos, remark=f"{name}, {done}/{total or '?'} frames")

    def count(self, stats: RunStats) -> None:
        """Show the counts so far."""
        self.show(stats.photos, self._total, f"{stats.faces} faces")


class Counter(_Lines):
    """Progress over an unknown number of images: counts on a terminal, elsewhere a line per thousand."""

    def __init__(self) -> None:
        super().__init__(SpinnerColumn(), TextColumn("{task.fields[remark]}"))

    def show(self, stats: RunStats) -> None:
        """Show the counts, after each image."""
        counts = f"{stats.photos:,} pictures, {stats.faces:,} faces"
        self.update(self._photos, remark=counts)
        if not self.console.is_terminal and stats.photos % 1000 == 0:
            self.complain(counts)


def summary(stats: RunStats, plan: Plan) -> str:
    """Return the counts of photos by status and of faces by action, as one line."""
    photos = [
        (stats.done, "de-identified"),
        (stats.no_face, "without a face"),
        (stats.failed, "failed"),
        (plan.done, "already done"),
        (plan.skipped, "other files skipped"),
    ]
    noun = "file" if any(is_clip(Path(name)) for name in plan.names) else "photo"
    return f"{_number(stats.photos + plan.done, noun)}: {_listed(photos)}; {faces(stats)}"


def dataset_summary(stats: RunStats, run: DatasetRun) -> str:
    """Return the counts of images by status and of faces by action, as one line."""
    images = [
        (stats.done, "de-identified"),
        (stats.no_face, "without a face"),
        (stats.failed, "left out"),
        (run.known, "already done"),
        (run.skipped, "other files skipped"),
    ]
    return f"{_listed(images) or 'nothing left to do'}; {faces(stats)}"


def prepared(result: Prepared, cache: Path) -> str:
    """Return the size of a cache of training faces, as one line."""
    counts = f"{_number(result.crops, 'crop')} of {_number(result.photographs, 'photograph')}"
    counts = f"{cache} is complete: {counts}" if result.was_complete else f"{counts} in {cache}"
    skipped = result.broken + result.faceless
    if not skipped:
        return counts
    reasons = _listed([(result.broken, "broken"), (result.faceless, "without a face")])
    return f"{counts}; {skipped:,} skipped: {reasons} ({cache / 'skipped.jsonl'})"


def faces(stats: RunStats) -> str:
    """Return the counts of faces by action, in words."""
    actions = [
        (stats.partly, "of these covered in some frames"),
        (stats.covered, "covered"),
        (stats.simple, "treated by the chosen method"),
        (stats.kept, "kept"),
    ]
    listed = _listed(actions)
    return f"{_number(stats.faces, 'face')}: {stats.replaced} replaced{listed and ', '}{listed}"


def _listed(counts: Sequence[tuple[int, str]]) -> str:
    return ", ".join(f"{count:,} {status}" for count, status in counts if count)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
