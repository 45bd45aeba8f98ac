"""ComfyUI runtime: model folders, tensors, records, and the model under ComfyUI's memory manager."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import comfy.model_management
import comfy.model_patcher
import folder_paths
import numpy as np
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ..anonymizer import AnonymizedImage, Anonymizer
from ..errors import UsageError
from ..pipelines.loading import BUILTIN
from ..results import ImageRecord, versions

Kind = Literal["deid_diffusion", "attribute_adapters"]

EMBEDDED = "embedded"
"""Name of the built-in model, which saved workflows hold."""


def register() -> None:
    """Register the two model folders; those that extra_model_paths.yaml adds are kept."""
    for kind in ("deid_diffusion", "attribute_adapters"):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))
        paths, _ = folder_paths.folder_names_and_paths[kind]
        folder_paths.folder_names_and_paths[kind] = (paths, {".safetensors"})  # else its lists show every file


def list_models(kind: Kind) -> list[str]:
    """Return the built-in model's name, then those of the folders that hold a model of this kind."""
    return [EMBEDDED, *sorted(_folders(kind))]


def model_folder(kind: Kind, name: str) -> Path:
    """Return the folder of a name of `list_models`. Raises FileNotFoundError if it no longer exists."""
    if name == EMBEDDED:
        return BUILTIN
    folders = _folders(kind)
    if name not in folders:
        raise FileNotFoundError(f"{name}: no such model in models/{kind}: there are {', '.join(list_models(kind))}")
    return folders[name]


def _folders(kind: Kind) -> dict[str, Path]:
    """Return name -> folder; adapters are in both folders, since complete models have them, too."""
    kinds = (kind, "deid_diffusion") if kind == "attribute_adapters" else (kind,)
    part = "attribute_adapter/config.json" if kind == "attribute_adapters" else "model_index.json"
    folders: dict[str, Path] = {}
    for root in (Path(root) for name in kinds for root in folder_paths.get_folder_paths(name)):
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.name != EMBEDDED and (folder / part).is_file():
                folders.setdefault(folder.name, folder)
    return folders


def to_photos(image: torch.Tensor) -> list[np.ndarray]:
    """Convert an IMAGE, (B, H, W, 3) in 0..1, to B arrays (H, W, 3) uint8, rounded.

    Raises:
        UsageError: for another shape, as with transparency, or values that are not finite.
    """
    if image.ndim != 4 or image.shape[-1] != 3 or not image.numel():
        raise UsageError(
            f"image: expected a batch of RGB pictures, (B, H, W, 3), got {tuple(image.shape)}: "
            "take transparency off first (node Split Image with Alpha)"
        )
    if not torch.isfinite(image).all():
        raise UsageError("image: contains NaN or infinity: check the node that produced it")
    values = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return list(values.numpy())


def to_image(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Convert B arrays (H, W, 3) uint8 of one size to an IMAGE, (B, H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


def to_mask(masks: Sequence[np.ndarray]) -> torch.Tensor:
    """Convert B arrays (H, W), bool or float in 0..1, to a MASK, (B, H, W) float32."""
    return torch.from_numpy(np.stack(masks).astype(np.float32))


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (H, W) bool, True where two (H, W, 3) pictures differ."""
    return (before != after).any(-1)


def record_lines(results: Sequence[AnonymizedImage], *, model: str | None, gate: str, seconds: Sequence[float]) -> str:
    """Return JSON lines of `ImageRecord`, in the batch's order; a photo's name is its index.

    The model is None for faces from elsewhere; the gate is the verifier's description.
    """
    package_versions = versions()
    lines = [
        ImageRecord(
            input=f"image {k}",
            output=f"image {k}",
            status="done" if result.faces else "no_face",
            width=result.image.width,
            height=result.image.height,
            faces=result.faces,
            model=model,
            gate=gate,
            versions=package_versions,
            seconds=round(duration, 3),
        ).to_json()
        for k, (result, duration) in enumerate(zip(results, seconds, strict=True))
    ]
    return "\n".join(lines)


_WORKING_MEMORY = 2**28  # bytes per face of 512 x 512 pixels during generation, an upper estimate


class FaceDeidModel(nn.ModuleDict):
    """A pipeline's networks as one module; ComfyUI's log shows its name."""

    @property
    def is_empty(self) -> bool:
        """Whether the weights were released."""
        return any(weight.is_meta for weight in self.parameters())


@dataclass(frozen=True, eq=False)
class _Held:
    anonymizer: Anonymizer
    model: FaceDeidModel
    patcher: Any  # a ModelPatcher; ComfyUI itself refers to it weakly only


_held: dict[str, _Held] = {}


def ready(name: str, batch_size: int) -> Anonymizer:
    """Return an anonymizer whose networks are on ComfyUI's device.

    It is kept until ComfyUI unloads it, and is then loaded again by the next run.

    Args:
        name: of `list_models("deid_diffusion")`.
        batch_size: faces per batch, for which ComfyUI frees memory.

    Raises:
        DeidError: the folder holds no model that can be loaded.
    """
    if name not in _held or _held[name].model.is_empty:
        _held[name] = _load(name)
    held = _held[name]
    room = round(_WORKING_MEMORY * batch_size * (held.anonymizer.pipeline.crop_size / 512) ** 2)
    # these networks cannot run partly offloaded, as ComfyUI's own can
    comfy.model_management.load_models_gpu([held.patcher], memory_required=room, force_full_load=True)
    return held.anonymizer


def _load(name: str) -> _Held:
    device = comfy.model_management.get_torch_device()
    source = "builtin" if name == EMBEDDED else str(model_folder("deid_diffusion", name))
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with torch.inference_mode(False):  # nodes run in that mode, and tensors created in it cannot be moved outside it
        anonymizer = Anonymizer.from_pretrained(source, device="cpu", dtype=dtype)
        parts = {k: part for k, part in anonymizer.pipeline.components.items() if isinstance(part, nn.Module)}
        model = FaceDeidModel(parts).requires_grad_(False)
    offload = comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    patcher.add_callback(CallbacksMP.ON_DETACH, _release)
    return _Held(anonymizer, model, patcher)


def _release(patcher: Any, unpatch_all: bool) -> None:
    """Release the weights of a model that ComfyUI unloads. The object stays, as ComfyUI still counts its models."""
    if unpatch_all:  # else it is only re-registered
        patcher.model.to("meta")
