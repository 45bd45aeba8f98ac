"""Generate a face for each face of prepared images: inputs, donors, composite, denoising, verification, choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from .attributes.selection import AttributeSelection, filter_features
from .errors import DeidError
from .faces.alignment import extract, resized
from .faces.analysis import FaceAnalysis
from .faces.compositing import fill_from_surroundings
from .faces.donors import attribute_costs, draw_donors, glasses_fit, show_teeth, shows_glasses, wears_glasses
from .faces.face import Candidate, Face
from .faces.landmarks import measure
from .faces.lighting import FaceLight, select_light
from .faces.mesh_editing import neutralize_mesh, reshape_mesh
from .faces.rendering import (
    Camera,
    Teeth,
    keep_tint,
    light_texture,
    match_camera,
    match_mouth,
    read_camera,
    read_light,
    read_teeth,
    render_person,
)
from .faces.semantic_map import draw_control
from .identity.verification import VerificationResult, Verifier
from .options import Options

if TYPE_CHECKING:
    from .identity.assignment import Identity
    from .models.identity_model import Donors
    from .pipelines.face_deid import FaceDeidPipeline

_MAX_UPSCALING = 3  # times the generator's crop: a face is drawn with so many pixels a side at most
_MAX_YAW_WITH_GLASSES = 0.45  # `FaceMeasures.yaw`; glasses have no depth on a mesh
_READING_SIZE = 224  # side of the crop in which attributes and light are read, in pixels
_MIN_CONTRAST = 0.01  # standard deviation inside the mask, 0..1, of a crop that shows anything
_MAX_AMBIGUOUS_CANDIDATES = 3  # candidates that pass but are ambiguous, before the least similar is taken
NO_PICTURE = VerificationResult(None, "generation gave no picture")

StepCallback = Callable[[Any, int, Any, dict[str, Any]], "dict[str, Any] | None"]
"""``callback_on_step_end`` of diffusers: (pipeline, step, timestep, tensors) -> tensors, or None to leave them."""

_Item = TypeVar("_Item")


class CallbackError(BaseException):
    """Carries a callback's exception past the handlers that would only cover a face and go on."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@dataclass(frozen=True, eq=False)
class GeneratorInput:
    """Generator inputs of one face: all that generation sees of it.

    Attributes:
        context: (S, S, 3) uint8 crop of the photo, every masked pixel of every face erased. S is the pipeline's
            ``crop_size`` times a whole number.
        mask: (S, S) bool, True where the crop is erased.
        ground: (S, S, 3) float32 RGB in 0..1, the crop with what is erased filled from its surroundings.
        mesh: (478, 2) in crop pixels of ``crop_size``, of the kept pose, gaze and expression only.
        features: (N, D) attribute features, of the kept attributes only; None where the pipeline reads none.
        selection: attributes to keep and to change.
        light: in which the new face is shown.
        camera: sharpness of the original; None where light is not kept.
        teeth: of the original; None where its expression is not kept or its mouth is closed.
    """

    context: np.ndarray
    mask: np.ndarray
    ground: np.ndarray
    mesh: np.ndarray
    features: torch.Tensor | None
    selection: AttributeSelection
    light: FaceLight
    camera: Camera | None
    teeth: Teeth | None = None


def prepare_inputs(pipeline: FaceDeidPipeline, faces: Sequence[Face], map_blend: float = 0.0) -> list[GeneratorInput]:
    """Read what the generator sees of each face.

    Args:
        pipeline: its image encoder reads the attributes.
        faces: analysed, of images whose faces are masked.
        map_blend: how far meshes go towards the mean face's, 0 to 1.
    """
    size = pipeline.crop_size
    analyses = [face.geometry for face in faces]
    crops = [
        extract(face.image.photo, resized(analysis.matrix, _READING_SIZE / size), _READING_SIZE)
        for face, analysis in zip(faces, analyses, strict=True)
    ]
    features = read_attributes(pipeline, crops, analyses, [face.selection for face in faces])
    inputs = []
    for k, (face, analysis, crop) in enumerate(zip(faces, analyses, crops, strict=True)):
        selection = face.selection
        scale = int(np.clip(np.ceil(0.9 / analysis.magnification), 1, _MAX_UPSCALING))
        matrix = resized(analysis.matrix, scale)
        context = extract(face.image.erased, matrix, scale * size)
        mask = extract(face.image.erase_weights, matrix, scale * size) > 1e-3
        crop_mesh = analysis.map_mesh * (_READING_SIZE / size)
        light = read_light(crop, crop_mesh)
        keeps_expression = "expression" in selection.keep and "expression" not in selection.change
        camera = None
        if "light" in selection.keep:
            camera = read_camera(extract(face.image.photo, matrix, scale * size), analysis.map_mesh * scale)
        inputs.append(
            GeneratorInput(
                context=context,
                mask=mask,
                ground=fill_from_surroundings(context.astype(np.float32) / 255, mask),
                mesh=neutralize_mesh(analysis.map_mesh, selection.keep, selection.change, map_blend),
                features=None if features is None else features[k],
                selection=selection,
                light=select_light(light, context, mask, selection),
                camera=camera,
                teeth=read_teeth(crop, crop_mesh, light) if keeps_expression else None,
            )
        )
    return inputs


