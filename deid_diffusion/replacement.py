"""Candidates are generated and judged until one passes the gate and is pasted, or the face stays covered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from .attributes.choice import AttributeChoice
from .errors import DeidError
from .faces.analysis import FaceAnalysis
from .faces.blend import Canvas
from .faces.crop import resized
from .generation import draw_people, generate, read_conditions
from .identity.verify import Reference, Verdict, Verifier
from .options import Options

if TYPE_CHECKING:
    from .models.identity_model import Donors
    from .pipelines.face_deid import FaceDeidPipeline

_ALIKE_ATTEMPTS = 3  # candidates at most of which all pass and all are alike
_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Replacement:
    """What became of one face.

    Attributes:
        reason: why the face is covered; None if a candidate passed and stands in the picture.
        seed: of that candidate.
        similarity: cosine of its embedding and the original's; of the last one judged if none passed.
        attempts: candidates that were judged.
        donors: the person that the candidate shows.
    """

    reason: str | None
    seed: int | None = None
    similarity: float | None = None
    attempts: int = 0
    donors: Donors | None = None


@dataclass(frozen=True, eq=False)
class _Candidate:
    crop: np.ndarray
    seed: int
    verdict: Verdict
    donors: Donors


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo and what is known of it.

    Attributes:
        photo: (H, W, 3) uint8 RGB, the original.
        canvas: of that photo, every face opaque.
        gone: (H, W) bool, every pixel that the mask of any face touches.
        faces: those to replace, by their index on the canvas.
        originals: what the gate knows of each.
        choices: what is kept of each, and changed.
        seed_of: the seed of a face's candidate: (index, attempt) -> 0 to 2**63 - 1.
        people: who stands in a face's place, by its index, where that was chosen before.
        settle: says who stands in a face's place from now on, (index, the person chosen for it) -> that one, or another
            whom a photo of the same person got meanwhile.
    """

    photo: np.ndarray
    canvas: Canvas
    gone: np.ndarray
    faces: Mapping[int, FaceAnalysis]
    originals: Mapping[int, Reference]
    choices: Mapping[int, AttributeChoice]
    seed_of: Callable[[int, int], int]
    people: Mapping[int, Donors] = field(default_factory=dict)
    settle: Callable[[int, Donors], Donors] = lambda index, donors: donors


class Replacer(Protocol):
    """Puts a verified face in each face's place on a scene's canvas, and leaves those without one opaque."""

    def __call__(
        self, pipeline: FaceDeidPipeline, gate: Verifier, scene: Scene, options: Options
    ) -> dict[int, Replacement]:
        """What became of each of the scene's faces, by its index."""
        ...


@dataclass(frozen=True, eq=False)
class _Place:
    """One face of a scene."""

    scene: Scene
    index: int

    @property
    def face(self) -> FaceAnalysis:
        return self.scene.faces[self.index]

    @property
    def choice(self) -> AttributeChoice:
        return self.scene.choices[self.index]

    def put(self, crop: np.ndarray, replacement: Replacement) -> Replacement:
        """Paste what was chosen, and say what became of the face."""
        try:
            self.scene.canvas.paste(self.index, crop, self._matrix_of(crop))
        except Exception as error:
            return self.failed(error)
        return replacement

    def failed(self, error: Exception) -> Replacement:
        """Cover the face."""
        self.scene.canvas.cover(self.index)
        return Replacement(f"generation failed: {type(error).__name__}")

    def judged(self, gate: Verifier, crop: np.ndarray | None, seed: int, donors: Donors) -> _Candidate:
        """A candidate, judged on the canvas but not left there."""
        if crop is None:
            return _Candidate(np.empty(0), seed, Verdict(None, "generation gave no picture"), donors)
        with self.scene.canvas.trial(self.index, crop, self._matrix_of(crop)) as picture:
            verdict = gate.judge(picture, self.face, self.scene.originals[self.index])
        return _Candidate(crop, seed, verdict, donors)

    def _matrix_of(self, crop: np.ndarray) -> np.ndarray:
        """The face's crop matrix for a crop that may be finer than the generator's."""
        return resized(self.face.matrix, len(crop) / len(self.face.semantic_map))


def replace_faces(
    pipeline: FaceDeidPipeline, gate: Verifier, scenes: Sequence[Scene], options: Options, *, steady: bool = False
) -> list[dict[int, Replacement]]:
    """Put a verified face in each face's place on its canvas; those without one are left as opaque as they were.

    Each face gets one candidate first, many faces, of several scenes, in one batch. Where it fails verification, or
    passes but is more like the original than most strangers are, another one is generated, again for all such faces of
    the batch. The first that passes and is not so alike is taken; if all are, the one least alike.

    Args:
        pipeline: the generator.
        gate: the judge.
        scenes: the photos, their canvases and their faces.
        options: steps, batch_size, attempts, prompt and map_privacy are read.
        steady: whether the people will be shown in other pictures, too, with other expressions; with pseudonyms always.

    Returns:
        For each scene what became of its faces, by their index.

    Raises:
        DeidError: when the store of pseudonyms cannot be used.
    """
    results: list[dict[int, Replacement]] = [{} for _ in scenes]
    of_scene = {id(scene): result for scene, result in zip(scenes, results, strict=True)}
    places = [_Place(scene, index) for scene in scenes for index in scene.faces]
    for _, alike in groupby(places, key=lambda place: place.choice.named):  # one text for a batch
        for rows in _chunks(list(alike), options.batch_size):
            for place, made in zip(rows, _replace_rows(pipeline, gate, rows, options, steady), strict=True):
                of_scene[id(place.scene)][place.index] = made
    return results


