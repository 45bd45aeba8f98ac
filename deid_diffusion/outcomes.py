"""What becomes of photos and clips, and the counts of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from deid_diffusion.errors import DeidError, one_line
from deid_diffusion.options import Options
from deid_diffusion.planning import Job
from deid_diffusion.report import ImageReport
from deid_diffusion.video.record import ClipReport

_Report = TypeVar("_Report", ImageReport, ClipReport)


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes:
        report: the record of the photo or clip.
        message: one line for the user if it failed, or if frames of it had to be filled; else None.
        unexpected: the exception behind the failure if it was none that a user can act on.
    """

    report: ImageReport | ClipReport
    message: str | None = None
    unexpected: Exception | None = None


@dataclass(frozen=True)
class Tally:
    """Counts of a run: photos and clips by what became of them, and faces by what was done to them.

    A clip's track counts as one face; `partly` are those replaced in some frames and covered in others, and
    `other_covers` are frames that were filled altogether, and faces of clips that only the second look found.
    """

    done: int = 0
    no_face: int = 0
    failed: int = 0
    internal: int = 0
    replaced: int = 0
    covered: int = 0
    simple: int = 0
    kept: int = 0
    partly: int = 0
    other_covers: int = 0

    def add(self, outcome: Outcome) -> Tally:
        """The counts with one more photo."""
        status = outcome.report.status
        actions = [face.action for face in outcome.report.faces]
        replaced, covered, kept = (actions.count(one) for one in ("replaced", "covered", "kept"))
        clip = outcome.report if isinstance(outcome.report, ClipReport) else None
        tracks, other_covers = (clip.tracks, clip.filled + clip.missed) if clip else ((), 0)
        return replace(
            self,
            done=self.done + (status == "done"),
            no_face=self.no_face + (status == "no_face"),
            failed=self.failed + (status == "failed"),
            internal=self.internal + (outcome.unexpected is not None),
            replaced=self.replaced + replaced,
            covered=self.covered + covered,
            simple=self.simple + len(actions) - replaced - covered - kept,
            kept=self.kept + kept,
            partly=self.partly + sum(one.action == "replaced" and one.covered > 0 for one in tracks),
            other_covers=self.other_covers + other_covers,
        )

    @property
    def photos(self) -> int:
        """Photos so far, whatever became of them."""
        return self.done + self.no_face + self.failed

    @property
    def faces(self) -> int:
        """Faces so far, whatever was done to them."""
        return self.replaced + self.covered + self.simple + self.kept

    @property
    def exit_code(self) -> int:
        """1 an internal error, else 2 an unreadable photo, else 3 a face covered instead of replaced, else 0."""
        if self.internal:
            return 1
        return 2 if self.failed else 3 if self.covered or self.partly or self.other_covers else 0


def finished(done: _Report, job: Job) -> _Report:
    """The record of a photo or clip whose result was written."""
    return replace(done, status="done" if done.faces else "no_face", output=job.output_name)


def failure(
    job: Job, failed: ImageReport | ClipReport, start: float, error: DeidError, options: Options | None = None
) -> Outcome:
    """The record has no absolute path, not even where the message has one."""
    public = str(error).replace(str(job.target), job.output_name).replace(str(job.source), job.input_name)
    if job.target.is_absolute():
        public = public.replace(str(job.target.parent), str(PurePosixPath(job.output_name).parent))
    if options is not None and options.pseudonyms is not None:
        public = public.replace(str(options.pseudonyms.store), options.pseudonyms.store.name)
    return Outcome(replace(failed, error=one_line(public), seconds=since(start)), one_line(error))


def unexpected(job: Job, failed: ImageReport | ClipReport, start: float, error: Exception) -> Outcome:
    """The record names the kind of error only: the text of a foreign exception may hold paths of this machine."""
    return internal(replace(failed, seconds=since(start)), job.source, error)


def internal(failed: ImageReport | ClipReport, name: str | Path, error: Exception) -> Outcome:
    """What becomes of a photo or clip, as errors call it, that an unexpected exception stopped."""
    kind = f"internal error: {type(error).__name__}"
    message = one_line(f"{name}: {kind}: {error} (please report; DEID_DEBUG=1 shows more)")
    return Outcome(replace(failed, error=kind), message, error)


def since(start: float) -> float:
    """Seconds since a value of `time.perf_counter`, to the millisecond."""
    return round(time.perf_counter() - start, 3)
