"""Run a plan: read, anonymise, write and record each photo and clip; one that fails stops only itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .. import results
from ..errors import DeidError, ImageError
from ..io import images
from ..io.annotations import Boxes, FaceOverrides
from ..io.files import prepare_folder, write_atomic, write_error
from ..io.video import is_clip
from ..options import Options
from ..results import ImageRecord, JobResult, VideoRecord, elapsed, failure, finished, unexpected
from .planning import Job, Plan

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..anonymizer import Anonymizer
    from ..faces.boxes import Detection
    from ..faces.face import PreparedImage
    from ..video.anonymize import OnFrame

_MAX_PIXELS_AHEAD = 1 << 24  # of photos that were read ahead, and of those that share a batch


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        options: for each photo.
        require_face: a photo with no face fails instead of being written.
        boxes: of the faces, from a file; None detects them.
        only: places to which the work is limited, likewise; None is no limit.
        overrides: selections for single faces, likewise. Clips take none of the three.
    """

    options: Options = field(default_factory=Options)
    require_face: bool = False
    boxes: Boxes | None = None
    only: Boxes | None = None
    overrides: FaceOverrides | None = None


def run(
    plan: Plan,
    load: Callable[[], Anonymizer],
    settings: Settings,
    report_file: Path | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[JobResult]:
    """Process the jobs of a plan.

    Args:
        plan: the jobs.
        load: returns the anonymizer; called once, when the first photo has been read.
        settings: for all photos.
        report_file: JSON-lines file that gets each photo's record before the next photo's result is written.
        on_frame: called after each frame of a clip.

    Raises:
        DeidError: the model cannot be loaded, the record cannot be written, or a copy of a photo under a result's name
            cannot be removed. A photo's own errors become results.
    """
    for job in plan.jobs:
        if job.holds_original:
            _withdraw(job.target)  # whatever happens next, the original is not left under the result's name
    versions = results.versions()
    for job, result in _results(plan.jobs, cache(load), settings, on_frame):
        result = replace(result, report=replace(result.report, versions=versions))
        if report_file is not None:
            _record(report_file, job, result.report)
        yield result


def _results(
    jobs: Sequence[Job], anonymizer: Callable[[], Anonymizer], settings: Settings, on_frame: OnFrame | None
) -> Iterator[tuple[Job, JobResult]]:
    """Yield the result of each job, in order; the caller records it before it asks for the next."""
    for are_clips, group in groupby(jobs, key=lambda job: is_clip(job.source)):
        if are_clips:
            yield from ((job, _ClipJob(job, settings, on_frame).prepare(anonymizer).finish()) for job in group)
        else:
            yield from _photo_results(group, anonymizer, settings)


def _photo_results(
    jobs: Iterable[Job], anonymizer: Callable[[], Anonymizer], settings: Settings
) -> Iterator[tuple[Job, JobResult]]:
    """Process photos: the next ones are read and searched ahead, and faces share batches, the same in each run."""
    size = settings.options.batch_size
    prepared = (_PhotoJob(job, settings).prepare(anonymizer) for job in jobs)
    group: list[_PhotoJob] = []
    with closing(prefetch(prepared, lambda photo: photo.area, _MAX_PIXELS_AHEAD)) as photos:
        for photo in photos:
            group.append(photo)
            faces, area = sum(part.faces for part in group), sum(part.area for part in group)
            if max(faces, len(group)) >= size or area >= _MAX_PIXELS_AHEAD:
                yield from _finish(group)
                group = []
        yield from _finish(group)


def _finish(group: Sequence[_PhotoJob]) -> Iterator[tuple[Job, JobResult]]:
    """Generate the faces of some photos together, then finish and write one after the other."""
    start = time.perf_counter()
    waiting = [photo for photo in group if photo.faces]
    counts = [photo.faces for photo in waiting]
    if waiting:
        model, options = waiting[0].model, waiting[0].settings.options
        try:
            model.generate([photo.prepared for photo in waiting], options)
        except Exception:  # each by itself, then: a photo whose error is its own must not stop the others
            for photo in waiting:
                photo.generate_alone = True
    spent = elapsed(start)
    for photo, count in zip(waiting, counts, strict=True):
        photo.seconds += spent * count / sum(counts)
    for photo in group:
        yield photo.job, photo.finish()


class _FileJob:
    """One photo or clip from file to file, in two timed steps; an error becomes its result."""

    model: Anonymizer
    _failed: ImageRecord | VideoRecord  # the record if it fails now

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings, self.seconds = job, settings, 0.0
        self._result: JobResult | None = None

    def prepare(self, anonymizer: Callable[[], Anonymizer]) -> Self:
        """Read the file and detect its faces. Raises only what ``anonymizer`` raises."""
        start = time.perf_counter()
        self._attempt(self._open)
        if self._result is None:
            self.model = model = anonymizer()
            self._failed = replace(self._failed, model=model.model_name, gate=model.verifier.description)
            self._attempt(self._prepare, self.settings.options)
        self.seconds += elapsed(start)
        return self

    def finish(self) -> JobResult:
        """Write the result."""
        start = time.perf_counter()
        if self._result is None:
            self._attempt(self._finish, self.settings.options)
        assert self._result is not None
        self.seconds += elapsed(start)
        return replace(self._result, report=replace(self._result.report, seconds=round(self.seconds, 3)))

    def _attempt(self, step: Callable[[], JobResult | None], options: Options | None = None) -> None:
        """Execute a step; if it fails, the result says why."""
        start = time.perf_counter()
        try:
            self._result = step()
        except DeidError as error:
            self._result = failure(self.job, self._failed, start, error, options)
        except Exception as error:
            self._result = unexpected(self.job, self._failed, start, error)

    def _open(self) -> None:
        raise NotImplementedError

    def _prepare(self) -> None:
        """Detect the faces before `finish`, if that is a step of its own."""

    def _finish(self) -> JobResult:
        raise NotImplementedError


class _PhotoJob(_FileJob):
    """One photo; `generate_alone` if generation for several photos failed, and is repeated for this one."""

    prepared: PreparedImage
    generate_alone = False

    def __init__(self, job: Job, settings: Settings) -> None:
        super().__init__(job, settings)
        self._failed = ImageRecord(job.input_name, None, "failed")

    @property
    def faces(self) -> int:
        """Number of faces that wait for generation."""
        return 0 if self._result is not None else len(self.prepared.pending)

    @property
    def area(self) -> int:
        """Pixels that are held in memory."""
        return 0 if self._result is not None else self._photo.pixels.shape[0] * self._photo.pixels.shape[1]

    def _open(self) -> None:
        job, settings = self.job, self.settings
        images.output_format(job.target)
        prepare_folder(job.target.parent)
        self._photo = photo = images.read(job.source)
        height, width = photo.pixels.shape[:2]
        self._failed = replace(self._failed, input_sha256=photo.sha256, width=width, height=height)
        images.check_target(job.target, (height, width), photo.alpha)
        self._boxes = _boxes(settings.boxes, job, (height, width), "if it has no faces")
        self._only = _boxes(settings.only, job, (height, width), "to leave it as it is")
        self._overrides = () if settings.overrides is None else settings.overrides.of(job.input_name, (height, width))

    def _prepare(self) -> None:
        photo, options = self._photo.pixels, self.settings.options
        self.prepared = self.model.prepare(
            photo, options, detections=self._boxes, only=self._only, overrides=self._overrides
        )

    def _finish(self) -> JobResult:
        job, settings, options = self.job, self.settings, self.settings.options
        if self.generate_alone:
            self.model.generate([self.prepared], options)
        result = self.model.finalize(self.prepared, options)
        data, record = self.model.encode(
            self._photo,
            result,
            options,
            job.target,
            name=str(job.source),
            require_face=settings.require_face,
            only=self._only,
        )
        write_atomic(job.target, data, overwrite=job.replace)
        record = replace(record, input=job.input_name, versions=self._failed.versions)
        return JobResult(finished(record, job))


class _ClipJob(_FileJob):
    """One clip."""

    _failed: VideoRecord

    def __init__(self, job: Job, settings: Settings, on_frame: OnFrame | None) -> None:
        super().__init__(job, settings)
        self._failed = VideoRecord(job.input_name, None, "failed")
        self._on_frame = on_frame or (lambda name, done, total: None)

    def _open(self) -> None:
        from ..io.video import open_clip

        prepare_folder(self.job.target.parent)
        self._clip = open_clip(self.job.source)
        height, width = self._clip.upright
        self._failed = replace(self._failed, input_sha256=self._clip.sha256, width=width, height=height)

    def _finish(self) -> JobResult:
        from ..video.anonymize import anonymize_clip

        job, settings = self.job, self.settings
        result = anonymize_clip(
            self.model,
            self._clip,
            job.target,
            settings.options,
            overwrite=job.replace,
            require_face=settings.require_face,
            on_frame=self._on_frame,
        )
        counts = {name: getattr(result, name) for name in ("frames", "tracks", "missed", "filled")}
        record = finished(replace(self._failed, output_sha256=result.sha256, **counts), job)
        reasons = ", ".join(result.errors)
        message = f"{job.source}: {result.filled} frames are filled as a whole ({reasons})" if result.filled else None
        return JobResult(record, message)


def _boxes(file: Boxes | None, job: Job, shape: tuple[int, int], purpose: str) -> list[Detection] | None:
    """Return the photo's boxes. A photo that the file does not know fails: nothing says whether it has faces."""
    if file is None:
        return None
    boxes = file.of(job.input_name, shape)
    if boxes is None:
        raise ImageError(f"{job.source}: is not in {file.source}: add it, with no boxes {purpose}")
    return boxes


def _record(report_file: Path, job: Job, record: ImageRecord | VideoRecord) -> None:
    """Append the record; a new result that could not be recorded is withdrawn, so that the next run repeats it."""
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
        raise ImageError(f"{write_error(target, error)} (it is a copy of the photo, and cannot be removed)") from error


_Item = TypeVar("_Item")


def prefetch(items: Iterable[_Item], cost: Callable[[_Item], int], budget: int) -> Generator[_Item]:
    """Yield the items of an iterable, in order, computed ahead in another thread.

    The next is computed while those that wait cost no more than ``budget``; a single item always fits. Raises what
    ``items`` raises, in its turn. When the generator is closed, the item that is being computed is waited for.
    """
    ready: deque[tuple[_Item, ...]] = deque()  # an empty one is the end
    changed = threading.Condition()
    closed = False
    errors: list[BaseException] = []

    def put(*entry: _Item) -> None:
        with changed:
            ready.append(entry)
            changed.notify()
            changed.wait_for(lambda: closed or not entry or sum(cost(item) for (item,) in ready) <= budget)

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed:
                    break
        except BaseException as error:  # also an interrupt: it is for the thread that waits
            errors.append(error)
        put()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: ready)
                entry = ready.popleft()
                changed.notify()
            if not entry:
                break
            yield entry[0]
        if errors:
            raise errors[0]
    finally:
        with changed:
            closed = True
            changed.notify()
        thread.join()
