"""ComfyUI's module of this name, as far as our nodes use it."""

from __future__ import annotations

import weakref
from typing import Any

import torch

current_loaded_models: list[weakref.ref[Any]] = []
loads: list[str] = []  # names of the models that were not there yet, for tests
_interrupted = False


class InterruptProcessingException(Exception):
    pass


def get_torch_device() -> torch.device:
    return torch.device("cpu")


def unet_offload_device() -> torch.device:
    return torch.device("cpu")


def load_models_gpu(models: list[Any], memory_required: float = 0, force_full_load: bool = False) -> None:
    """Like the real one, it refers to models weakly, and lists one anew that is there already."""
    for model in models:
        known = [reference for reference in current_loaded_models if reference() is model]
        for reference in known:
            current_loaded_models.remove(reference)
            model.detach(unpatch_all=False)
        if not known:
            loads.append(type(model.model).__name__)
        model.model.to(model.load_device)
        current_loaded_models.insert(0, weakref.ref(model))


def unload_all_models() -> None:
    """The real one fails for good if a model's last reference is dropped while it is unloaded."""
    while current_loaded_models:
        patcher = current_loaded_models.pop()()
        if patcher is None:
            continue
        alive = weakref.ref(patcher.model)
        patcher.detach(True)
        del patcher
        assert alive() is not None


def interrupt_current_processing(value: bool = True) -> None:
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted() -> None:
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException
