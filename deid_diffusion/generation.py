"""From analysed faces and seeds to new face crops: the only place where the pipeline is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .attributes.choice import AttributeChoice
from .attributes.letting_through import let_through
from .attributes.vocabulary import YEARS
from .faces.analysis import FaceAnalysis
from .faces.appearance import Traits, draw_appearance
from .faces.blend import erase, match_rim, sharpen
from .faces.chosen_mesh import chosen_mesh
from .faces.controls import draw_control
from .faces.crop import enlarge, extract
from .faces.portrait import Portrait, carry_portrait
from .faces.reshape import reshape_mesh
from .faces.semantic_map import draw_semantic_map, mean_mesh
from .faces.skin_colour import SkinColour, keep_grey, match_skin, skin_colour

if TYPE_CHECKING:
    from .options import Options
    from .pipelines.face_deid import FaceDeidPipeline

_JOINING = 8  # the last of so many steps, at least, or so many parts of them, joins a portrait and the photo
_FINE, _WORTH = 2, 0.8  # finer painting, and crop pixels to one of the photo's under which it is worth its time
_SEX, _AGE = 1.5, 20.0  # how surely what is read of these is shown: factor of a word's distance, and of cosines
_LEAST_DETAIL = 0.01  # standard deviation in the mask, 0..1, under which a crop is no picture


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the generator gets of B faces, and all that it gets.

    Attributes:
        contexts: B crops of the photo, (S, S, 3) uint8, every masked pixel of every face erased.
        masks: B (S, S) bool, True where a crop is erased.
        meshes: B (478, 2) meshes in crop pixels, of the kept pose, gaze and expression only, from which semantic maps
            are drawn with other proportions.
        features: (B, N, D) attribute features of the original faces, of the kept attributes only, or None where the
            pipeline reads none.
        choices: B, what is kept and changed.
        skins: B, the colour of the original's skin where that is kept, else None.
        details: B, how many times as many pixels a side as the crops' what is painted gets, where the photo shows more
            than the generator can.
    """

    contexts: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    meshes: tuple[np.ndarray, ...]
    features: torch.Tensor | None
    choices: tuple[AttributeChoice, ...]
    skins: tuple[SkinColour | None, ...]
    details: tuple[int, ...]

    def rows(self, indices: Sequence[int]) -> Conditions:
        """The same of some of the faces, in any order, repeats allowed."""
        contexts, masks, meshes = (tuple(of[k] for k in indices) for of in (self.contexts, self.masks, self.meshes))
        choices, skins = tuple(self.choices[k] for k in indices), tuple(self.skins[k] for k in indices)
        details = tuple(self.details[k] for k in indices)
        features = None if self.features is None else self.features[list(indices)]
        return Conditions(contexts, masks, meshes, features, choices, skins, details)


def read_conditions(
    pipeline: FaceDeidPipeline,
    photos: Sequence[np.ndarray],
    gone: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeChoice],
    map_privacy: float = 0.0,
) -> Conditions:
    """The conditions of B faces.

    Args:
        pipeline: its image encoder reads the attributes.
        photos: the photo of each, (H, W, 3) uint8 RGB, the same object for faces of one photo; read by that encoder
            only.
        gone: (H, W) bool each, every pixel of the photo that the mask of any face touches.
        faces: B of them.
        choices: what is kept of each, and changed.
        map_privacy: how far the semantic maps go towards the mean face's, 0 to 1.
    """
    size = pipeline.crop_size
    of_photo = {id(photo): (photo, mask) for photo, mask in zip(photos, gone, strict=True)}
    of_photo = {key: (erase(photo, mask), mask.astype(np.float32)) for key, (photo, mask) in of_photo.items()}
    erased, is_fine = [of_photo[id(photo)] for photo in photos], pipeline.config.draws_features
    crops = [extract(photo, face.matrix, size) for photo, face in zip(photos, faces, strict=True)]
    return Conditions(
        tuple(extract(picture, face.matrix, size) for (picture, _), face in zip(erased, faces, strict=True)),
        tuple(extract(mask, face.matrix, size) > 1e-3 for (_, mask), face in zip(erased, faces, strict=True)),
        tuple(
            chosen_mesh(face.drawn, choice.keep, choice.change, map_privacy)
            for face, choice in zip(faces, choices, strict=True)
        ),
        read_attributes(pipeline, crops, faces, choices),
        tuple(choices),
        tuple(
            skin_colour(crop, face.semantic_map) if "skin" in choice.keep else None
            for crop, face, choice in zip(crops, faces, choices, strict=True)
        ),
        tuple(_FINE if is_fine and face.magnification < _WORTH else 1 for face in faces),
    )


