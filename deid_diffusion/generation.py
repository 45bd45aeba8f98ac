"""From analysed faces and seeds to new face crops: the only place where the pipeline is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .attributes.choice import AttributeChoice
from .attributes.letting_through import let_through
from .faces.analysis import FaceAnalysis
from .faces.blend import erase
from .faces.chosen_mesh import chosen_mesh
from .faces.controls import draw_control
from .faces.crop import extract, resized
from .faces.donors import attribute_costs, draw_donors, glasses_fit, show_teeth, shows_glasses, wears_glasses
from .faces.inpainting import fill_from_surroundings
from .faces.lighting import FaceLight, chosen_light
from .faces.measures import measure
from .faces.rendering import (
    Camera,
    keep_tint,
    light_texture,
    match_camera,
    read_camera,
    read_light,
    render_person,
)
from .faces.reshaping import reshape_mesh

if TYPE_CHECKING:
    from .models.identity_model import Donors
    from .options import Options
    from .pipelines.face_deid import FaceDeidPipeline

_MOST_DETAIL = 3  # times as many pixels a side as the generator's crop that a face is drawn with: a texel each, or two
_TURNED = 0.45  # `FaceMeasures.yaw` from which glasses, which have no depth on a mesh, are left out
_READ = 224  # side of the crop in which attributes and light are read, in pixels
_LEAST_DETAIL = 0.01  # standard deviation in the mask, 0..1, under which a crop is no picture


@dataclass(frozen=True, eq=False)
class Conditions:
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
    choices: tuple[AttributeChoice, ...]
    lights: tuple[FaceLight, ...]
    cameras: tuple[Camera | None, ...]
    people: tuple[Donors | None, ...]

    def rows(self, indices: Sequence[int]) -> Conditions:
        """Select some of the faces, in any order, repeats allowed."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "features"}
        features = None if self.features is None else self.features[list(indices)]
        return Conditions(features=features, **{name: tuple(part[k] for k in indices) for name, part in values.items()})


def read_conditions(
    pipeline: FaceDeidPipeline,
    photos: Sequence[np.ndarray],
    gone: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeChoice],
    map_privacy: float = 0.0,
) -> Conditions:
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
        meshes.append(chosen_mesh(face.drawn, choice.keep, choice.change, map_privacy))
        crop = extract(photo, resized(face.matrix, _READ / size), _READ)
        crops.append(crop)
        lights.append(chosen_light(read_light(crop, face.drawn * (_READ / size)), contexts[-1], masks[-1], choice))
        fine = extract(photo, matrix, detail * size)
        cameras.append(read_camera(fine, face.drawn * detail) if "light" in choice.keep else None)
    features = read_attributes(pipeline, crops, faces, choices)
    return Conditions(
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
    choices: Sequence[AttributeChoice],
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
    return None if features is None else let_through(pipeline, features, choices)


def generate(
    pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int], options: Options
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
    conditions: Conditions,
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
    pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int]
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
    conditions: Conditions,
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
            num_inference_steps=options.steps or pipeline.config.default_steps,
            generator=[torch.Generator("cpu").manual_seed(seeds[k]) for k in indices],
            output_type="np",
            return_dict=False,
        )[0]
        pictures.update(zip(indices, images, strict=True))
    return [pictures[k] for k in range(len(composites))]


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255
