"""The loop over photos and clips: each is read, de-identified, written and recorded; a bad one stops only itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .. import results
from ..anonymizer import check_result, edited
from ..errors import DeidError, ImageError
from ..io import images
from ..io.annotations import Boxes, FaceOverrides
from ..io.files import prepare_folder, refusal
from ..io.video_reader import is_clip
from ..options import Options
from ..results import ImageRecord, JobResult, VideoRecord, elapsed, failure, finished, unexpected
from .planning import Job, Plan

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer, Begun
    from ..faces.boxes import Detection
    from ..generation import Replacement
    from ..video.anonymize import OnFrame


_Item = TypeVar("_Item")


def prefetch(items: Iterable[_Item], weigh: Callable[[_Item], int], room: int) -> Generator[_Item]:
    """The items of an iterable, in order, taken from it in another thread.

    Args:
        items: is asked for the next item while those that wait weigh no more than ``room``.
        weigh: how much room an item takes while it waits.
        room: over which nothing more is made ahead; one item always fits.

    Raises:
        BaseException: what ``items`` raises, in its turn. When the generator is closed, the item that is being made is
            waited for.
    """
    waiting: deque[tuple[_Item, int]] = deque()
    changed = threading.Condition()
    closed, over = False, False
    error: BaseException | None = None

    def work() -> None:
        nonlocal over, error
        try:
            for item in items:
                with changed:
                    waiting.append((item, weigh(item)))
                    changed.notify()
                    changed.wait_for(lambda: closed or sum(weight for _, weight in waiting) <= room)
                    if closed:
                        return
        except BaseException as raised:  # also an interrupt: it is for the thread that waits
            error = raised
        finally:
            with changed:
                over = True
                changed.notify()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or over)
                if not waiting:
                    break
                item, _ = waiting.popleft()
                changed.notify()
            yield item
        if error is not None:
            raise error
    finally:
        with changed:
            closed = True
            changed.notify()
        thread.join()


_ROOM = 1 << 24  # pixels of photos that were read ahead, and of those that share a batch


def process_photos(
    jobs: Iterable[Job], anonymizer: Callable[[], Anonymizer], settings: Settings
) -> Iterator[tuple[Job, JobResult]]:
    """Photos are read and searched ahead, and their faces share batches; batches are the same in each run."""
    size = settings.options.batch_size
    begun = (_PhotoJob(job, settings).begin(anonymizer) for job in jobs)
    group: list[_PhotoJob] = []
    with closing(prefetch(begun, lambda photo: photo.area, _ROOM)) as ahead:
        for photo in ahead:
            group.append(photo)
            faces, area = sum(one.faces for one in group), sum(one.area for one in group)
            if max(faces, len(group)) >= size or area >= _ROOM:
                yield from _finish(group)
                group = []
        yield from _finish(group)


def _finish(group: Sequence[_PhotoJob]) -> Iterator[tuple[Job, JobResult]]:
    """Replace the faces of some photos together, then finish and write one after the other."""
    start = time.perf_counter()
    waiting = [one for one in group if one.faces]
    try:
        made = waiting[0].model.replace([one.begun for one in waiting]) if waiting else []
    except Exception:  # each for itself, then: the others are to live
        made = []
    spent, faces = elapsed(start), sum(one.faces for one in waiting)
    for one, replacements in zip(waiting, made, strict=False):
        one.made = replacements
        one.seconds += spent * one.faces / faces
    for one in group:
        yield one.job, one.finish()


class _PhotoJob:
    """One photo from file to file.

    Attributes:
        job: the photo's.
        seconds: spent on it so far.
        made: what became of its faces, as soon as that is known.
    """

    model: Anonymizer
    begun: Begun

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self._settings = job, settings
        self.seconds = 0.0
        self.made: dict[int, Replacement] | None = None
        self._failed = ImageRecord(job.input_name, None, "failed")
        self._outcome: JobResult | None = None

    @property
    def faces(self) -> int:
        """Number of its faces that wait for another in their place."""
        return 0 if self._outcome is not None else len(self.begun.scene.faces)

    @property
    def area(self) -> int:
        """Pixels that are held in memory."""
        return 0 if self._outcome is not None else self._photo.pixels.shape[0] * self._photo.pixels.shape[1]

    def begin(self, anonymizer: Callable[[], Anonymizer]) -> _PhotoJob:
        """Read it and everything that is said of it, and search it. Raises only what ``anonymizer`` raises."""
        start = time.perf_counter()
        if self._survives(self._open):
            self.model = model = anonymizer()
            self._failed = replace(self._failed, model=model.model_name, gate=model.verifier.description)
            self._survives(self._begin, self._settings.options)
        self.seconds += elapsed(start)
        return self

    def finish(self) -> JobResult:
        """Write the result."""
        start = time.perf_counter()
        if self._outcome is None:
            self._survives(self._finish, self._settings.options)
        assert self._outcome is not None
        self.seconds += elapsed(start)
        return replace(self._outcome, report=replace(self._outcome.report, seconds=round(self.seconds, 3)))

    def _survives(self, part: Callable[[], None], options: Options | None = None) -> bool:
        """Whether a part of the work went well; if not, the outcome says why."""
        start = time.perf_counter()
        try:
            part()
        except DeidError as error:
            self._outcome = failure(self.job, self._failed, start, error, options)
        except Exception as error:
            self._outcome = unexpected(self.job, self._failed, start, error)
        return self._outcome is None

    def _open(self) -> None:
        job, settings = self.job, self._settings
        images.output_format(job.target)
        prepare_folder(job.target.parent)
        self._photo = photo = images.read(job.source)
        height, width = photo.pixels.shape[:2]
        self._failed = replace(self._failed, input_sha256=photo.sha256, width=width, height=height)
        images.check_target(job.target, (height, width), photo.alpha)
        self._boxes = _boxes(settings.boxes, job, (height, width), "if it has no faces")
        self._only = _boxes(settings.only, job, (height, width), "to leave it as it is")
        self._wishes = () if settings.wishes is None else settings.wishes.of(job.input_name, (height, width))

    def _begin(self) -> None:
        self.begun = self.model.begin(
            self._photo.pixels, self._settings.options, boxes=self._boxes, only=self._only, wishes=self._wishes
        )

    def _finish(self) -> None:
        job, photo, settings, model = self.job, self._photo, self._settings, self.model
        made = model.replace([self.begun])[0] if self.made is None and self.faces else self.made or {}
        result = model.finish(self.begun, made)
        check_result(
            model, photo, job.source, result, settings.options, require_face=settings.require_face, only=self._only
        )
        digest = images.write(
            job.target,
            np.asarray(result.image),
            alpha=photo.alpha,
            icc_profile=photo.icc_profile,
            overwrite=job.replace,
            ai_edited=edited(result),
        )
        done = replace(self._failed, output_sha256=digest, faces=result.faces)
        self._outcome = JobResult(finished(done, job))


def _boxes(given: Boxes | None, job: Job, shape: tuple[int, int], why: str) -> list[Detection] | None:
    """The photo's boxes. A photo that the file does not know fails: nothing says whether it holds faces."""
    if given is None:
        return None
    found = given.of(job.input_name, shape)
    if found is None:
        raise ImageError(f"{job.source}: is not in {given.source}: add it, with no boxes {why}")
    return found


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
    wishes: FaceOverrides | None = None