def read_attributes(
    pipeline: FaceDeidPipeline,
    crops: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeChoice],
) -> torch.Tensor | None:
    """What B choices let through of B crops' attributes.

    Args:
        pipeline: whose encoders read them.
        crops: B (S, S, 3) uint8.
        faces: whose semantic maps say where in the crops which region is.
        choices: B of them.

    Returns:
        (B, N, D) features; None if the pipeline has none.
    """
    pixels = torch.stack([to_tensor(crop) for crop in crops])
    features = pipeline.encode_attributes(pixels, [face.semantic_map for face in faces], [face.drawn for face in faces])
    return None if features is None else let_through(pipeline, features, choices)


def generate(
    pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int], options: Options
) -> list[np.ndarray | None]:
    """New faces in one denoising run: `paint`, then `finish`."""
    return finish(pipeline, conditions, paint(pipeline, conditions, seeds, options), seeds)


def paint(pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int], options: Options) -> np.ndarray:
    """What the generator paints.

    Args:
        pipeline: the generator.
        conditions: of B faces.
        seeds: B of them; noise, proportions and looks come from nothing else. PyTorch draws noise on a CPU from the
            low 32 bits alone; proportions and looks are drawn from all of them.
        options: steps, prompt and pseudonyms are read. Pseudonyms are painted without guidance, which would pull them
            from what they share in all photos towards what each photo shows. A generator that is asked for the same
            person paints another one when the head turns, so, unless `finish` brings the features, a portrait from the
            seed alone is carried to each face, and the last eighth of the steps, or of eight, joins the two (as in
            SDEdit; Meng et al., ICLR 2022).

    Returns:
        (B, S, S, 3) float32 in 0..1.
    """
    size, kind, meshes = pipeline.crop_size, pipeline.config.control, _meshes(conditions, seeds)
    controls = [draw_control(mesh, size, kind, seed) for mesh, seed in zip(meshes, seeds, strict=True)]
    made = _paint(pipeline, conditions, controls, seeds, options)
    if options.pseudonyms is None or pipeline.config.draws_features:
        return made
    portraits = _paint_portraits(pipeline, seeds, options)
    start = [carry_portrait(one, *face) for one, *face in zip(portraits, made, meshes, strict=True)]
    return _paint(pipeline, conditions, controls, seeds, options, start)


def finish(
    pipeline: FaceDeidPipeline, conditions: Conditions, painted: Iterable[np.ndarray], seeds: Sequence[int]
) -> list[np.ndarray | None]:
    """Faces that fit the photo.

    Args:
        pipeline: the generator.
        conditions: of B faces.
        painted: by `paint`.
        seeds: B of them, of the features where those are drawn here.

    Returns:
        B crops, (S, S, 3) uint8, or larger by the conditions' details, their colours shifted to meet the photo's at the
        mask's rim; None for one that was painted as NaN or without any detail.
    """
    meshes = _meshes(conditions, seeds)
    people: list[Portrait | None] = [None] * len(seeds)
    if pipeline.config.draws_features:
        each = zip(read_traits(pipeline, conditions), meshes, seeds, strict=True)
        people = [draw_appearance(*one) for one in each]
    return [
        _finish(one, meshes[row], conditions.rows([row]), people[row], pipeline.config.default_sharpening)
        for row, one in enumerate(painted)
    ]


def _meshes(conditions: Conditions, seeds: Sequence[int]) -> list[np.ndarray]:
    """Each face's mesh with the proportions of its seed's person."""
    return [
        reshape_mesh(mesh, np.random.default_rng(seed)) for mesh, seed in zip(conditions.meshes, seeds, strict=True)
    ]


