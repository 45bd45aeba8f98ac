"""ComfyUI nodes. The pack's folder `comfyui` exports `comfy_entrypoint`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, get_args

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io

from ..attributes.selection import AttributeSelection, make_selection, parse_change, parse_keep
from ..evaluation.inspection import draw_faces
from ..faces.finalization import AnonymizedImage
from ..faces.semantic_map import CONTROLS, control_image
from ..options import Method, Options, option_schema
from . import runtime
from .conditioning import LoadedAdapter, append_tokens, clip_features, encoder_features, make_tokens
from .faces import (
    DetectedFaces,
    FaceCrops,
    Proportions,
    crop_faces,
    find_faces,
    photo_map,
    shared_detector,
    shared_verifier,
    stitch,
)
from .runtime import changed, record_lines, to_image, to_mask, to_photos

Adapter = io.Custom("DEID_ADAPTER")


def selection_inputs() -> list[Any]:
    """Return the inputs that select attributes in words."""
    return [
        io.String.Input(
            "keep",
            default="all",
            tooltip=f"{option_schema('keep')['description']} all: every built-in name.",
        ),
        io.String.Input(
            "change",
            default="",
            placeholder="age=70, gender=woman",
            tooltip=f"{option_schema('change')['description']} Separate them by commas.",
        ),
    ]


def read_selection(keep: str, change: str) -> AttributeSelection:
    """Parse the values of `selection_inputs`. Raises UsageError."""
    return make_selection(parse_keep([keep]), parse_change([part for part in change.split(",") if part.strip()]))


class LoadAttributeAdapter(io.ComfyNode):
    """Node that loads an attribute adapter."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidLoadAttributeAdapter",
            display_name="Load Attribute Adapter",
            category=CATEGORY,
            description="Load the attribute adapter of a model in models/attribute_adapters or models/deid_diffusion.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=runtime.list_models("attribute_adapters"),
                    tooltip="A folder as FaceDeidPipeline.save_pretrained and training write it. The built-in model's "
                    "adapter fits no checkpoint that ComfyUI loads; it serves tests.",
                )
            ],
            outputs=[Adapter.Output("adapter", display_name="adapter", tooltip="For Apply Attributes.")],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> Any:
        return io.NodeOutput(LoadedAdapter(runtime.model_folder("attribute_adapters", adapter_name)))


class ApplyAttributes(io.ComfyNode):
    """Node that appends attribute tokens to conditionings."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidApplyAttributes",
            display_name="Apply Attributes",
            category=CATEGORY,
            description="Append a few tokens of each original face's kept attributes to the text conditioning, for any "
            "sampler, LoRA and ControlNet. Everything they carry of a face has passed the adapter's bottleneck.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="One text for all face crops, or one each."),
                io.Conditioning.Input("negative", tooltip="Gets as many null tokens."),
                Adapter.Input("adapter", tooltip="From Load Attribute Adapter, trained for this checkpoint."),
                Crops.Input("crops", tooltip="From Crop Faces."),
                *selection_inputs(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="CLIP Vision Encode of Crop Faces' original_image, for adapters trained with CLIP. Without "
                    "it the adapter's own small encoder reads the faces.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The model that made clip_vision_output: the regions' features need its last layer. "
                    "Without it only the attributes of the whole face are read.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive"),
                io.Conditioning.Output("negative_out", display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        adapter: LoadedAdapter,
        crops: FaceCrops,
        keep: str,
        change: str,
        clip_vision_output: Any = None,
        clip_vision: Any = None,
    ) -> Any:
        selection = read_selection(keep, change)
        if not crops.faces:
            return io.NodeOutput(positive, negative)
        if clip_vision_output is None:
            features = encoder_features(adapter, crops)
        else:
            features = clip_features(adapter, crops, clip_vision_output, _network(clip_vision))
        tokens, null_tokens = make_tokens(adapter, features, selection)
        return io.NodeOutput(
            append_tokens(positive, tokens, "positive"), append_tokens(negative, null_tokens, "negative")
        )


def _network(clip_vision: Any) -> Any:
    """Return ComfyUI's CLIP vision model, on its device."""
    if clip_vision is None:
        return None
    comfy.model_management.load_models_gpu([clip_vision.patcher])
    return clip_vision.model


CATEGORY = "deid-diffusion"
LARGEST_SEED = 2**53 - 1  # the largest number that a browser keeps exactly
Faces = io.Custom("DEID_FACES")
Crops = io.Custom("DEID_CROPS")

_SEED_TIP = "-1: fresh randomness, unlinkable. Any other number is repeatable, and makes its results linkable."
_PROPORTIONS_TIP = (
    "Whose distances between eyes, brows, nose and mouth the map shows. The photo's own identify the person; "
    "expression, pose and gaze are kept in both."
)


def seed_input() -> Any:
    """Return the seed input: -1 for none."""
    # without control_after_generate=False, ComfyUI draws another number after each run
    return io.Int.Input("seed", default=-1, min=-1, max=LARGEST_SEED, control_after_generate=False, tooltip=_SEED_TIP)


