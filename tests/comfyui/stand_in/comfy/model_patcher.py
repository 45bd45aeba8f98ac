"""ComfyUI's module of this name, as far as our nodes use it: models that are moved and unloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ModelPatcher:
    def __init__(self, model: Any, load_device: Any, offload_device: Any) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.callbacks: list[Callable[[Any, bool], None]] = []

    def add_callback(self, call_type: str, callback: Callable[[Any, bool], None]) -> None:
        assert call_type == "on_detach_after"
        self.callbacks.append(callback)

    def detach(self, unpatch_all: bool = True) -> None:
        if unpatch_all:
            self.model.to(self.offload_device)
        for callback in self.callbacks:
            callback(self, unpatch_all)

    def __del__(self) -> None:
        self.detach(unpatch_all=False)