def _finish(
    crop: np.ndarray, mesh: np.ndarray, conditions: Conditions, portrait: Portrait | None, sharpening: float
) -> np.ndarray | None:
    """What comes of one painted face: a portrait's features, the skin's colour, a rim that fits."""
    context, mask = conditions.contexts[0], conditions.masks[0]
    skin, detail = conditions.skins[0], conditions.details[0]
    if not np.isfinite(crop).all() or crop[mask].std() < _LEAST_DETAIL:
        return None
    if detail > 1:
        crop, context, mask = (enlarge(one, detail) for one in (crop, context, mask))
        mesh = mesh * detail
    if skin is not None:
        crop = match_skin(crop, draw_semantic_map(mesh, len(crop)), mask, skin)
    if portrait is not None:
        crop = carry_portrait(portrait, crop, mesh)
    picture = sharpen(np.round(crop * 255).astype(np.uint8), sharpening)
    return match_rim(keep_grey(picture, context, mask), context, mask)


def read_traits(pipeline: FaceDeidPipeline, conditions: Conditions) -> list[Traits]:
    """What was kept, or asked for, of B faces' sex, age and skin, in numbers."""
    count = len(conditions.masks)
    if conditions.features is None or pipeline.attribute_adapter is None:
        return [Traits(skin=skin) for skin in conditions.skins]
    words, face = pipeline.subspace(), conditions.features[:, 0].float().cpu()
    centre = pipeline.attribute_adapter.centre[0].float().cpu()
    woman, man = (words.directions["gender"][words.words["gender"].index(one)].float() for one in ("woman", "man"))
    reach = float(pipeline.attribute_adapter.phrase_scale) * (man - woman).square().sum() / 2
    sexes = ((face - centre) @ (man - woman) / reach * _SEX).tanh()
    years = torch.tensor([float(YEARS[word]) for word in words.words["age"]])
    ages = words.scores(face, "age", _AGE) @ years
    return [Traits(float(sexes[k]), float(ages[k]), conditions.skins[k]) for k in range(count)]


def _paint(
    pipeline: FaceDeidPipeline,
    conditions: Conditions,
    controls: Sequence[np.ndarray],
    seeds: Sequence[int],
    options: Options,
    start: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """(B, S, S, 3) float32 in 0..1; from pure noise, or in the last steps from B painted faces of that form."""
    steps = options.steps or pipeline.config.default_steps
    return pipeline(
        image=torch.stack([to_tensor(context) for context in conditions.contexts]),
        mask_image=torch.stack([torch.from_numpy(mask)[None].float() for mask in conditions.masks]),
        control_image=torch.stack([to_tensor(control) for control in controls]),
        start_image=None if start is None else torch.from_numpy(np.stack(start)).permute(0, 3, 1, 2),
        strength=1.0 if start is None else 1 / _JOINING,
        attribute_features=conditions.features,
        attribute_names=tuple(dict.fromkeys(name for choice in conditions.choices for name in choice.named)),
        prompt=options.prompt,
        num_inference_steps=steps if start is None else max(_JOINING, steps),
        guidance_scale=None if options.pseudonyms is None else 1.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
        return_dict=False,
    )[0]


def _paint_portraits(pipeline: FaceDeidPipeline, seeds: Sequence[int], options: Options) -> list[Portrait]:
    """A portrait for each seed: nothing of any photo is seen, and nothing is kept."""
    size, count, kind = pipeline.crop_size, len(seeds), pipeline.config.control
    meshes = [reshape_mesh(mean_mesh(size), np.random.default_rng(seed)) for seed in seeds]
    controls = [draw_control(mesh, size, kind, seed) for mesh, seed in zip(meshes, seeds, strict=True)]
    nothing = Conditions(
        (np.zeros((size, size, 3), np.uint8),) * count,
        (np.ones((size, size), bool),) * count,
        tuple(meshes),
        None,
        (AttributeChoice((), {}),) * count,
        (None,) * count,
        (1,) * count,
    )
    return [Portrait(*each) for each in zip(_paint(pipeline, nothing, controls, seeds, options), meshes, strict=True)]


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255