def run(
    plan: Plan,
    load: Callable[[], Anonymizer],
    settings: Settings,
    report_file: Path | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[JobResult]:
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

    versions = results.versions()
    for job, outcome in _outcomes(plan.jobs, anonymizer, settings, on_frame):
        outcome = replace(outcome, report=replace(outcome.report, versions=versions))
        if report_file is not None:
            _record(report_file, job, outcome.report)
        yield outcome


def _outcomes(
    jobs: Sequence[Job], anonymizer: Callable[[], Anonymizer], settings: Settings, on_frame: OnFrame | None
) -> Iterator[tuple[Job, JobResult]]:
    """What becomes of each job, in order; the caller records it before it asks for the next."""
    for clips, some in groupby(jobs, key=lambda job: is_clip(job.source)):
        if clips:
            yield from ((job, _process(_ClipJob(job, settings, on_frame), job, anonymizer, settings)) for job in some)
        else:
            yield from process_photos(some, anonymizer, settings)


class _ClipJob:
    """One clip from file to file.

    Attributes:
        failed: what is said of it if it fails now.
    """

    def __init__(self, job: Job, settings: Settings, on_frame: OnFrame | None) -> None:
        self._job, self._settings = job, settings
        self._on_frame = on_frame or (lambda what, done, total: None)
        self.failed = VideoRecord(job.input_name, None, "failed")

    def open(self) -> None:
        """Read its header."""
        from ..io.video_reader import open_clip

        prepare_folder(self._job.target.parent)
        self._clip = open_clip(self._job.source)
        height, width = self._clip.upright
        self.failed = replace(self.failed, input_sha256=self._clip.sha256, width=width, height=height)

    def make(self, model: Anonymizer) -> JobResult:
        """Write the result."""
        from ..video.anonymize import anonymize_clip

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
            return JobResult(done)
        return JobResult(done, f"{job.source}: {made.filled} frames are filled altogether ({', '.join(made.errors)})")


def _process(work: _ClipJob, job: Job, anonymizer: Callable[[], Anonymizer], settings: Settings) -> JobResult:
    """A clip from file to file. Raises only what `anonymizer` raises, when the model cannot be loaded."""
    start = time.perf_counter()
    try:
        work.open()
    except DeidError as error:
        return failure(job, work.failed, start, error)
    except Exception as error:
        return unexpected(job, work.failed, start, error)
    model = anonymizer()
    work.failed = replace(work.failed, model=model.model_name, gate=model.verifier.description)
    try:
        outcome = work.make(model)
    except DeidError as error:
        return failure(job, work.failed, start, error, settings.options)
    except Exception as error:
        return unexpected(job, work.failed, start, error)
    return replace(outcome, report=replace(outcome.report, seconds=elapsed(start)))


def _record(report_file: Path, job: Job, record: ImageRecord | VideoRecord) -> None:
    """Append the record; a new result that could not be recorded is withdrawn, so that the next run makes it again."""
    try:
        results.append(report_file, record)
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
