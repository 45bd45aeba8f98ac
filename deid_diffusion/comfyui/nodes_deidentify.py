"""De-identify Faces: the whole library behind one node."""

from __future__ import annotations

import secrets
import time
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..faces.methods import METHODS, Method
from ..options import Options
from . import folders, generator
from .found_faces import FoundFaces
from .nodes_attributes import choice_inputs, read_choice
from .nodes_faces import CATEGORY, Faces, seed_input, seed_of
from .records import record_lines
from .tensors import changed, to_image, to_mask, to_photos

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
                    options=folders.names("deid_diffusion"),
                    tooltip="The small model that comes with the pack, or a folder in models/deid_diffusion.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="synth: another face. fill: one grey. blur and pixelate can be recognised again.",
                ),
                *choice_inputs(),
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
        faces: FoundFaces | None = None,
    ) -> Any:
        photos = to_photos(image)
        boxes = [None] * len(photos) if faces is None else faces.boxes(photos)
        choice = read_choice(keep, change)
        options = Options(method=method, keep=choice.keep, change=choice.change, seed=seed_of(seed))
        anonymizer = generator.ready(model, options.batch_size)
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
        record = record_lines(results, model=anonymizer.model_name, gate=anonymizer.gate.description, seconds=seconds)
        masks = [changed(photo, picture) for photo, picture in zip(photos, pictures, strict=True)]
        return io.NodeOutput(to_image(pictures), to_mask(masks), record)


def _preview(finished: Image.Image) -> tuple[str, Image.Image, int]:
    """A finished photo as ComfyUI's progress bar shows it."""
    return "JPEG", finished, _PREVIEW
