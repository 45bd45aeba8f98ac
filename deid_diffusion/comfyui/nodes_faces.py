"""Detect Faces, Face Semantic Map, Crop Faces, Stitch Faces: the stations around a generator of the user's own."""

from __future__ import annotations

import time
from typing import Any, get_args

import numpy as np
import torch
from comfy_api.latest import io

from ..faces.controls import CONTROLS
from ..faces.semantic_map import control_image
from ..preview import draw_faces
from .found_faces import FaceCrops, FoundFaces, Proportions, cut_faces, find_faces, photo_map, shared_detector
from .records import record_lines
from .stitching import shared_gate, stitch
from .tensors import changed, to_image, to_mask, to_photos

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
    def execute(cls, image: torch.Tensor, faces: FoundFaces, proportions: Proportions, seed: int) -> Any:
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
        cls, image: torch.Tensor, faces: FoundFaces, size: int, control: str, proportions: Proportions, seed: int
    ) -> Any:
        crops = cut_faces(to_photos(image), faces, size)
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
        start, gate = time.perf_counter(), shared_gate()
        results = stitch(crops, image, gate, shared_detector())
        pictures = [np.asarray(one.image) for one in results]
        took = (time.perf_counter() - start) / len(results)
        record = record_lines(results, model=None, gate=gate.description, seconds=[took] * len(results))
        masks = [changed(photo, picture) for photo, picture in zip(crops.photos, pictures, strict=True)]
        return io.NodeOutput(to_image(pictures), to_mask(masks), record)
