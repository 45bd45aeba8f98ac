"""Candidates are generated and judged until one passes the gate and is pasted, or the face stays covered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .attributes.choice import AttributeChoice
from .faces.analysis import FaceAnalysis
from .faces.blend import Canvas
from .generation import Conditions, generate, read_attributes, read_conditions
from .identity.verify import Reference, Verdict, Verifier
from .options import Options

if TYPE_CHECKING:
    from .pipelines.face_deid import FaceDeidPipeline


@dataclass(frozen=True)
class Replacement:
    """What became of one face.

    Attributes:
        reason: why the face is covered; None if a candidate passed and stands in the picture.
        seed: of that candidate.
        similarity: cosine of its embedding and the original's; of the last one judged if none passed.
        attempts: candidates that were judged.
    """

    reason: str | None
    seed: int | None = None
    similarity: float | None = None
    attempts: int = 0


@dataclass(frozen=True, eq=False)
class _Candidate:
    crop: np.ndarray
    seed: int
    verdict: Verdict


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
    """

    photo: np.ndarray
    canvas: Canvas
    gone: np.ndarray
    faces: Mapping[int, FaceAnalysis]
    originals: Mapping[int, Reference]
    choices: Mapping[int, AttributeChoice]


class Replacer(Protocol):
    """Anything that does what `replace_faces` does, which is the replacer of single photos."""

    def __call__(
        self,
        pipeline: FaceDeidPipeline,
        gate: Verifier,
        scene: Scene,
        seed_of: Callable[[int, int], int],
        options: Options,
    ) -> dict[int, Replacement]:
        """Put a verified face in each face's place on the scene's canvas, and leave those without one opaque."""
        ...


def replace_faces(
    pipeline: FaceDeidPipeline, gate: Verifier, scene: Scene, seed_of: Callable[[int, int], int], options: Options
) -> dict[int, Replacement]:
    """Put a verified face in each face's place on the canvas; those without one are left as opaque as they were.

    Each face gets one candidate first, many faces in one batch. For those that fail the gate, all further candidates
    are generated as one batch; of those that pass, the one that keeps the original's attributes best is taken.

    Args:
        pipeline: the generator.
        gate: the judge.
        scene: the photo, its canvas and its faces.
        seed_of: the seed of a face's candidate: (index, attempt) -> 0 to 2**63 - 1.
        options: steps, batch_size, attempts, prompt and map_privacy are read.
    """
    results: dict[int, Replacement] = {}
    for rows in _chunks(list(scene.faces), options.batch_size):
        try:
            results |= _replace_batch(pipeline, gate, scene, rows, seed_of, options)
        except Exception as error:  # whatever it was, the faces are covered and the record says why
            for k in rows:
                scene.canvas.cover(k)
                results[k] = Replacement(f"generation failed: {type(error).__name__}")
    return results


def _replace_batch(
    pipeline: FaceDeidPipeline,
    gate: Verifier,
    scene: Scene,
    rows: Sequence[int],
    seed_of: Callable[[int, int], int],
    options: Options,
) -> dict[int, Replacement]:
    canvas, faces, originals = scene.canvas, scene.faces, scene.originals
    choices = [scene.choices[k] for k in rows]
    conditions = read_conditions(
        pipeline, scene.photo, scene.gone, [faces[k] for k in rows], choices, options.map_privacy
    )

    def candidates(places: Sequence[int], seeds: Sequence[int]) -> list[_Candidate]:
        """One candidate for each of some places in ``rows``, judged on the canvas but not left there."""
        made = _generate_all(pipeline, conditions.rows(places), seeds, options)
        found = []
        for place, crop, seed in zip(places, made, seeds, strict=True):
            k = rows[place]
            if crop is None:
                found.append(_Candidate(np.empty(0), seed, Verdict(None, "generation gave no picture")))
                continue
            with canvas.trial(k, crop, faces[k].matrix) as picture:
                found.append(_Candidate(crop, seed, gate.judge(picture, faces[k], originals[k])))
        return found

    results: dict[int, Replacement] = {}
    first = candidates(range(len(rows)), [seed_of(k, 0) for k in rows])
    for place, (k, candidate) in enumerate(zip(rows, first, strict=True)):
        tried = [candidate]
        if candidate.verdict.reason is not None and options.attempts > 1:
            more = range(1, options.attempts)
            tried += candidates([place] * len(more), [seed_of(k, attempt) for attempt in more])
        passed = [one for one in tried if one.verdict.reason is None]
        if not passed:
            last = tried[-1].verdict
            results[k] = Replacement(last.reason, None, last.similarity, len(tried))
            continue
        best = passed[0] if len(passed) == 1 else _most_alike(pipeline, passed, faces[k], conditions.rows([place]))
        canvas.paste(k, best.crop, faces[k].matrix)
        results[k] = Replacement(None, best.seed, best.verdict.similarity, len(tried))
    return results


def _generate_all(
    pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int], options: Options
) -> list[np.ndarray | None]:
    """As `generate`, in batches of the wished size."""
    made: list[np.ndarray | None] = []
    for rows in _chunks(range(len(seeds)), options.batch_size):
        made += generate(pipeline, conditions.rows(rows), [seeds[k] for k in rows], options)
    return made


def _most_alike(
    pipeline: FaceDeidPipeline, passed: Sequence[_Candidate], face: FaceAnalysis, conditions: Conditions
) -> _Candidate:
    """The candidate whose attribute features are nearest to what was kept of the original's, and to what was asked."""
    told = AttributeChoice(conditions.choices[0].named)
    features = read_attributes(pipeline, [one.crop for one in passed], [face] * len(passed), [told] * len(passed))
    if features is None or conditions.features is None:
        return passed[0]
    distance = (features - conditions.features.to(features)).flatten(1).norm(dim=1)
    return passed[int(distance.argmin())]


def _chunks(rows: Sequence[int], size: int) -> Iterable[list[int]]:
    return (list(rows[start : start + size]) for start in range(0, len(rows), size))
