"""From analysed faces and seeds to new face crops: the only place where the pipeline is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from .attributes.choice import AttributeChoice
from .attributes.letting_through import let_through
from .faces.analysis import FaceAnalysis
from .faces.blend import erase, match_rim, sharpen
from .faces.chosen_mesh import chosen_mesh
from .faces.crop import extract
from .faces.reshape import reshape_mesh
from .faces.semantic_map import control_image, draw_semantic_map

if TYPE_CHECKING:
    from .pipelines.face_deid import FaceDeidPipeline

_LOOKS = 0x27D4EB2F  # looks are drawn from other random numbers than the noise
_LEANING = 0.5  # length of the look that is added to a region's feature where there are no tokens for it
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
    """

    contexts: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    meshes: tuple[np.ndarray, ...]
    features: torch.Tensor | None
    choices: tuple[AttributeChoice, ...]

    def rows(self, indices: Sequence[int]) -> Conditions:
        """The same of some of the faces, in any order, repeats allowed."""
        contexts, masks, meshes = (tuple(of[k] for k in indices) for of in (self.contexts, self.masks, self.meshes))
        choices = tuple(self.choices[k] for k in indices)
        features = None if self.features is None else self.features[list(indices)]
        return Conditions(contexts, masks, meshes, features, choices)


def read_conditions(
    pipeline: FaceDeidPipeline,
    photo: np.ndarray,
    gone: np.ndarray,
    faces: Sequence[FaceAnalysis],
    choices: Sequence[AttributeChoice],
    map_privacy: float = 0.0,
) -> Conditions:
    """The conditions of B faces of a photo.

    Args:
        pipeline: its image encoder reads the attributes.
        photo: (H, W, 3) uint8 RGB; read by that encoder only.
        gone: (H, W) bool, every pixel that the mask of any face touches.
        faces: B faces of the photo.
        choices: what is kept of each, and changed.
        map_privacy: how far the semantic maps go towards the mean face's, 0 to 1.
    """
    size, erased = pipeline.crop_size, erase(photo, gone)
    return Conditions(
        tuple(extract(erased, face.matrix, size) for face in faces),
        tuple(extract(gone.astype(np.float32), face.matrix, size) > 1e-3 for face in faces),
        tuple(
            chosen_mesh(face.drawn, choice.keep, choice.change, map_privacy)
            for face, choice in zip(faces, choices, strict=True)
        ),
        read_attributes(pipeline, [extract(photo, face.matrix, size) for face in faces], faces, choices),
        tuple(choices),
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
    features = pipeline.encode_attributes(pixels, [face.semantic_map for face in faces])
    return None if features is None else let_through(pipeline, features, choices)


def generate(
    pipeline: FaceDeidPipeline,
    conditions: Conditions,
    seeds: Sequence[int],
    steps: int | None,
    prompt: str = "",
) -> list[np.ndarray | None]:
    """New faces in one denoising run.

    Args:
        pipeline: the generator.
        conditions: of B faces.
        seeds: B of them; noise, proportions and looks come from nothing else.
        steps: denoising steps, or None for the model's own number.
        prompt: text that steers all of them.

    Returns:
        B crops, (S, S, 3) uint8, their colours shifted to meet the photo's at the mask's rim; None for one that came
        out as NaN or without any detail.
    """
    size = pipeline.crop_size
    maps = [
        draw_semantic_map(reshape_mesh(mesh, np.random.default_rng(seed)), size)
        for mesh, seed in zip(conditions.meshes, seeds, strict=True)
    ]
    made = pipeline(
        image=torch.stack([to_tensor(context) for context in conditions.contexts]),
        mask_image=torch.stack([torch.from_numpy(mask)[None].float() for mask in conditions.masks]),
        control_image=torch.stack([to_tensor(control_image(labels)) for labels in maps]),
        attribute_features=conditions.features if pipeline.look_dim else _leaning(conditions.features, seeds),
        looks=draw_looks(seeds, pipeline.look_dim),
        attribute_names=tuple(dict.fromkeys(name for choice in conditions.choices for name in choice.named)),
        prompt=prompt,
        num_inference_steps=steps,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
        return_dict=False,
    )[0]
    results: list[np.ndarray | None] = []
    for crop, context, mask in zip(made, conditions.contexts, conditions.masks, strict=True):
        if not np.isfinite(crop).all() or crop[mask].std() < _LEAST_DETAIL:
            results.append(None)
            continue
        picture = sharpen(np.round(crop * 255).astype(np.uint8), pipeline.config.default_sharpening)
        results.append(match_rim(picture, context, mask))
    return results


def draw_looks(seeds: Sequence[int], length: int) -> torch.Tensor | None:
    """(B, length) standard normal looks, each from its seed alone: a pseudonym's is the same in every photo.

    None where the pipeline's adapter knows no looks, of length 0.
    """
    if not length:
        return None
    return torch.stack([torch.randn(length, generator=torch.Generator().manual_seed(seed ^ _LOOKS)) for seed in seeds])


def _leaning(features: torch.Tensor | None, seeds: Sequence[int]) -> torch.Tensor | None:
    """(B, N, D) features whose regions, all rows but the whole face's, lean towards a look that the seed draws.

    For an adapter that knows no looks: what is kept then differs a little from person to person, and by the seed alone.
    """
    if features is None:
        return None
    looks = [torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    leaning = torch.stack([_LEANING * F.normalize(look, dim=-1) for look in looks]).to(features)
    leaning[:, 0] = 0
    return F.normalize(features + leaning, dim=-1)


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255
