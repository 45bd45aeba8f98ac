"""The loop over photos and clips: each is read, de-identified, written and recorded; a bad one stops only itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from deid_diffusion import report
from deid_diffusion.boxes import Boxes
from deid_diffusion.errors import DeidError, ImageError
from deid_diffusion.files import prepare_folder, refusal
from deid_diffusion.options import Options
from deid_diffusion.outcomes import Outcome, failure, finished, since, unexpected
from deid_diffusion.photos import photos
from deid_diffusion.planning import Job, Plan
from deid_diffusion.report import ImageReport
from deid_diffusion.video.formats import is_clip
from deid_diffusion.video.record import ClipReport
from deid_diffusion.wishes import Wishes

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.video.anonymize_clip import OnFrame


@dataclass(frozen=True)
class Settings:
    """How the photos of a run are processed.

    Attributes:
        options: for each photo.
        require_face: a photo with no face fails instead of being written.
        boxes: where the faces are, from a file; None is the detector's business.
        only: places to which the work is limited, likewise; None is no limit.
        wishes: for single faces, likewise; None is none. Clips are not processed with any of the three.
    """

    options: Options = field(default_factory=Options)
    require_face: bool = False
    boxes: Boxes | None = None
    only: Boxes | None = None
    wishes: Wishes | None = None


def run(
    plan: Plan,
    load: Callable[[], Anonymizer],
    settings: Settings,
    report_file: Path | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[Outcome]:
    """Process the jobs of a plan, photos some ahead of those whose results are written.

    Args:
        plan: the jobs.
        load: makes the anonymizer; called once, when the first photo has been read.
        settings: for all photos.
        report_file: JSON-lines file that gets each photo's record before the next photo's result is written.
        on_frame: told how far a clip is.

    Raises:
        DeidError: the model cannot be loaded, the record cannot be written, or a copy of a photo under a result's name
            cannot be removed. A photo's own errors become outcomes.
    """
    for job in plan.jobs:
        if job.holds_original:
            _withdraw(job.target)  # whatever happens next, the photo is not left under the result's name
    loaded: list[Anonymizer] = []

    def anonymizer() -> Anonymizer:
        if not loaded:
            loaded.append(load())
        return loaded[0]

    versions = report.versions()
    for job, outcome in _outcomes(plan.jobs, anonymizer, settings, on_frame):
        outcome = replace(outcome, report=replace(outcome.report, versions=versions))
        if report_file is not None:
            _record(report_file, job, outcome.report)
        yield outcome


def _outcomes(
    jobs: Sequence[Job], anonymizer: Callable[[], Anonymizer], settings: Settings, on_frame: OnFrame | None
) -> Iterator[tuple[Job, Outcome]]:
    """What becomes of each job, in order; the caller records it before it asks for the next."""
    for clips, some in groupby(jobs, key=lambda job: is_clip(job.source)):
        if clips:
            yield from ((job, _process(_Clip(job, settings, on_frame), job, anonymizer, settings)) for job in some)
        else:
            yield from photos(some, anonymizer, settings)


class _Clip:
    """One clip from file to file.

    Attributes:
        failed: what is said of it if it fails now.
    """

    def __init__(self, job: Job, settings: Settings, on_frame: OnFrame | None) -> None:
        self._job, self._settings = job, settings
        self._on_frame = on_frame or (lambda what, done, total: None)
        self.failed = ClipReport(job.input_name, None, "failed")

    def open(self) -> None:
        """Read its header."""
        from deid_diffusion.video.reading import open_clip

        prepare_folder(self._job.target.parent)
        self._clip = open_clip(self._job.source)
        height, width = self._clip.upright
        self.failed = replace(self.failed, input_sha256=self._clip.sha256, width=width, height=height)

    def make(self, model: Anonymizer) -> Outcome:
        """Write the result."""
        from deid_diffusion.video.anonymize_clip import anonymize_clip

        job, settings = self._job, self._settings
        made = anonymize_clip(
            model,
            self._clip,
            job.target,
            settings.options,
            overwrite=job.replace,
            require_face=settings.require_face,
            on_frame=self._on_frame,
        )
        done = replace(
            self.failed,
            output_sha256=made.sha256,
            frames=made.frames,
            tracks=made.tracks,
            missed=made.missed,
            filled=made.filled,
        )
        done = finished(done, job)
        if not made.filled:
            return Outcome(done)
        return Outcome(done, f"{job.source}: {made.filled} frames are filled altogether ({', '.join(made.errors)})")


def _process(work: _Clip, job: Job, anonymizer: Callable[[], Anonymizer], settings: Settings) -> Outcome:
    """A clip from file to file. Raises only what `anonymizer` raises, when the model cannot be loaded."""
    start = time.perf_counter()
    try:
        work.open()
    except DeidError as error:
        return failure(job, work.failed, start, error)
    except Exception as error:
        return unexpected(job, work.failed, start, error)
    model = anonymizer()
    work.failed = replace(work.failed, model=model.model_name, gate=model.gate.description)
    try:
        outcome = work.make(model)
    except DeidError as error:
        return failure(job, work.failed, start, error, settings.options)
    except Exception as error:
        return unexpected(job, work.failed, start, error)
    return replace(outcome, report=replace(outcome.report, seconds=since(start)))


def _record(report_file: Path, job: Job, record: ImageReport | ClipReport) -> None:
    """Append the record; a new result that could not be recorded is withdrawn, so that the next run makes it again."""
    try:
        report.append(report_file, record)
    except BaseException:
        if record.output is not None and not job.replace:
            job.target.unlink(missing_ok=True)
        raise


def _withdraw(target: Path) -> None:
    """Remove a file. Raises ImageError."""
    try:
        target.unlink(missing_ok=True)
    except OSError as error:
        raise ImageError(f"{refusal(target, error)} (it is a copy of the photo, and cannot be removed)") from error
