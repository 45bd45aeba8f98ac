"""What ComfyUI loads: the pack's folder `comfyui` hands on `comfy_entrypoint`."""

from __future__ import annotations

import secrets
import time
from typing import Any, get_args

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from PIL import Image

from ..attributes.selection import AttributeSelection, make_selection, parse_change, parse_keep
from ..evaluation.inspection import draw_faces
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
    """What is kept and changed, in words."""
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
    """What `selection_inputs` mean. Raises UsageError."""
    return make_selection(parse_keep([keep]), parse_change([one for one in change.split(",") if one.strip()]))


class LoadAttributeAdapter(io.ComfyNode):
    """Loads an adapter."""

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
                    tooltip="A folder as FaceDeidPipeline.save_pretrained and training write it. The embedded model's "
                    "adapter fits no checkpoint that ComfyUI loads; it serves tests.",
                )
            ],
            outputs=[Adapter.Output("adapter", display_name="adapter", tooltip="For Apply Attributes.")],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> Any:
        return io.NodeOutput(LoadedAdapter(runtime.model_folder("attribute_adapters", adapter_name)))


class ApplyAttributes(io.ComfyNode):
    """Adds the tokens."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidApplyAttributes",
            display_name="Apply Attributes",
            category=CATEGORY,
            description="Append a few tokens of each old face's kept attributes to the texts, where any sampler, LoRA "
            "and ControlNet finds them. All that they carry of a face has passed the adapter's bottleneck.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="One text for all face crops, or one each."),
                io.Conditioning.Input("negative", tooltip="Gets as many tokens, which say nothing."),
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
                    "Without it only the whole face's attributes are told.",
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
        choice = read_selection(keep, change)
        if not crops.faces:
            return io.NodeOutput(positive, negative)
        if clip_vision_output is None:
            features = encoder_features(adapter, crops)
        else:
            features = clip_features(adapter, crops, clip_vision_output, _network(clip_vision))
        told, untold = make_tokens(adapter, features, choice)
        texts = append_tokens(positive, told, "positive"), append_tokens(negative, untold, "negative")
        return io.NodeOutput(*texts)


def _network(clip_vision: Any) -> Any:
    """ComfyUI's CLIP vision model, on its device."""
    if clip_vision is None:
        return None
    import comfy.model_management

    comfy.model_management.load_models_gpu([clip_vision.patcher])
    return clip_vision.model


CATEGORY = "deid-diffusion"
LARGEST_SEED = 2**53 - 1  # the largest number that a browser keeps exactly
Faces = io.Custom("DEID_FACES")
Crops = io.Custom("DEID_CROPS")

_SEED_TIP = "-1: fresh randomness, which nothing links. Another number gives the same again, and so links pictures."
_PROPORTIONS_TIP = (
    "Whose distances between eyes, brows, nose and mouth the map shows. The photo's own tell who somebody is; "
    "expression, pose and gaze are kept in both."
)


def seed_input() -> Any:
    """The seed of every node that draws: -1 for none."""
    # ComfyUI's page would else draw another number after each run for whatever is called seed
    return io.Int.Input("seed", default=-1, min=-1, max=LARGEST_SEED, control_after_generate=False, tooltip=_SEED_TIP)


def seed_of(value: int) -> int | None:
    """What `seed_input` means."""
    return None if value < 0 else value


def _proportions_input() -> Any:
    options = list(get_args(Proportions))
    return io.Combo.Input("proportions", options=options, default=options[0], tooltip=_PROPORTIONS_TIP)