def read_attributes(
    pipeline: FaceDeidPipeline,
    crops: Sequence[np.ndarray],
    faces: Sequence[FaceAnalysis],
    selections: Sequence[AttributeSelection],
) -> torch.Tensor | None:
    """Read the selected attributes of B crops.

    Args:
        pipeline: whose encoders read them.
        crops: B (S, S, 3) uint8 of the faces' squares, of any one size.
        faces: whose semantic maps say where in the crops which region is.
        selections: B of them.

    Returns:
        (B, N, D) features; None if the pipeline has none.
    """
    pixels = torch.stack([to_tensor(crop) for crop in crops])
    meshes = [face.map_mesh * (len(crop) / len(face.semantic_map)) for face, crop in zip(faces, crops, strict=True)]
    features = pipeline.encode_attributes(pixels, [face.semantic_map for face in faces], meshes)
    return None if features is None else filter_features(pipeline, features, selections)


def generate(
    pipeline: FaceDeidPipeline,
    inputs: Sequence[GeneratorInput],
    donors: Sequence[Donors],
    seeds: Sequence[int],
    options: Options,
    callback_on_step_end: StepCallback | None = None,
) -> list[np.ndarray | None]:
    """Generate new faces.

    The donors' face is rendered, in the photo's light, on the photo without the face; from there the last denoising
    steps start (SDEdit; Meng et al., ICLR 2022).

    Args:
        pipeline: the generator.
        inputs: of B faces.
        donors: B of them.
        seeds: B of them, of the noise.
        options: num_inference_steps and prompt are read.
        callback_on_step_end: as in diffusers.

    Returns:
        B crops, (S, S, 3) uint8; None for one that came out as NaN or without any contrast.
    """
    composites, meshes = compose(pipeline, inputs, donors)
    reshaped = [replace(part, mesh=mesh) for part, mesh in zip(inputs, meshes, strict=True)]
    pictures = denoise(pipeline, reshaped, composites, seeds, options, callback_on_step_end)
    crops: list[np.ndarray | None] = []
    for picture, part in zip(pictures, inputs, strict=True):
        usable = bool(np.isfinite(picture).all()) and float(picture[part.mask].std()) >= _MIN_CONTRAST
        crop = np.round(picture * 255).astype(np.uint8) if usable else None
        crops.append(None if crop is None else keep_tint(crop, part.context, part.mask))
    return crops


def choose_donors(
    pipeline: FaceDeidPipeline,
    inputs: GeneratorInput,
    seed: int,
    known: Donors | None = None,
    *,
    steady: bool = False,
    attempt: int = 0,
) -> Donors:
    """Draw the donors of a seed, among those who fit what is kept of the face, unless they were chosen before.

    Args:
        pipeline: whose identity model holds the people.
        inputs: of the face.
        seed: of the draw.
        known: chosen before; only their teeth follow the expression.
        steady: whether they will be shown with other expressions, too, as a pseudonym's or a clip's.
        attempt: number of candidates that came before, see `draw_donors`.
    """
    model, adapter = pipeline.identity_model, pipeline.attribute_adapter
    expression, teeth = measure(inputs.mesh), None if inputs.teeth is None else inputs.teeth.brightness
    if known is not None:
        return show_teeth(model, known, expression, seed, teeth)
    selection, features = inputs.selection, inputs.features
    subspace = None if features is None else pipeline.subspace(selection.phrases)
    zeros = torch.zeros(1) if features is None else torch.zeros_like(features)
    centre = zeros if adapter is None else adapter.centre
    costs = attribute_costs(model, features, centre, subspace, selection.named)
    glasses = (
        "glasses" in selection.named
        and features is not None
        and subspace is not None
        and abs(expression.yaw) < _MAX_YAW_WITH_GLASSES
        and wears_glasses(model, features, centre, subspace)
        and ("glasses" in selection.change or glasses_fit(model, costs))
    )
    return draw_donors(model, costs, expression, seed, glasses=glasses, steady=steady, attempt=attempt, teeth=teeth)


