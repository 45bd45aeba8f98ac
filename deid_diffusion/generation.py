"""From analysed faces and seeds to new face crops: the only place where the pipeline is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from .faces.analysis import FaceAnalysis
from .faces.blend import erase, match_rim, sharpen
from .faces.crop import extract
from .faces.reshape import reshape_mesh
from .faces.semantic_map import control_image, draw_semantic_map

if TYPE_CHECKING:
    from .pipelines.face_deid import FaceDeidPipeline

_LEANING = 0.5  # length of the look that is added to a region's unit feature
_LEAST_DETAIL = 0.01  # standard deviation in the mask, 0..1, under which a crop is no picture


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the generator gets of B faces, and all that it gets.

    Attributes:
        contexts: B crops of the photo, (S, S, 3) uint8, every masked pixel of every face erased.
        masks: B (S, S) bool, True where a crop is erased.
        meshes: B (478, 2) meshes in crop pixels, from which semantic maps are drawn with other proportions.
        features: (B, N, D) attribute features of the original faces, or None where the pipeline reads none.
    """

    contexts: tuple[np.ndarray, ...]
    masks: tuple[np.ndarray, ...]
    meshes: tuple[np.ndarray, ...]
    features: torch.Tensor | None

    def rows(self, indices: Sequence[int]) -> Conditions:
        """The same of some of the faces, in any order, repeats allowed."""
        contexts, masks, meshes = (tuple(of[k] for k in indices) for of in (self.contexts, self.masks, self.meshes))
        return Conditions(contexts, masks, meshes, None if self.features is None else self.features[list(indices)])


def read_conditions(
    pipeline: FaceDeidPipeline, photo: np.ndarray, gone: np.ndarray, faces: Sequence[FaceAnalysis]
) -> Conditions:
    """The conditions of B faces of a photo.

    Args:
        pipeline: its image encoder reads the attributes.
        photo: (H, W, 3) uint8 RGB; read by that encoder only.
        gone: (H, W) bool, every pixel that the mask of any face touches.
        faces: B faces of the photo.
    """
    size, erased = pipeline.crop_size, erase(photo, gone)
    return Conditions(
        tuple(extract(erased, face.matrix, size) for face in faces),
        tuple(extract(gone.astype(np.float32), face.matrix, size) > 1e-3 for face in faces),
        tuple(face.drawn for face in faces),
        read_attributes(pipeline, [extract(photo, face.matrix, size) for face in faces], faces),
    )


def read_attributes(
    pipeline: FaceDeidPipeline, crops: Sequence[np.ndarray], faces: Sequence[FaceAnalysis]
) -> torch.Tensor | None:
    """(B, N, D) attribute features of B crops, (S, S, 3) uint8, by B faces' maps; None if the pipeline has none."""
    return pipeline.encode_attributes(torch.stack([_to_tensor(c) for c in crops]), [f.semantic_map for f in faces])


def generate(
    pipeline: FaceDeidPipeline, conditions: Conditions, seeds: Sequence[int], steps: int | None
) -> list[np.ndarray | None]:
    """New faces in one denoising run.

    Args:
        pipeline: the generator.
        conditions: of B faces.
        seeds: B of them; noise and proportions come from nothing else.
        steps: denoising steps, or None for the model's own number.

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
        image=torch.stack([_to_tensor(context) for context in conditions.contexts]),
        mask_image=torch.stack([torch.from_numpy(mask)[None].float() for mask in conditions.masks]),
        control_image=torch.stack([_to_tensor(control_image(labels)) for labels in maps]),
        attribute_features=None if conditions.features is None else _with_looks(conditions.features, seeds),
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


def _with_looks(features: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
    """(B, N, D) unit features whose regions, all rows but the whole face's, lean towards a look that the seed draws.

    So what the tokens tell of the original's person is less, and what they tell of the pseudonym's is the same in every
    photo.
    """
    looks = [torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    leaning = torch.stack([_LEANING * F.normalize(look, dim=-1) for look in looks]).to(features)
    leaning[:, 0] = 0
    return F.normalize(features + leaning, dim=-1)


def _to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255