class DetectFaces(io.ComfyNode):
    """Finds faces."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidDetectFaces",
            display_name="Detect Faces",
            category=CATEGORY,
            description="Find every face of every picture, of any size and roll, and fit a 478-point mesh to each.",
            inputs=[io.Image.Input("image", tooltip="Photos; more than one in a batch are searched one by one.")],
            outputs=[
                Faces.Output("faces", display_name="faces", tooltip="For the other nodes of this pack."),
                io.Image.Output("drawn", display_name="drawn", tooltip="The photos with boxes and meshes drawn in."),
                io.Int.Output("count", display_name="count", tooltip="Faces in the whole batch."),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> Any:
        photos = to_photos(image)
        found = find_faces(photos)
        drawn = [draw_faces(photo, faces) for photo, faces in zip(photos, found.faces, strict=True)]
        return io.NodeOutput(found, to_image(drawn), sum(map(len, found.faces)))


class FaceSemanticMap(io.ComfyNode):
    """Draws the semantic map of whole photos."""

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
        found, shape = faces.of(to_photos(image)), faces.shape
        maps = [photo_map(one, shape, proportions, seed_of(seed)) for one in found]
        masks = [np.max([np.zeros(shape, np.float32), *(face.mask.full() for face in one)], axis=0) for one in found]
        grey = [np.repeat(labels[..., None], 3, axis=2) for labels in maps]
        return io.NodeOutput(to_image([control_image(labels) for labels in maps]), to_mask(masks), to_image(grey))


class CropFaces(io.ComfyNode):
    """Cuts faces out."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidCropFaces",
            display_name="Crop Faces",
            category=CATEGORY,
            description="Cut every face out as an aligned square, erased, with its map and mask, as one batch for a "
            "generator. Without any face the batch is one grey square, which Stitch Faces leaves out.",
            inputs=[
                io.Image.Input("image", tooltip="The photos that Detect Faces got."),
                Faces.Input("faces", tooltip="From Detect Faces."),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the squares: what the checkpoint likes.",
                ),
                io.Combo.Input(
                    "control",
                    options=list(CONTROLS),
                    default=CONTROLS[0],
                    tooltip="What the ControlNet was trained with: our map, the map with a look painted in, or the "
                    "lines that CrucibleAI's ControlNetMediaPipeFace knows.",
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


class StitchFaces(io.ComfyNode):
    """Puts new faces in."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidStitchFaces",
            display_name="Stitch Faces",
            category=CATEGORY,
            description="Put new faces in the old ones' places. Each is judged by a face recogniser first: what is too "
            "like the original, shows no face or is in another place is covered. No original face stays.",
            inputs=[
                Crops.Input("crops", tooltip="From Crop Faces."),
                io.Image.Input(
                    "image", tooltip="What was generated of its erased_image: all of them, in order, of any size."
                ),
            ],
            outputs=[
                io.Image.Output("photos", display_name="image", tooltip="The photos with new or covered faces."),
                io.Mask.Output("mask", display_name="mask", tooltip="1 where a pixel differs from the photo."),
                io.String.Output(
                    "record", display_name="record", tooltip="What was done to each face: a JSON line a photo."
                ),
            ],
        )

    @classmethod
    def execute(cls, crops: FaceCrops, image: torch.Tensor) -> Any:
        start, verifier = time.perf_counter(), shared_verifier()
        results = stitch(crops, image, verifier, shared_detector())
        pictures = [np.asarray(one.image) for one in results]
        took = (time.perf_counter() - start) / len(results)
        record = record_lines(results, model=None, gate=verifier.description, seconds=[took] * len(results))
        masks = [changed(photo, picture) for photo, picture in zip(crops.photos, pictures, strict=True)]
        return io.NodeOutput(to_image(pictures), to_mask(masks), record)


_SYNTH = "synth"  # earlier name of "generate", which saved workflows hold
_PARTS = 100  # of the progress bar, for each photo
_PREVIEW = 512  # longest side of the previews, in pixels


class DeidentifyFaces(io.ComfyNode):
    """Replaces every face."""

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
                io.Image.Input("image", tooltip="Photos; each of a batch is treated as if it were alone."),
                io.Combo.Input(
                    "model",
                    options=runtime.list_models("deid_diffusion"),
                    tooltip="The small model that comes with the pack, or a folder in models/deid_diffusion.",
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
                    "faces", optional=True, tooltip="From Detect Faces; without it the faces are searched here."
                ),
            ],
            outputs=[
                io.Image.Output("photos", display_name="image", tooltip="The photos with new or covered faces."),
                io.Mask.Output("mask", display_name="mask", tooltip="1 where a pixel differs from the photo."),
                io.String.Output(
                    "record", display_name="record", tooltip="What was done to each face: a JSON line a photo."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, seed: int = -1, **_: Any) -> str:
        """Without a seed every run draws anew, so that nothing is the same as last time."""
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
        choice = read_selection(keep, change)
        method = "generate" if method == _SYNTH else method
        options = Options(method=method, keep=choice.keep, change=choice.change, seed=seed_of(seed))
        anonymizer = runtime.ready(model, options.batch_size)
        bar, results, seconds = comfy.utils.ProgressBar(_PARTS * len(photos)), [], []
        for k, (photo, found) in enumerate(zip(photos, boxes, strict=True)):

            def on_step(done: int, steps: int, before: int = _PARTS * k) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update_absolute(before + _PARTS * done // (steps + 1))

            comfy.model_management.throw_exception_if_processing_interrupted()
            start = time.perf_counter()
            results.append(anonymizer(photo, options, boxes=found, on_step=on_step))
            seconds.append(time.perf_counter() - start)
            bar.update_absolute(_PARTS * (k + 1), preview=_preview(results[-1].image))
        pictures = [np.asarray(one.image) for one in results]
        record = record_lines(
            results, model=anonymizer.model_name, gate=anonymizer.verifier.description, seconds=seconds
        )
        masks = [changed(photo, picture) for photo, picture in zip(photos, pictures, strict=True)]
        return io.NodeOutput(to_image(pictures), to_mask(masks), record)


def _preview(finished: Image.Image) -> tuple[str, Image.Image, int]:
    """A finished photo as ComfyUI's progress bar shows it."""
    return "JPEG", finished, _PREVIEW


class DeidExtension(ComfyExtension):
    """The nodes of deid-diffusion. Their ids are stable: a saved workflow goes on working."""

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
    """ComfyUI's way in."""
    runtime.register()  # here, since older ComfyUI never calls on_load
    return DeidExtension()
