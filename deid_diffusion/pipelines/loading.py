"""From a model's name to its pipeline: the embedded model, a preset, a folder or a hub repository."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import torch

from ..errors import DeidError
from .face_deid import FaceDeidPipeline
from .presets import PRESETS, Preset, find_preset
from .repositories import Repository, fetch, load_saved


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        DeidError: for a device that is not there.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        picked = torch.device(name)
        torch.empty(1, device=picked)
    except (RuntimeError, AssertionError) as error:
        raise DeidError(f"--device {name}: not available here; use auto, cpu, cuda, cuda:N or mps") from error
    return picked


def fastest_dtype(device: torch.device) -> torch.dtype:
    """float16 on CUDA; bfloat16 on a CPU with instructions for it, where it takes two thirds of the time; else float32.

    Older versions of PyTorch cannot tell whether a CPU has them.
    """
    if device.type == "cuda":
        return torch.float16
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    if device.type == "cpu" and any(ask is not None and ask() for ask in known):
        return torch.bfloat16
    return torch.float32


BUILTIN = Path(__file__).parent.parent / "builtin"
"""The embedded model's folder."""

_SAVED = ("model_index.json", "*.json", "*.txt", "*.safetensors")  # what save_pretrained writes, but code
logger = logging.getLogger(__name__)


def load_pipeline(model: str, dtype: torch.dtype) -> FaceDeidPipeline:
    """A pipeline by name, on the CPU, its networks laid out channels last, as convolutions are fastest.

    Args:
        model: "builtin"; a preset, as `presets.find_preset` knows them; a folder written by
            ``FaceDeidPipeline.save_pretrained``; or the name of a hub repository of that layout.
        dtype: of its weights.

    Raises:
        DeidError: when there is no such model, or parts of it cannot be had.
    """
    import torch

    preset = find_preset(model)
    if preset is not None:
        from .presets import build_preset

        _say_once(licences(preset))
        pipeline = build_preset(preset, dtype)
    else:
        pipeline = _load_saved(str(BUILTIN) if model == "builtin" else model, dtype)
    for network in (pipeline.unet, pipeline.controlnet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
    return pipeline


def short_name(model: str) -> str:
    """The model's name for reports, without the folders of this machine."""
    name, sign, source = model.partition("=")
    if name in PRESETS:
        return f"{name}{sign}{Path(source).name}"
    return Path(model).name


def licences(preset: Preset) -> str:
    """One line that names whose weights a preset takes, and their licences."""
    others = ", ".join(f"{one.name} ({one.licence})" for one in preset.repositories)
    return f"model {preset.name}: takes the weights of others, whose licences bind you: {others}"


@cache
def _say_once(line: str) -> None:
    logger.warning(line)


def _load_saved(source: str, dtype: torch.dtype) -> FaceDeidPipeline:
    """From a folder that ``save_pretrained`` wrote, or a repository of the hub with the files of one."""
    try:
        folder = fetch(Repository(source, "see its model card", weights=(), others=_SAVED))
    except DeidError as error:
        known = f"give builtin, {', '.join(PRESETS)}, a folder written by save_pretrained, or a hub id"
        raise DeidError(f"model {error}; or {known}") from error
    try:
        return load_saved(folder, dtype)
    except DeidError as error:
        raise DeidError(f"model {source}: {error}") from error
