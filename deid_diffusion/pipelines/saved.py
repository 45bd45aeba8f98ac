"""A saved pipeline, read part by part with the installed libraries: no code that lies in its folder is run."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from ..errors import DeidError, one_line
from ..repositories import load_part
from .face_deid import FaceDeidPipeline
from .portable import OWN_MODELS

_HOMES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
_PARTS = (ModelMixin, SchedulerMixin, PreTrainedModel, PreTrainedTokenizerBase, ImageProcessingMixin)
_KINDS = ("FaceDeidPipeline", ["pipeline", "FaceDeidPipeline"], "StableDiffusionControlNetInpaintPipeline")


def load_saved(folder: Path, dtype: torch.dtype) -> FaceDeidPipeline:
    """The pipeline of a folder, on the CPU.

    diffusers would run the folder's ``pipeline.py``, which in a hub's repository can be anybody's.

    Args:
        folder: as ``FaceDeidPipeline.save_pretrained`` writes it, or ``StableDiffusionControlNetInpaintPipeline``.
        dtype: of its weights.

    Raises:
        DeidError: when it holds another pipeline, or a part is missing, broken or none of an installed library.
    """
    index = _read_index(folder)
    arguments = inspect.signature(FaceDeidPipeline.__init__).parameters
    given: dict[str, Any] = {}
    for name, argument in list(arguments.items())[1:]:
        if argument.default is not argument.empty:
            given[name] = index.get(name, argument.default)
        elif kind := _class(name, index.get(name)):
            given[name] = load_part(kind, folder / name, dtype)
        elif name in FaceDeidPipeline._optional_components:
            given[name] = None
        else:
            raise DeidError(f"its model_index.json names no {name}")
    try:
        return FaceDeidPipeline(**given)
    except ValueError as error:
        raise DeidError(f"its model_index.json cannot be followed ({one_line(error)[:160]})") from error


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / "model_index.json").read_text())
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeidError(f"is no folder written by save_pretrained ({one_line(error)[:120]})") from error
    if kind == "StableDiffusionInpaintPipeline":
        raise DeidError("is an inpainting checkpoint without ControlNet: put sd15= before its name")
    if kind not in _KINDS:
        raise DeidError(f"holds a {one_line(kind)[:80]}: expected a FaceDeidPipeline, as save_pretrained writes it")
    return dict(index)


def _class(part: str, entry: object) -> type | None:
    """The class of a part, by what model_index.json says of it; None where there is no such part."""
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(one, str) for one in entry)):
        return None  # [null, null], as a rule
    library, name = entry
    home = f"deid_diffusion.models.{OWN_MODELS[name]}" if name in OWN_MODELS else _HOMES.get(library)
    found = getattr(import_module(home), name, None) if home else None
    if not (isinstance(found, type) and issubclass(found, _PARTS)):
        raise DeidError(f"its {part} is a {one_line(library)}.{one_line(name)}, which no installed library has")
    return found
