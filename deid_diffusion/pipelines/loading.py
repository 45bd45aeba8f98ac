"""Pipelines by name: the built-in model, a preset, a folder or a hub repository; and the device they run on."""

from __future__ import annotations

import inspect
import json
import logging
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from diffusers import ModelMixin, SchedulerMixin
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from ..errors import DeidError, one_line
from . import presets
from .face_deid import FaceDeidPipeline
from .presets import PRESETS, Preset, find_preset
from .publishing import OWN_MODELS, use_installed_classes
from .repositories import Repository, dtype_argument, fetch, variant

BUILTIN = Path(__file__).parent.parent / "builtin"
"""The built-in model's folder."""

_SAVED = ("model_index.json", "*.json", "*.txt", "*.safetensors")  # all that save_pretrained writes, and no code
_LIBRARIES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",
}
_PART_CLASSES = (ModelMixin, SchedulerMixin, PreTrainedModel, PreTrainedTokenizerBase, ImageProcessingMixin)

logger = logging.getLogger(__name__)


def pick_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        DeidError: for a device that is not available.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeidError(f"--device {name}: not available here; use auto, cpu, cuda, cuda:N or mps") from error
    return device


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return float16 on CUDA; bfloat16 on a CPU with instructions for it, which is 1.5 times as fast; else float32.

    Older versions of PyTorch cannot tell whether a CPU has them.
    """
    if device.type == "cuda":
        return torch.float16
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    if device.type == "cpu" and any(check is not None and check() for check in checks):
        return torch.bfloat16
    return torch.float32


def load_pipeline(model: str, dtype: torch.dtype) -> FaceDeidPipeline:
    """Load a pipeline by name, on the CPU, with channels last, which is fastest for convolutions.

    Args:
        model: "builtin"; a preset, see `presets.find_preset`; a folder written by
            ``FaceDeidPipeline.save_pretrained``; or the name of a hub repository of that layout.
        dtype: of its weights.

    Raises:
        DeidError: for an unknown model, or one with missing or broken parts.
    """
    preset = find_preset(model)
    if preset is not None:
        _warn_once(licences(preset))
        pipeline = presets.build_preset(preset, dtype)
    else:
        pipeline = _load_by_name(str(BUILTIN) if model == "builtin" else model, dtype)
    for network in (pipeline.unet, pipeline.controlnet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
    return pipeline


def short_name(model: str) -> str:
    """Return the model's name for reports, without the folders of this machine."""
    name, sign, source = model.partition("=")
    if name in PRESETS:
        return f"{name}{sign}{Path(source).name}"
    return Path(model).name


def licences(preset: Preset) -> str:
    """Return one line that names the repositories of a preset's weights and their licences."""
    sources = ", ".join(f"{repository.name} ({repository.licence})" for repository in preset.repositories)
    return f"model {preset.name}: uses third-party weights, whose licences bind you: {sources}"


@cache
def _warn_once(line: str) -> None:
    logger.warning(line)


def _load_by_name(source: str, dtype: torch.dtype) -> FaceDeidPipeline:
    """Load a folder that ``save_pretrained`` wrote, or a hub repository with the files of one."""
    try:
        folder = fetch(Repository(source, "see its model card", weights=(), others=_SAVED))
    except DeidError as error:
        names = f"use builtin, {', '.join(PRESETS)}, a folder written by save_pretrained, or a hub id"
        raise DeidError(f"model {error}; or {names}") from error
    try:
        return load_saved(folder, dtype)
    except DeidError as error:
        raise DeidError(f"model {source}: {error}") from error


def load_saved(folder: Path, dtype: torch.dtype) -> FaceDeidPipeline:
    """Load the pipeline of a folder that may come from anybody, on the CPU: no code in it is run.

    Args:
        folder: as ``FaceDeidPipeline.save_pretrained`` writes it, or ``StableDiffusionControlNetInpaintPipeline``.
        dtype: of its weights.

    Raises:
        DeidError: for another pipeline, or a part that is missing, broken or of a class that is not allowed.
    """
    check_saved(folder)
    half = any(variant(part) for part in folder.iterdir())
    try:
        return FaceDeidPipeline.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            variant="fp16" if half else None,
            **dtype_argument(FaceDeidPipeline, dtype),
        )
    except Exception as error:  # each library has errors of its own
        raise DeidError(f"cannot be loaded ({one_line(error)[:200]})") from error


def check_saved(folder: Path) -> None:
    """Raise DeidError unless a folder holds a pipeline of installed classes, and no code that diffusers would run."""
    try:
        index = use_installed_classes(json.loads((folder / "model_index.json").read_text()))
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeidError(f"is no folder written by save_pretrained ({one_line(error)[:120]})") from error
    if kind == "StableDiffusionInpaintPipeline":
        raise DeidError("is an inpainting checkpoint without ControlNet: put sd15= before its name")
    if kind not in ("FaceDeidPipeline", "StableDiffusionControlNetInpaintPipeline"):
        raise DeidError(f"holds a {one_line(kind)[:80]}: expected a FaceDeidPipeline, as save_pretrained writes it")
    if (folder / "None.py").exists():  # the name of diffusers' default custom pipeline
        raise DeidError("contains a None.py, which diffusers would run: remove it")
    for name, parameter in inspect.signature(FaceDeidPipeline.__init__).parameters.items():
        if name != "self" and parameter.default is parameter.empty:
            _check_part(folder / name, index.get(name))


def _check_part(folder: Path, entry: object) -> None:
    """Raise DeidError unless a part is of an allowed class, by its entry in model_index.json, and its files agree."""
    part = folder.name
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(value, str) for value in entry)):
        if part in FaceDeidPipeline._optional_components and entry in (None, [None, None]):
            return
        raise DeidError(f"its model_index.json names no {part}")
    library, name = entry
    module = library if OWN_MODELS.get(name) == library else _LIBRARIES.get(library)
    kind = getattr(import_module(module), name, None) if module else None
    if not (isinstance(kind, type) and issubclass(kind, _PART_CLASSES)):
        raise DeidError(f"its {part} is a {one_line(library)}.{one_line(name)}, which no installed library has")
    if (folder / f"{library}.py").exists():
        raise DeidError(f"its {part} comes with {library}.py, which diffusers would run: remove it")
    if not folder.is_dir():  # diffusers would look for its files in the pipeline's folder
        raise DeidError(f"its {part} is missing")
    config_name = name
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt"):
                pass
        if issubclass(kind, ModelMixin):  # diffusers would fill another class's model with random weights
            config_name = json.loads((folder / "config.json").read_text()).get("_class_name", name)
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise DeidError(f"its {part} is damaged ({one_line(error)[:120]})") from error
    if config_name != name:
        raise DeidError(f"its {part} is of class {one_line(config_name)[:80]}, expected {name}")
