"""From analysed faces and seeds to new face crops: the only place where the pipeline is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch

from .attributes.selection import AttributeSelection, filter_features
from .errors import DeidError
from .faces.alignment import extract, resized
from .faces.analysis import FaceAnalysis
from .faces.compositing import Canvas, erase, fill_from_surroundings
from .faces.donors import attribute_costs, draw_donors, glasses_fit, show_teeth, shows_glasses, wears_glasses
from .faces.landmarks import measure
from .faces.lighting import FaceLight, select_light
from .faces.mesh_editing import neutralize_mesh, reshape_mesh
from .faces.rendering import Camera, keep_tint, light_texture, match_camera, read_camera, read_light, render_person
from .faces.semantic_map import draw_control
from .identity.verification import FaceReference, VerificationResult, Verifier
from .options import Options

if TYPE_CHECKING:
    from .models.identity_model import Donors
    from .pipelines.face_deid import FaceDeidPipeline


_MOST_DETAIL = 3  # times as many pixels a side as the generator's crop that a face is drawn with: a texel each, or two
_TURNED = 0.45  # `FaceMeasures.yaw` from which glasses, which have no depth on a mesh, are left out
_READ = 224  # side of the crop in which attributes and light are read, in pixels
_LEAST_DETAIL = 0.01  # standard deviation in the mask, 0..1, under which a crop is no picture


@dataclass(frozen=True, eq=False)
class GeneratorInputs:
    """What the generator gets of B faces, and all that it gets.

    Attributes:
        contexts: B crops of the photo, (S, S, 3) uint8, every masked pixel of every face erased. S is the pipeline's
            ``crop_size`` times a whole number, its detail.
        masks: B (S, S) bool, True where a crop is erased.
        grounds: B (S, S, 3) float32 RGB in 0..1, the crops with what is erased filled from its surroundings.
        meshes: B (478, 2) meshes in crop pixels of ``crop_size``, of the kept pose, gaze and expression only.
        features: (B, N, D) attribute features of the original faces, of the kept attributes only, or None where the
            pipeline reads none.
        choices: B, what is kept and changed.
        lights: B, the light to show the new faces in; 18 numbers each.
        cameras: B, sharpness of the originals; None where the light is not kept.
        people: B, who is shown, where that was chosen before.
    """

    contexts: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    grounds: tuple[np.ndarray, ...]
    meshes: tuple[np.ndarray, ...]
    features: torch.Tensor | None
    choices: tuple[AttributeSelection, ...]
    lights: tuple[FaceLight, ...]
    cameras: tuple[Camera | None, ...]
    people: tuple[Donors | None, ...]

    def rows(self, indices: Sequence[int]) -> GeneratorInputs:
        """Select some of the faces, in any order, repeats allowed."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "features"}
        features = None if self.features is None else self.features[list(indices)]
        return GeneratorInputs(
            features=features, **{name: tuple(part[k] for k in indices) for name, part in values.items()}
        )