def compose(
    pipeline: FaceDeidPipeline, inputs: Sequence[GeneratorInput], donors: Sequence[Donors]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Render each face's donors on the photo without the face.

    Returns:
        B composites, (S, S, 3) float32 RGB in 0..1, and B meshes, (478, 2), of the new faces' proportions in crop
        pixels of ``crop_size``.
    """
    size, model, composites, meshes = pipeline.crop_size, pipeline.identity_model, [], []
    for part, mixture in zip(inputs, donors, strict=True):
        glasses = bool(shows_glasses(model)[mixture.eyes])
        share = mixture.emphasis / 100
        mesh = reshape_mesh(part.mesh, model.shape(mixture), size, share=share, own_eyes=glasses)
        meshes.append(mesh)
        mesh = mesh * (len(part.context) / size)
        texture = model.texture(mixture)
        texture = texture if part.teeth is None else match_mouth(texture, part.teeth)
        composite = render_person(light_texture(texture, part.light), mesh, part.ground, part.mask, part.teeth)
        camera = part.camera
        composites.append(composite if camera is None else match_camera(composite, mesh, part.mask, camera))
    return composites, meshes


def denoise(
    pipeline: FaceDeidPipeline,
    inputs: Sequence[GeneratorInput],
    composites: Sequence[np.ndarray],
    seeds: Sequence[int],
    options: Options,
    callback_on_step_end: StepCallback | None = None,
) -> list[np.ndarray]:
    """Run the pipeline on B composites, those of one size in one batch; returns (S, S, 3) float32 in 0..1 each."""
    pictures: dict[int, np.ndarray] = {}
    for size in sorted({len(composite) for composite in composites}):
        indices = [k for k, composite in enumerate(composites) if len(composite) == size]
        batch = [inputs[k] for k in indices]
        features = [part.features for part in batch if part.features is not None]
        controls = [draw_control(part.mesh, pipeline.crop_size, pipeline.config.control) for part in batch]
        images = pipeline(
            image=torch.stack([to_tensor(part.context) for part in batch]),
            mask_image=torch.stack([torch.from_numpy(part.mask)[None].float() for part in batch]),
            control_image=torch.stack([to_tensor(control) for control in controls]),
            start_image=torch.from_numpy(np.stack([composites[k] for k in indices])).permute(0, 3, 1, 2),
            attribute_features=torch.stack(features) if features else None,
            attribute_names=tuple(dict.fromkeys(name for part in batch for name in part.selection.named)),
            prompt=options.prompt,
            num_inference_steps=options.num_inference_steps or pipeline.config.default_steps,
            generator=[torch.Generator("cpu").manual_seed(seeds[k]) for k in indices],
            output_type="np",
            return_dict=False,
            callback_on_step_end=callback_on_step_end,
        )[0]
        pictures.update(zip(indices, images, strict=True))
    return [pictures[k] for k in range(len(composites))]


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class _Run:
    """Arguments of one call of a `FaceGenerator`."""

    options: Options
    steady: bool
    callback: StepCallback | None


class FaceGenerator:
    """Generator of verified faces for the pending faces of prepared images; a face without one stays covered."""

    def __init__(self, pipeline: FaceDeidPipeline, verifier: Verifier) -> None:
        self.pipeline = pipeline
        self.verifier = verifier

    def __call__(
        self,
        faces: Iterable[Face],
        options: Options,
        *,
        steady: bool = False,
        callback_on_step_end: StepCallback | None = None,
    ) -> None:
        """Generate, verify and paste, in batches that faces of several images share.

        Each face gets one candidate first. Where it fails verification, or passes but is more similar to the original
        than most strangers are, another one is generated, again for all such faces of the batch. The first that passes
        and is not ambiguous is taken; if all are, the least similar.

        Args:
            faces: pending ones of prepared images.
            options: num_inference_steps, batch_size, num_candidates, prompt, map_blend and pseudonyms are read.
            steady: whether the faces will be shown in other images, too, with other expressions; with pseudonyms
                always.
            callback_on_step_end: as in diffusers, for each run of the pipeline; what it raises ends the call.

        Raises:
            DeidError: when the store of pseudonyms cannot be used.
        """
        run = _Run(options, steady, None if callback_on_step_end is None else _past_handlers(callback_on_step_end))
        try:
            for _, group in groupby(faces, key=lambda face: face.selection.named):  # one text for a batch
                for batch in chunks(list(group), options.batch_size):
                    self._replace(batch, run)
        except CallbackError as error:
            raise error.error from None

    def _replace(self, batch: Sequence[Face], run: _Run) -> None:
        """Replace the faces of one batch; if that fails, try each image's faces apart from other images'."""
        try:
            chosen = self._choose(batch, run)
        except DeidError:  # the store of pseudonyms cannot be used: no other face would fare better
            raise
        except Exception as error:  # whatever it was, the faces are covered and the record says why
            by_image = [list(group) for _, group in groupby(batch, key=lambda face: id(face.image))]
            if len(by_image) > 1:
                for part in by_image:
                    self._replace(part, run)
                return
            for face in batch:
                face.fail(error, "generation")
            return
        for face, candidate in zip(batch, chosen, strict=True):
            try:
                paste_or_cover(face, candidate)
            except Exception as error:
                face.fail(error, "generation")

    def _choose(self, batch: Sequence[Face], run: _Run) -> list[Candidate | None]:
        """Return the candidate to paste for each face; None where none passed."""
        pipeline, options = self.pipeline, run.options
        for face, inputs in zip(batch, prepare_inputs(pipeline, batch, options.map_blend), strict=True):
            face.inputs, face.candidates = inputs, []
        keyed = options.pseudonyms is not None

        def try_candidates(faces: Sequence[Face], attempt: int, known: Sequence[Donors | None]) -> list[Candidate]:
            inputs = [face.inputs for face in faces if face.inputs is not None]
            seeds = [_identity(face).seed(attempt) for face in faces]
            donors = [
                choose_donors(pipeline, part, seed, chosen, steady=run.steady or keyed, attempt=attempt)
                for part, seed, chosen in zip(inputs, seeds, known, strict=True)
            ]
            crops = generate(pipeline, inputs, donors, seeds, options, run.callback)
            candidates = [
                Candidate(crop, seed, mixture, face.verify(crop, self.verifier, NO_PICTURE))
                for face, crop, seed, mixture in zip(faces, crops, seeds, donors, strict=True)
            ]
            for face, candidate in zip(faces, candidates, strict=True):
                face.candidates.append(candidate)
            return candidates

        try_candidates(batch, 0, [_identity(face).donors for face in batch])
        for attempt in range(1, options.num_candidates):  # most faces need one candidate, few need them all
            again = [face for face in batch if _needs_another(face.candidates, attempt, keyed, run.steady)]
            if again:
                try_candidates(again, attempt, [None] * len(again))
        chosen = [best_candidate(face.candidates) for face in batch]
        for k, (face, best) in enumerate(zip(batch, chosen, strict=True)):
            if best is None or best.donors is None or _identity(face).donors is not None:
                continue
            settled = _identity(face).settle(best.donors)
            if settled != best.donors:  # another image of the same person was faster: show whom that one shows
                (candidate,) = try_candidates([face], 0, [settled])
                chosen[k] = candidate if candidate.result.reason is None else best
        return chosen


def paste_or_cover(face: Face, candidate: Candidate | None) -> None:
    """Paste the chosen candidate; without one, leave the face opaque for the reason of its last candidate."""
    if candidate is not None:
        face.paste(candidate)
    else:
        last = face.candidates[-1].result if face.candidates else NO_PICTURE
        face.finish("covered", last.reason)


def best_candidate(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the first candidate that passed and is not ambiguous, else the least similar; None if none passed."""
    passed = [candidate for candidate in candidates if candidate.result.reason is None]
    clear = [candidate for candidate in passed if not candidate.result.ambiguous]
    return clear[0] if clear else min(passed, key=_ambiguity, default=None)


def _ambiguity(candidate: Candidate) -> tuple[bool, float]:
    """Order ambiguous candidates: those that show a face first, then by similarity."""
    result = candidate.result
    return not result.detected, -1.0 if result.similarity is None else result.similarity


def _needs_another(candidates: Sequence[Candidate], attempt: int, keyed: bool, steady: bool) -> bool:
    """Return whether another candidate should be tried.

    One that passes but is ambiguous is followed by a few others, or by all for a face that is shown in many frames, in
    some of which it will be more similar; a pseudonym's is not: the first that passes is the same in all images.
    """
    passed = [candidate for candidate in candidates if candidate.result.reason is None]
    if not passed:
        return True
    clear = any(not candidate.result.ambiguous for candidate in passed)
    return not clear and not keyed and (steady or attempt < _MAX_AMBIGUOUS_CANDIDATES)


def _identity(face: Face) -> Identity:
    if face.identity is None:
        raise ValueError(f"face {face.index}: has no identity to be replaced by")
    return face.identity


def _past_handlers(callback: StepCallback) -> StepCallback:
    """Return the callback with its exceptions as `CallbackError`."""

    def call(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        try:
            return callback(pipeline, step, timestep, tensors) or tensors
        except Exception as error:
            raise CallbackError(error) from error

    return call


def chunks(items: Sequence[_Item], size: int) -> Iterable[Sequence[_Item]]:
    """Yield slices of at most ``size`` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
