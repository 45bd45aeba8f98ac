"""The loop over photos and clips: each is read, de-identified, written and recorded; a bad one stops only itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from deid_diffusion import images, report
from deid_diffusion.boxes import Boxes
from deid_diffusion.deidentify import deidentify, edited
from deid_diffusion.errors import DeidError, ImageError, one_line
from deid_diffusion.files import prepare_folder, refusal
from deid_diffusion.options import Options
from deid_diffusion.planning import Job, Plan
from deid_diffusion.report import ImageReport
from deid_diffusion.video.formats import is_clip
from deid_diffusion.video.record import ClipReport
from deid_diffusion.wishes import Wishes

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer
    from deid_diffusion.faces.detected_face import DetectedFace
    from deid_diffusion.video.anonymize_clip import OnFrame

_Report = TypeVar("_Report", ImageReport, ClipReport)


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


def run(
    plan: Plan,
    load: Callable[[], Anonymizer],
    settings: Settings,
    report_file: Path | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[Outcome]:
    """Process the jobs of a plan one by one.

    Args:
        plan: the jobs.
        load: makes the anonymizer; called once, when the first photo has been read.
        settings: for all photos.
        report_file: JSON-lines file that gets each photo's record before the next photo is begun.
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
    for job in plan.jobs:
        work = _Clip(job, settings, on_frame) if is_clip(job.source) else _Photo(job, settings)
        outcome = _process(work, job, anonymizer, settings)
        if loaded:
            named = replace(outcome.report, model=loaded[0].model_name, gate=loaded[0].gate.description)
            outcome = replace(outcome, report=named)
        outcome = replace(outcome, report=replace(outcome.report, versions=versions))
        if report_file is not None:
            _record(report_file, job, outcome.report)
        yield outcome


class _Photo:
    """One photo from file to file.

    Attributes:
        failed: what is said of it if it fails now.
    """

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self.failed = ImageReport(job.input_name, None, "failed")

    def open(self) -> None:
        """Read it and everything that is said of it."""
        job, settings = self._job, self._settings
        images.output_format(job.target)
        prepare_folder(job.target.parent)
        self._photo = photo = images.read(job.source)
        height, width = photo.pixels.shape[:2]
        self.failed = replace(self.failed, input_sha256=photo.sha256, width=width, height=height)
        images.check_target(job.target, (height, width), photo.alpha)
        self._boxes = _boxes(settings.boxes, job, (height, width), "if it has no faces")
        self._only = _boxes(settings.only, job, (height, width), "to leave it as it is")
        self._wishes = () if settings.wishes is None else settings.wishes.of(job.input_name, (height, width))

    def make(self, model: Anonymizer) -> Outcome:
        """Write the result."""
        job, photo, settings = self._job, self._photo, self._settings
        result = deidentify(
            model,
            photo,
            job.source,
            settings.options,
            require_face=settings.require_face,
            boxes=self._boxes,
            only=self._only,
            wishes=self._wishes,
        )
        digest = images.write(
            job.target,
            np.asarray(result.image),
            alpha=photo.alpha,
            icc_profile=photo.icc_profile,
            overwrite=job.replace,
            ai_edited=edited(result),
        )
        done = replace(self.failed, output_sha256=digest, faces=result.faces)
        return Outcome(_finished(done, job))


class _Clip:
    """One clip from file to file. Attributes are those of `_Photo`."""

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
        done = _finished(done, job)
        if not made.filled:
            return Outcome(done)
        return Outcome(done, f"{job.source}: {made.filled} frames are filled altogether ({', '.join(made.errors)})")


def _process(work: _Photo | _Clip, job: Job, anonymizer: Callable[[], Anonymizer], settings: Settings) -> Outcome:
    """A photo or clip from file to file. Raises only what `anonymizer` raises, when the model cannot be loaded."""
    start = time.perf_counter()
    try:
        work.open()
    except DeidError as error:
        return _failure(job, work.failed, start, error)
    except Exception as error:
        return _internal(job, work.failed, start, error)
    model = anonymizer()
    try:
        outcome = work.make(model)
    except DeidError as error:
        return _failure(job, work.failed, start, error, settings.options)
    except Exception as error:
        return _internal(job, work.failed, start, error)
    return replace(outcome, report=replace(outcome.report, seconds=since(start)))


def _finished(done: _Report, job: Job) -> _Report:
    """The record of a photo or clip whose result was written."""
    return replace(done, status="done" if done.faces else "no_face", output=job.output_name)


def _boxes(given: Boxes | None, job: Job, shape: tuple[int, int], why: str) -> list[DetectedFace] | None:
    """The photo's boxes. A photo that the file does not know fails: nothing says whether it holds faces."""
    if given is None:
        return None
    found = given.of(job.input_name, shape)
    if found is None:
        raise ImageError(f"{job.source}: is not in {given.source}: add it, with no boxes {why}")
    return found


def _failure(
    job: Job, failed: ImageReport | ClipReport, start: float, error: DeidError, options: Options | None = None
) -> Outcome:
    """The record has no absolute path, not even where the message has one."""
    public = str(error).replace(str(job.target), job.output_name).replace(str(job.source), job.input_name)
    if job.target.is_absolute():
        public = public.replace(str(job.target.parent), str(PurePosixPath(job.output_name).parent))
    if options is not None and options.pseudonyms is not None:
        public = public.replace(str(options.pseudonyms.store), options.pseudonyms.store.name)
    return Outcome(replace(failed, error=one_line(public), seconds=since(start)), one_line(error))


def _internal(job: Job, failed: ImageReport | ClipReport, start: float, error: Exception) -> Outcome:
    """The record names the kind of error only: the text of a foreign exception may hold paths of this machine."""
    return internal(replace(failed, seconds=since(start)), job.source, error)


def internal(failed: ImageReport | ClipReport, name: str | Path, error: Exception) -> Outcome:
    """What becomes of a photo or clip, as errors call it, that an unexpected exception stopped."""
    kind = f"internal error: {type(error).__name__}"
    message = one_line(f"{name}: {kind}: {error} (please report; DEID_DEBUG=1 shows more)")
    return Outcome(replace(failed, error=kind), message, error)


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


def since(start: float) -> float:
    """Seconds since a value of `time.perf_counter`, to the millisecond."""
    return round(time.perf_counter() - start, 3)