def prepare_inputs(
    pipeline: FaceDeidPipeline,
    photos: Sequence[np.ndarray],
    gone: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeSelection],
    map_privacy: float = 0.0,
) -> GeneratorInputs:
    """Read the conditions of B faces.

    Args:
        pipeline: its image encoder reads the attributes.
        photos: the photo of each, (H, W, 3) uint8 RGB, the same object for faces of one photo.
        gone: (H, W) bool each, every pixel of the photo that the mask of any face touches.
        faces: B of them.
        choices: what is kept of each, and changed.
        map_privacy: how far the semantic maps go towards the mean face's, 0 to 1.
    """
    size = pipeline.crop_size
    by_photo = {id(photo): (photo, mask) for photo, mask in zip(photos, gone, strict=True)}
    erased = {key: (erase(photo, mask), mask.astype(np.float32)) for key, (photo, mask) in by_photo.items()}
    contexts, masks, meshes, lights, cameras, crops = [], [], [], [], [], []
    for photo, face, choice in zip(photos, faces, choices, strict=True):
        detail = int(np.clip(np.ceil(0.9 / face.magnification), 1, _MOST_DETAIL))
        matrix = resized(face.matrix, detail)
        picture, mask = erased[id(photo)]
        contexts.append(extract(picture, matrix, detail * size))
        masks.append(extract(mask, matrix, detail * size) > 1e-3)
        meshes.append(neutralize_mesh(face.drawn, choice.keep, choice.change, map_privacy))
        crop = extract(photo, resized(face.matrix, _READ / size), _READ)
        crops.append(crop)
        lights.append(select_light(read_light(crop, face.drawn * (_READ / size)), contexts[-1], masks[-1], choice))
        fine = extract(photo, matrix, detail * size)
        cameras.append(read_camera(fine, face.drawn * detail) if "light" in choice.keep else None)
    features = read_attributes(pipeline, crops, faces, choices)
    return GeneratorInputs(
        tuple(contexts),
        tuple(masks),
        tuple(
            fill_from_surroundings(context.astype(np.float32) / 255, mask)
            for context, mask in zip(contexts, masks, strict=True)
        ),
        tuple(meshes),
        features,
        tuple(choices),
        tuple(lights),
        tuple(cameras),
        (None,) * len(faces),
    )


def read_attributes(
    pipeline: FaceDeidPipeline,
    crops: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeSelection],
) -> torch.Tensor | None:
    """Read what B choices let through of B crops' attributes.

    Args:
        pipeline: whose encoders read them.
        crops: B (S, S, 3) uint8 of the faces' squares, of any one size.
        faces: whose semantic maps say where in the crops which region is.
        choices: B of them.

    Returns:
        (B, N, D) features; None if the pipeline has none.
    """
    pixels = torch.stack([to_tensor(crop) for crop in crops])
    meshes = [face.drawn * (len(crop) / len(face.semantic_map)) for face, crop in zip(faces, crops, strict=True)]
    features = pipeline.encode_attributes(pixels, [face.semantic_map for face in faces], meshes)
    return None if features is None else filter_features(pipeline, features, choices)


def generate(
    pipeline: FaceDeidPipeline, conditions: GeneratorInputs, seeds: Sequence[int], options: Options
) -> list[np.ndarray | None]:
    """Generate new faces.

    A new person is drawn for each seed and laid, in the photo's light, on the photo without the face; from there the
    last denoising steps start (SDEdit; Meng et al., ICLR 2022).

    Args:
        pipeline: the generator.
        conditions: of B faces.
        seeds: B of them; who is drawn and the noise come from nothing else.
        options: steps and prompt are read.

    Returns:
        B crops, (S, S, 3) uint8; None for one that came out as NaN or without any detail.
    """
    composites, meshes = compose(pipeline, conditions, seeds)
    pictures = denoise(pipeline, replace(conditions, meshes=tuple(meshes)), composites, seeds, options)
    crops: list[np.ndarray | None] = []
    for picture, context, mask in zip(pictures, conditions.contexts, conditions.masks, strict=True):
        usable = bool(np.isfinite(picture).all()) and float(picture[mask].std()) >= _LEAST_DETAIL
        crops.append(keep_tint(np.round(picture * 255).astype(np.uint8), context, mask) if usable else None)
    return crops


