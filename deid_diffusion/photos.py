"""Photos from file to file: read and searched ahead, their faces replaced in batches, written one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deid_diffusion import images
from deid_diffusion.ahead import made_ahead
from deid_diffusion.boxes import Boxes
from deid_diffusion.deidentify import check_result, edited
from deid_diffusion.errors import DeidError, ImageError
from deid_diffusion.files import prepare_folder
from deid_diffusion.options import Options
from deid_diffusion.outcomes import Outcome, failure, finished, since, unexpected
from deid_diffusion.planning import Job
from deid_diffusion.report import ImageReport

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer, Begun
    from deid_diffusion.batch import Settings
    from deid_diffusion.faces.detected_face import DetectedFace
    from deid_diffusion.replacement import Replacement

_ROOM = 1 << 24  # pixels of photos that were read ahead, and of those that share a batch


def photos(
    jobs: Iterable[Job], anonymizer: Callable[[], Anonymizer], settings: Settings
) -> Iterator[tuple[Job, Outcome]]:
    """Photos are read and searched ahead, and their faces share batches; batches are the same in each run."""
    size = settings.options.batch_size
    begun = (_Photo(job, settings).begin(anonymizer) for job in jobs)
    group: list[_Photo] = []
    with closing(made_ahead(begun, lambda photo: photo.area, _ROOM)) as ahead:
        for photo in ahead:
            group.append(photo)
            faces, area = sum(one.faces for one in group), sum(one.area for one in group)
            if max(faces, len(group)) >= size or area >= _ROOM:
                yield from _finish(group)
                group = []
        yield from _finish(group)


def _finish(group: Sequence[_Photo]) -> Iterator[tuple[Job, Outcome]]:
    """Replace the faces of some photos together, then finish and write one after the other."""
    start = time.perf_counter()
    waiting = [one for one in group if one.faces]
    try:
        made = waiting[0].model.replace([one.begun for one in waiting]) if waiting else []
    except Exception:  # each for itself, then: the others are to live
        made = []
    spent, faces = since(start), sum(one.faces for one in waiting)
    for one, replacements in zip(waiting, made, strict=False):
        one.made = replacements
        one.seconds += spent * one.faces / faces
    for one in group:
        yield one.job, one.finish()


class _Photo:
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
        self._failed = ImageReport(job.input_name, None, "failed")
        self._outcome: Outcome | None = None

    @property
    def faces(self) -> int:
        """Number of its faces that wait for another in their place."""
        return 0 if self._outcome is not None else len(self.begun.scene.faces)

    @property
    def area(self) -> int:
        """Pixels that are held in memory."""
        return 0 if self._outcome is not None else self._photo.pixels.shape[0] * self._photo.pixels.shape[1]

    def begin(self, anonymizer: Callable[[], Anonymizer]) -> _Photo:
        """Read it and everything that is said of it, and search it. Raises only what ``anonymizer`` raises."""
        start = time.perf_counter()
        if self._survives(self._open):
            self.model = model = anonymizer()
            self._failed = replace(self._failed, model=model.model_name, gate=model.gate.description)
            self._survives(self._begin, self._settings.options)
        self.seconds += since(start)
        return self

    def finish(self) -> Outcome:
        """Write the result."""
        start = time.perf_counter()
        if self._outcome is None:
            self._survives(self._finish, self._settings.options)
        assert self._outcome is not None
        self.seconds += since(start)
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
        self._outcome = Outcome(finished(done, job))


def _boxes(given: Boxes | None, job: Job, shape: tuple[int, int], why: str) -> list[DetectedFace] | None:
    """The photo's boxes. A photo that the file does not know fails: nothing says whether it holds faces."""
    if given is None:
        return None
    found = given.of(job.input_name, shape)
    if found is None:
        raise ImageError(f"{job.source}: is not in {given.source}: add it, with no boxes {why}")
    return found