def _replace_rows(
    pipeline: FaceDeidPipeline, gate: Verifier, rows: Sequence[_Place], options: Options, steady: bool
) -> list[Replacement]:
    """What became of the faces of one batch; if it fails, each photo's faces are tried apart from other photos'."""
    try:
        made = _choose(pipeline, gate, rows, options, steady)
    except DeidError:  # the store of pseudonyms cannot be used: no other face would fare better
        raise
    except Exception as error:  # whatever it was, the faces are covered and the record says why
        apart = [list(group) for _, group in groupby(rows, key=lambda place: id(place.scene))]
        if len(apart) == 1:
            return [place.failed(error) for place in rows]
        return [one for part in apart for one in _replace_rows(pipeline, gate, part, options, steady)]
    return [
        replacement if crop is None else place.put(crop, replacement)
        for place, (replacement, crop) in zip(rows, made, strict=True)
    ]


def _choose(
    pipeline: FaceDeidPipeline, gate: Verifier, rows: Sequence[_Place], options: Options, steady: bool
) -> list[tuple[Replacement, np.ndarray | None]]:
    """What becomes of each face, and the crop to paste."""
    conditions = read_conditions(
        pipeline,
        [place.scene.photo for place in rows],
        [place.scene.gone for place in rows],
        [place.face for place in rows],
        [place.choice for place in rows],
        options.map_privacy,
    )

    def seeds_of(wanted: Sequence[tuple[int, int]]) -> list[int]:
        return [rows[row].scene.seed_of(rows[row].index, attempt) for row, attempt in wanted]

    def judged(wanted: Sequence[tuple[int, int]], known: Sequence[Donors | None]) -> list[_Candidate]:
        """Judge candidates of (row, attempt) pairs, of a person each that is known or is drawn."""
        seeds, some = seeds_of(wanted), conditions.rows([row for row, _ in wanted])
        some = replace(some, people=tuple(known))
        attempts, lasting = [attempt for _, attempt in wanted], steady or options.pseudonyms is not None
        people = draw_people(pipeline, some, seeds, steady=lasting, attempts=attempts)
        crops = generate(pipeline, replace(some, people=tuple(people)), seeds, options)
        each = zip(wanted, crops, seeds, people, strict=True)
        return [rows[row].judged(gate, crop, seed, donors) for (row, _), crop, seed, donors in each]

    known = [place.scene.people.get(place.index) for place in rows]
    tried = [[candidate] for candidate in judged([(row, 0) for row in range(len(rows))], known)]
    for attempt in range(1, options.attempts):  # most faces need one candidate, few need them all
        again = [row for row, candidates in enumerate(tried) if _another(candidates, attempt, options, steady)]
        drawn = judged([(row, attempt) for row in again], [None] * len(again)) if again else []
        for candidate, row in zip(drawn, again, strict=True):
            tried[row].append(candidate)
    chosen = [_best(candidates) for candidates in tried]
    for row, best in enumerate(chosen):
        if best is None or known[row] is not None:
            continue
        settled = rows[row].scene.settle(rows[row].index, best.donors)
        if settled != best.donors:  # a photo of the same person came first: show whom that one shows
            (candidate,) = judged([(row, 0)], [settled])
            tried[row].append(candidate)
            chosen[row] = candidate if candidate.verdict.reason is None else best
    return [_replacement(candidates, best) for candidates, best in zip(tried, chosen, strict=True)]


def _best(candidates: Sequence[_Candidate]) -> _Candidate | None:
    """Choose the first candidate that passed and is not alike; if all are, the one least alike; None if none passed."""
    passed = [candidate for candidate in candidates if candidate.verdict.reason is None]
    unlike = [candidate for candidate in passed if not candidate.verdict.alike]
    return unlike[0] if unlike else min(passed, key=_last_choice, default=None)


def _replacement(candidates: Sequence[_Candidate], best: _Candidate | None) -> tuple[Replacement, np.ndarray | None]:
    """Say what became of a face, and return the crop to paste."""
    if best is None:
        last = candidates[-1].verdict
        return Replacement(last.reason, None, last.similarity, len(candidates)), None
    return Replacement(None, best.seed, best.verdict.similarity, len(candidates), best.donors), best.crop


def _another(candidates: Sequence[_Candidate], attempt: int, options: Options, steady: bool) -> bool:
    """Whether another candidate should be tried.

    One that passes but is alike is followed by a few others, or by all for a person who is shown in many frames, of
    which some will be more alike; a pseudonym's is not: the first that passes is the same in all photos.
    """
    if not any(candidate.verdict.reason is None for candidate in candidates):
        return True
    unlike = any(candidate.verdict.reason is None and not candidate.verdict.alike for candidate in candidates)
    return not unlike and options.pseudonyms is None and (steady or attempt < _ALIKE_ATTEMPTS)


def _last_choice(candidate: _Candidate) -> tuple[bool, float]:
    """Order candidates that all are alike: those that show a face first, then by similarity."""
    verdict = candidate.verdict
    return not verdict.seen, -1.0 if verdict.similarity is None else verdict.similarity


def _chunks(rows: Sequence[_Row], size: int) -> Iterable[Sequence[_Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
