"""ComfyUI's module of this name, as far as our nodes use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy import model_management

shown: list[tuple[int, int, Any]] = []  # what was shown, for tests
hooks: list[Callable[[], None]] = []  # called at each update, for tests


class ProgressBar:
    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        shown.append((value, self.total, preview))
        for hook in hooks:
            hook()
        model_management.throw_exception_if_processing_interrupted()  # as the real one's hook does