def draw_people(
    pipeline: FaceDeidPipeline,
    conditions: GeneratorInputs,
    seeds: Sequence[int],
    *,
    steady: bool = False,
    attempts: Sequence[int] = (),
) -> list[Donors]:
    """Draw the person of each seed, among those who fit what is kept of the face, unless one was chosen before.

    Args:
        pipeline: whose identity model holds the people.
        conditions: of B faces.
        seeds: B of them.
        steady: whether the people will be shown with other expressions, too, as a pseudonym's or a clip's.
        attempts: B numbers of candidates that came before, see `draw_donors`.
    """
    model, adapter, people = pipeline.identity_model, pipeline.attribute_adapter, []
    for row, seed in enumerate(seeds):
        shown, chosen = measure(conditions.meshes[row]), conditions.people[row]
        if chosen is not None:
            people.append(show_teeth(model, chosen, shown, seed))
            continue
        attempt = attempts[row] if attempts else 0
        choice, features = conditions.choices[row], None if conditions.features is None else conditions.features[row]
        subspace = None if features is None else pipeline.subspace(choice.phrases)
        nobody = torch.zeros(1) if features is None else torch.zeros_like(features)
        centre = nobody if adapter is None else adapter.centre
        costs = attribute_costs(model, features, centre, subspace, choice.named)
        glasses = (
            "glasses" in choice.named
            and features is not None
            and subspace is not None
            and abs(shown.yaw) < _TURNED
            and wears_glasses(model, features, centre, subspace)
            and ("glasses" in choice.change or glasses_fit(model, costs))
        )
        people.append(draw_donors(model, costs, shown, seed, glasses=glasses, steady=steady, attempt=attempt))
    return people