def seed_of(value: int) -> int | None:
    """Parse the value of `seed_input`."""
    return None if value < 0 else value


def _proportions_input() -> Any:
    options = list(get_args(Proportions))
    return io.Combo.Input("proportions", options=options, default=options[0], tooltip=_PROPORTIONS_TIP)


class DetectFaces(io.ComfyNode):
    """Node that detects faces."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidDetectFaces",
            display_name="Detect Faces",
            category=CATEGORY,
            description="Detect every face of every image, of any size and roll, and fit a 478-point mesh to each.",
            inputs=[io.Image.Input("image", tooltip="Photos; a batch is searched one by one.")],
            outputs=[
                Faces.Output("faces", display_name="faces", tooltip="For the other nodes of this pack."),
                io.Image.Output("drawn", display_name="drawn", tooltip="The photos with boxes and meshes drawn in."),
                io.Int.Output("count", display_name="count", tooltip="Faces in the batch."),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> Any:
        photos = to_photos(image)
        detected = find_faces(photos)
        drawn = [draw_faces(photo, faces) for photo, faces in zip(photos, detected.faces, strict=True)]
        return io.NodeOutput(detected, to_image(drawn), sum(map(len, detected.faces)))


class FaceSemanticMap(io.ComfyNode):
    """Node that draws semantic maps of photos."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidFaceSemanticMap",
            display_name="Face Semantic Map",
            category=CATEGORY,
            description="Label every pixel of every face by its part: CelebAMask-HQ's classes, and the iris.",
            inputs=[
                io.Image.Input("image", tooltip="The photos that Detect Faces got."),
                Faces.Input("faces", tooltip="From Detect Faces."),
                _proportions_input(),
                seed_input(),
            ],
            outputs=[
                io.Image.Output(
                    "control_image", display_name="control_image", tooltip="The map in colours, for a ControlNet."
                ),
                io.Mask.Output(
                    "mask", display_name="mask", tooltip="Where the faces would be replaced, with a soft rim."
                ),
                io.Image.Output(
                    "label_map",
                    display_name="label_map",
                    tooltip="The class numbers as grey values, of 255: a saved 8-bit picture holds the numbers.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, faces: DetectedFaces, proportions: Proportions, seed: int) -> Any:
        photos, shape = faces.of(to_photos(image)), faces.shape
        maps = [photo_map(analyses, shape, proportions, seed_of(seed)) for analyses in photos]
        empty = np.zeros(shape, np.float32)
        masks = [np.max([empty, *(face.mask.full() for face in analyses)], axis=0) for analyses in photos]
        grey = [np.repeat(labels[..., None], 3, axis=2) for labels in maps]
        return io.NodeOutput(to_image([control_image(labels) for labels in maps]), to_mask(masks), to_image(grey))


class CropFaces(io.ComfyNode):
    """Node that crops faces."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidCropFaces",
            display_name="Crop Faces",
            category=CATEGORY,
            description="Crop every face as an aligned square, erased, with its map and mask, as one batch for a "
            "generator. Without any face the batch is one grey square, which Stitch Faces ignores.",
            inputs=[
                io.Image.Input("image", tooltip="The photos that Detect Faces got."),
                Faces.Input("faces", tooltip="From Detect Faces."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the squares, in pixels: the checkpoint's size.",
                ),
                io.Combo.Input(
                    "control",
                    options=list(CONTROLS),
                    default=CONTROLS[0],
                    tooltip="What the ControlNet was trained with: our semantic map, or the lines of CrucibleAI's "
                    "ControlNetMediaPipeFace.",
                ),
                _proportions_input(),
                seed_input(),
            ],
            outputs=[
                Crops.Output("crops", display_name="crops", tooltip="For Stitch Faces and Apply Attributes."),
                io.Image.Output("erased_image", display_name="erased_image", tooltip="The squares without the faces."),
                io.Image.Output("control_image", display_name="control_image", tooltip="Their maps, for a ControlNet."),
                io.Mask.Output("mask", display_name="mask", tooltip="What is erased in them."),
                io.Image.Output(
                    "original_image",
                    display_name="original_image",
                    tooltip="The squares with the faces still in: for CLIP Vision Encode, never for a VAE.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, faces: DetectedFaces, size: int, control: str, proportions: Proportions, seed: int
    ) -> Any:
        crops = crop_faces(to_photos(image), faces, size)
        if not crops.faces:
            blank, nothing = to_image([crops.blank()]), np.zeros((size, size), np.float32)
            return io.NodeOutput(crops, blank, torch.zeros_like(blank), to_mask([nothing]), blank)
        maps = crops.control_images(control, proportions, seed_of(seed))
        pictures = (to_image(crops.erased()), to_image(maps), to_mask(crops.masks()), to_image(crops.originals()))
        return io.NodeOutput(crops, *pictures)


def _result_outputs() -> list[Any]:
    """Return the outputs of the nodes that replace faces."""
    return [
        io.Image.Output("photos", display_name="image", tooltip="The photos with new or covered faces."),
        io.Mask.Output("mask", display_name="mask", tooltip="1 where a pixel differs from the photo."),
        io.String.Output("record", display_name="record", tooltip="The action on each face: one JSON line per photo."),
    ]


def _result(photos: Sequence[np.ndarray], results: Sequence[AnonymizedImage], **details: Any) -> Any:
    """Return the values of `_result_outputs`; the details are those of `record_lines`."""
    pictures = [np.asarray(result.image) for result in results]
    masks = [changed(photo, picture) for photo, picture in zip(photos, pictures, strict=True)]
    return io.NodeOutput(to_image(pictures), to_mask(masks), record_lines(results, **details))


class StitchFaces(io.ComfyNode):
    """Node that stitches generated faces into the photos."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidStitchFaces",
            display_name="Stitch Faces",
            category=CATEGORY,
            description="Put generated faces in the places of the originals. Each is verified by a recogniser first: "
            "if it is too similar, shows no face or is misplaced, the face is covered. No original face stays.",
            inputs=[
                Crops.Input("crops", tooltip="From Crop Faces."),
                io.Image.Input("image", tooltip="Generated from its erased_image: all of them, in order, of any size."),
            ],
            outputs=_result_outputs(),
        )

    @classmethod
    def execute(cls, crops: FaceCrops, image: torch.Tensor) -> Any:
        start, verifier = time.perf_counter(), shared_verifier()
        results = stitch(crops, image, verifier, shared_detector())
        seconds = [(time.perf_counter() - start) / len(results)] * len(results)
        return _result(crops.photos, results, model=None, gate=verifier.description, seconds=seconds)


_SYNTH = "synth"  # earlier name of "generate", which saved workflows hold
_PARTS = 100  # of the progress bar, for each photo
_PREVIEW = 512  # longest side of the previews, in pixels


class DeidentifyFaces(io.ComfyNode):
    """Node that detects, replaces and verifies all faces."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidDeidentifyFaces",
            display_name="De-identify Faces",
            category=CATEGORY,
            description="Replace every face by a different, realistic one and keep the rest. Each result is compared "
            "with its original by a face recogniser; what cannot be replaced and verified is covered. "
            "If anything else fails, the workflow stops: no original face comes out.",
            inputs=[
                io.Image.Input("image", tooltip="Photos; a batch is processed one by one."),
                io.Combo.Input(
                    "model",
                    options=runtime.list_models("deid_diffusion"),
                    tooltip="The built-in model, or a folder in models/deid_diffusion.",
                ),
                io.Combo.Input(
                    "method",
                    options=[_SYNTH, *get_args(Method)[1:]],
                    default=_SYNTH,
                    tooltip=f"{_SYNTH} is generate. {option_schema('method')['description']}",
                ),
                *selection_inputs(),
                seed_input(),
                Faces.Input(
                    "faces", optional=True, tooltip="From Detect Faces; without it the faces are detected here."
                ),
            ],
            outputs=_result_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, seed: int = -1, **_: Any) -> str:
        """Return a fresh value without a seed, so that every run draws anew."""
        return secrets.token_hex(8) if seed_of(seed) is None else str(seed)

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        model: str,
        method: Method,
        keep: str,
        change: str,
        seed: int,
        faces: DetectedFaces | None = None,
    ) -> Any:
        photos = to_photos(image)
        boxes = [None] * len(photos) if faces is None else faces.boxes(photos)
        selection = read_selection(keep, change)
        method = "generate" if method == _SYNTH else method
        options = Options(method=method, keep=selection.keep, change=selection.change, seed=seed_of(seed))
        anonymizer = runtime.ready(model, options.batch_size)
        bar, results, seconds = comfy.utils.ProgressBar(_PARTS * len(photos)), [], []
        for k, (photo, detections) in enumerate(zip(photos, boxes, strict=True)):

            def on_step_end(pipeline: Any, step: int, timestep: Any, tensors: Any, before: int = _PARTS * k) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update_absolute(before + _PARTS * (step + 1) // (pipeline.num_timesteps + 1))

            comfy.model_management.throw_exception_if_processing_interrupted()
            start = time.perf_counter()
            results.append(anonymizer(photo, options, detections=detections, callback_on_step_end=on_step_end))
            seconds.append(time.perf_counter() - start)
            bar.update_absolute(_PARTS * (k + 1), preview=("JPEG", results[-1].image, _PREVIEW))
        gate = anonymizer.verifier.description
        return _result(photos, results, model=anonymizer.model_name, gate=gate, seconds=seconds)


class DeidExtension(ComfyExtension):
    """The nodes of deid-diffusion. Their ids are stable, so that saved workflows keep working."""

    async def get_node_list(self) -> list[Any]:
        return [
            DeidentifyFaces,
            DetectFaces,
            FaceSemanticMap,
            CropFaces,
            StitchFaces,
            LoadAttributeAdapter,
            ApplyAttributes,
        ]


async def comfy_entrypoint() -> DeidExtension:
    """Return the extension, for ComfyUI."""
    runtime.register()  # here, since older ComfyUI never calls on_load
    return DeidExtension()
