"""Modules that are imported with their first use, so that collecting tests does not import their packages."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class LazyModule:
    """Imports a module with the first access to one of its attributes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest looks for marks while it collects
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