def compose(
    pipeline: FaceDeidPipeline, conditions: GeneratorInputs, seeds: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Lay each seed's person on the photo without the face.

    Args:
        pipeline: whose identity model holds the people.
        conditions: of B faces.
        seeds: B of them.

    Returns:
        B composites, (S, S, 3) float32 RGB in 0..1, and B meshes, (478, 2), of the new people's proportions in crop
        pixels of ``crop_size``.
    """
    size, model, composites, meshes = pipeline.crop_size, pipeline.identity_model, [], []
    for row, donors in enumerate(draw_people(pipeline, conditions, seeds)):
        context, mask, camera = conditions.contexts[row], conditions.masks[row], conditions.cameras[row]
        glasses = bool(shows_glasses(model)[donors.eyes])
        share = donors.emphasis / 100
        mesh = reshape_mesh(conditions.meshes[row], model.shape(donors), size, share=share, own_eyes=glasses)
        meshes.append(mesh)
        mesh = mesh * (len(context) / size)
        face = light_texture(model.texture(donors), conditions.lights[row])
        composite = render_person(face, mesh, conditions.grounds[row], mask)
        composites.append(composite if camera is None else match_camera(composite, mesh, mask, camera))
    return composites, meshes


def denoise(
    pipeline: FaceDeidPipeline,
    conditions: GeneratorInputs,
    composites: Sequence[np.ndarray],
    seeds: Sequence[int],
    options: Options,
) -> list[np.ndarray]:
    """Run the pipeline on B composites, those of one size in one batch; returns (S, S, 3) float32 in 0..1 each."""
    pictures: dict[int, np.ndarray] = {}
    for size in sorted({len(composite) for composite in composites}):
        indices = [k for k, composite in enumerate(composites) if len(composite) == size]
        rows = conditions.rows(indices)
        controls = [draw_control(mesh, pipeline.crop_size, pipeline.config.control) for mesh in rows.meshes]
        images = pipeline(
            image=torch.stack([to_tensor(context) for context in rows.contexts]),
            mask_image=torch.stack([torch.from_numpy(mask)[None].float() for mask in rows.masks]),
            control_image=torch.stack([to_tensor(control) for control in controls]),
            start_image=torch.from_numpy(np.stack([composites[k] for k in indices])).permute(0, 3, 1, 2),
            attribute_features=rows.features,
            attribute_names=tuple(dict.fromkeys(name for choice in rows.choices for name in choice.named)),
            prompt=options.prompt,
            num_inference_steps=options.num_inference_steps or pipeline.config.default_steps,
            generator=[torch.Generator("cpu").manual_seed(seeds[k]) for k in indices],
            output_type="np",
            return_dict=False,
        )[0]
        pictures.update(zip(indices, images, strict=True))
    return [pictures[k] for k in range(len(composites))]


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255


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
    verdict: VerificationResult
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
    originals: Mapping[int, FaceReference]
    choices: Mapping[int, AttributeSelection]
    seed_of: Callable[[int, int], int]
    people: Mapping[int, Donors] = field(default_factory=dict)
    settle: Callable[[int, Donors], Donors] = lambda index, donors: donors


class Replacer(Protocol):
    """Puts a verified face in each face's place on a scene's canvas, and leaves those without one opaque."""

    def __call__(
        self, pipeline: FaceDeidPipeline, verifier: Verifier, scene: Scene, options: Options
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
    def choice(self) -> AttributeSelection:
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

    def judged(self, verifier: Verifier, crop: np.ndarray | None, seed: int, donors: Donors) -> _Candidate:
        """A candidate, judged on the canvas but not left there."""
        if crop is None:
            return _Candidate(np.empty(0), seed, VerificationResult(None, "generation gave no picture"), donors)
        with self.scene.canvas.preview(self.index, crop, self._matrix_of(crop)) as picture:
            verdict = verifier.verify(picture, self.face, self.scene.originals[self.index])
        return _Candidate(crop, seed, verdict, donors)

    def _matrix_of(self, crop: np.ndarray) -> np.ndarray:
        """The face's crop matrix for a crop that may be finer than the generator's."""
        return resized(self.face.matrix, len(crop) / len(self.face.semantic_map))


def replace_faces(
    pipeline: FaceDeidPipeline, verifier: Verifier, scenes: Sequence[Scene], options: Options, *, steady: bool = False
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
            for place, made in zip(rows, _replace_rows(pipeline, verifier, rows, options, steady), strict=True):
                of_scene[id(place.scene)][place.index] = made
    return results


def _replace_rows(
    pipeline: FaceDeidPipeline, verifier: Verifier, rows: Sequence[_Place], options: Options, steady: bool
) -> list[Replacement]:
    """What became of the faces of one batch; if it fails, each photo's faces are tried apart from other photos'."""
    try:
        made = _choose(pipeline, verifier, rows, options, steady)
    except DeidError:  # the store of pseudonyms cannot be used: no other face would fare better
        raise
    except Exception as error:  # whatever it was, the faces are covered and the record says why
        apart = [list(group) for _, group in groupby(rows, key=lambda place: id(place.scene))]
        if len(apart) == 1:
            return [place.failed(error) for place in rows]
        return [one for part in apart for one in _replace_rows(pipeline, verifier, part, options, steady)]
    return [
        replacement if crop is None else place.put(crop, replacement)
        for place, (replacement, crop) in zip(rows, made, strict=True)
    ]


def _choose(
    pipeline: FaceDeidPipeline, verifier: Verifier, rows: Sequence[_Place], options: Options, steady: bool
) -> list[tuple[Replacement, np.ndarray | None]]:
    """What becomes of each face, and the crop to paste."""
    conditions = prepare_inputs(
        pipeline,
        [place.scene.photo for place in rows],
        [place.scene.gone for place in rows],
        [place.face for place in rows],
        [place.choice for place in rows],
        options.map_blend,
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
        return [rows[row].judged(verifier, crop, seed, donors) for (row, _), crop, seed, donors in each]

    known = [place.scene.people.get(place.index) for place in rows]
    tried = [[candidate] for candidate in judged([(row, 0) for row in range(len(rows))], known)]
    for attempt in range(1, options.num_candidates):  # most faces need one candidate, few need them all
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
    unlike = [candidate for candidate in passed if not candidate.verdict.ambiguous]
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
    unlike = any(candidate.verdict.reason is None and not candidate.verdict.ambiguous for candidate in candidates)
    return not unlike and options.pseudonyms is None and (steady or attempt < _ALIKE_ATTEMPTS)


def _last_choice(candidate: _Candidate) -> tuple[bool, float]:
    """Order candidates that all are alike: those that show a face first, then by similarity."""
    verdict = candidate.verdict
    return not verdict.seen, -1.0 if verdict.similarity is None else verdict.similarity


def _chunks(rows: Sequence[_Row], size: int) -> Iterable[Sequence[_Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))
