"""The one-click node's model under ComfyUI's memory manager: loaded once, moved and emptied when ComfyUI says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

from ..anonymizer import Anonymizer
from . import folders

_WORKING_MEMORY = 2**28  # bytes for a face of 512 x 512 pixels while it is generated, a guess on the safe side


class FaceDeidModel(nn.ModuleDict):
    """A pipeline's networks as one module; its name is what ComfyUI's log shows."""

    def empty(self) -> None:
        """Let go of all weights."""
        self.to("meta")

    @property
    def is_empty(self) -> bool:
        """Whether the weights are gone."""
        return any(weight.is_meta for weight in self.parameters())


@dataclass(frozen=True, eq=False)
class _Held:
    anonymizer: Anonymizer
    model: FaceDeidModel
    patcher: Any  # a ModelPatcher; ComfyUI itself refers to it weakly only


_held: dict[str, _Held] = {}


def ready(name: str, batch_size: int) -> Anonymizer:
    """An anonymizer whose networks are on ComfyUI's device.

    It is kept for the next run until ComfyUI unloads it, be it on a user's wish or to make room; then its weights are
    gone from all memory, and the next run reads them again.

    Args:
        name: of `folders.names("deid_diffusion")`.
        batch_size: faces that are generated together, for which ComfyUI makes room.

    Raises:
        DeidError: when the folder holds no model that can be loaded.
    """
    if name not in _held or _held[name].model.is_empty:
        _held[name] = _load(name)
    held = _held[name]
    room = round(_WORKING_MEMORY * batch_size * (held.anonymizer.pipeline.crop_size / 512) ** 2)
    # these networks cannot run with a part of their weights elsewhere, as ComfyUI's own can
    comfy.model_management.load_models_gpu([held.patcher], memory_required=room, force_full_load=True)
    return held.anonymizer


def _load(name: str) -> _Held:
    device = comfy.model_management.get_torch_device()
    source = "builtin" if name == folders.EMBEDDED else str(folders.place("deid_diffusion", name))
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    with torch.inference_mode(False):  # nodes run in that mode, and what is made in it cannot be moved outside it
        anonymizer = Anonymizer.from_pretrained(source, device="cpu", dtype=dtype)
        parts = {k: part for k, part in anonymizer.pipeline.components.items() if isinstance(part, nn.Module)}
        model = FaceDeidModel(parts).requires_grad_(False)
    offload = comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    patcher.add_callback(CallbacksMP.ON_DETACH, _let_go)
    return _Held(anonymizer, model, patcher)


def _let_go(patcher: Any, unpatch_all: bool) -> None:
    """Empty a model that ComfyUI unloads. The object must live on: ComfyUI is still counting its models."""
    if unpatch_all:  # else it is only listed anew
        patcher.model.empty()
