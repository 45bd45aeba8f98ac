"""Load pipeline parts from folders and hub repositories, without running their code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_base import ImageProcessingMixin

from ..errors import DeidError, one_line
from .face_deid import FaceDeidPipeline
from .publishing import OWN_MODELS

_VARIANT = "fp16"


#: The first version of each library that calls a part's type of number ``dtype``; before it was ``torch_dtype``.
_SAY_DTYPE = {"diffusers": "0.40", "transformers": "4.56"}


@dataclass(frozen=True)
class Repository:
    """What is needed of a repository of the hub, or of a folder of the same layout.

    Attributes:
        name: hub id, or folder.
        licence: under which its weights are.
        weights: safetensors files; of each, the one in half precision (``model.fp16.safetensors``) is preferred.
        others: configurations and tokenizers; names with ``*`` are taken where they are there.
        revision: commit; None is the newest.
    """

    name: str
    licence: str
    weights: tuple[str, ...]
    others: tuple[str, ...] = ()
    revision: str | None = None

    def at(self, name: str) -> Repository:
        """The same files of another repository or folder, its newest commit."""
        if name == self.name:
            return self
        return replace(self, name=name, revision=None, licence="see its model card")


def fetch(repository: Repository) -> Path:
    """The folder that holds a repository's files, downloaded if need be.

    What is pinned to a commit and complete in the hub's cache is taken without a look at the network.
    ``HF_HUB_OFFLINE`` and the other variables of ``huggingface_hub`` are respected.

    Raises:
        DeidError: when files are missing, and cannot be had; it names them, and the command that downloads them.
    """
    if Path(repository.name).is_dir():
        folder = Path(repository.name)
        if missing := _missing(repository, folder):
            raise DeidError(f"{repository.name}: lacks {', '.join(missing)}")
        return folder
    from huggingface_hub.errors import HFValidationError

    reason = "incomplete on this machine"
    for cached_only in (True, False) if repository.revision else (False,):
        try:
            folder = _download(repository, cached_only)
        except HFValidationError as error:
            raise DeidError(f"{repository.name}: no such folder, and no name that the hub can have") from error
        except (OSError, ValueError) as error:  # the hub's client has a dozen of them
            reason = shorten(one_line(error).partition(". ")[0], 160, placeholder=" ...")
            continue
        if not _missing(repository, folder):
            return folder
    raise DeidError(
        f"{repository.name}: no such folder, and not to be had from the hub ({reason}): while online, run: "
        + _command(repository)
    )


def load_part(kind: type[Part], folder: str | Path, dtype: torch.dtype) -> Part:
    """One part of a pipeline; a model's weights from safetensors only, in half precision if there is such a file.

    Args:
        kind: a class of diffusers or transformers.
        folder: of its configuration and weights, or a hub id.
        dtype: of the loaded weights.

    Raises:
        DeidError: when they cannot be loaded.
    """
    import torch

    options: dict[str, Any] = {}
    if issubclass(kind, torch.nn.Module):
        half = any(Path(folder).glob(f"*.{_VARIANT}.safetensors"))
        options = {"variant": _VARIANT if half else None, "use_safetensors": True, **dtype_argument(kind, dtype)}
    load: Any = kind
    try:
        return load.from_pretrained(folder, **options)
    except Exception as error:  # missing or broken files, other shapes: each library has errors of its own
        raise DeidError(f"{folder}: no {kind.__name__} can be loaded from it ({one_line(error)[:160]})") from error


def dtype_argument(kind: type, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """A type of number, by the name that ``kind.from_pretrained`` has for it in the installed version."""
    from importlib.metadata import version

    from packaging.version import Version
    from transformers import PreTrainedModel

    library = "transformers" if issubclass(kind, PreTrainedModel) else "diffusers"
    new = Version(version(library)) >= Version(_SAY_DTYPE[library])
    return {"dtype" if new else "torch_dtype": dtype}


def half_precision(name: str) -> str:
    """The name of the half-precision variant of a weights file."""
    return f"{name.removesuffix('.safetensors')}.{_VARIANT}.safetensors"


def _download(repository: Repository, cached_only: bool) -> Path:
    """The repository's snapshot, with each weights file in half precision or else in full."""
    from huggingface_hub import snapshot_download

    def snapshot(files: Iterable[str]) -> Path:
        return Path(
            snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=list(files),
                local_files_only=cached_only,
            )
        )

    folder = snapshot([*repository.others, *map(half_precision, repository.weights)])
    full = [name for name in repository.weights if not (folder / half_precision(name)).is_file()]
    return snapshot(full) if full else folder


def _missing(repository: Repository, folder: Path) -> list[str]:
    there = [name for name in repository.others if "*" not in name]
    missing = [name for name in there if not (folder / name).is_file()]
    for name in repository.weights:
        if not (folder / name).is_file() and not (folder / half_precision(name)).is_file():
            missing.append(name)
    return missing


def _command(repository: Repository) -> str:
    """What a user types to download all that is needed."""
    patterns = [*repository.others, *(name.replace(".safetensors", "*safetensors") for name in repository.weights)]
    revision = f" --revision {repository.revision}" if repository.revision else ""
    # of several --include, clients before 1.0 take the last; of one name alone, every client takes no pattern;
    # after an option, clients before 1.0 take no names
    option = "--include " if len(patterns) == 1 else ""
    return f"hf download {repository.name} {option}" + " ".join(f"'{one}'" for one in patterns) + revision


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


Part = TypeVar("Part")
