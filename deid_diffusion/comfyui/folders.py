"""Where ComfyUI looks for our models: `models/deid_diffusion` and `models/attribute_adapters`, one folder a model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import folder_paths

from ..loading import BUILTIN

Kind = Literal["deid_diffusion", "attribute_adapters"]

EMBEDDED = "embedded"
"""The name of the model that comes with the library."""


def register() -> None:
    """Tell ComfyUI of the two kinds of folders; those that extra_model_paths.yaml adds are kept."""
    for kind in ("deid_diffusion", "attribute_adapters"):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))
        paths, _ = folder_paths.folder_names_and_paths[kind]
        folder_paths.folder_names_and_paths[kind] = (paths, {".safetensors"})  # or its lists would show every file


def names(kind: Kind) -> list[str]:
    """The embedded model, then the folders that hold a model of this kind, by name."""
    return [EMBEDDED, *sorted(_found(kind))]


def place(kind: Kind, name: str) -> Path:
    """The folder of a name that `names` gave.

    Raises:
        FileNotFoundError: when it is gone.
    """
    if name == EMBEDDED:
        return BUILTIN
    found = _found(kind)
    if name not in found:
        raise FileNotFoundError(f"{name}: no such model in models/{kind}: there are {', '.join(names(kind))}")
    return found[name]


def _found(kind: Kind) -> dict[str, Path]:
    """Name -> folder of the models; adapters are looked for in both kinds' folders, since whole models have them."""
    kinds = (kind, "deid_diffusion") if kind == "attribute_adapters" else (kind,)
    part = "attribute_adapter/config.json" if kind == "attribute_adapters" else "model_index.json"
    folders: dict[str, Path] = {}
    for root in (Path(root) for one in kinds for root in folder_paths.get_folder_paths(one)):
        for folder in root.iterdir() if root.is_dir() else ():
            if folder.name != EMBEDDED and (folder / part).is_file():
                folders.setdefault(folder.name, folder)
    return folders
