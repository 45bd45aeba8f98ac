"""Files of hub repositories and folders, and the loading of single pipeline parts from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from packaging.version import Version
from transformers import PreTrainedModel

from ..errors import DeidError, one_line

Part = TypeVar("Part")

_VARIANT = "fp16"
#: The first version of each library that calls its argument ``dtype`` instead of ``torch_dtype``.
_DTYPE_SINCE = {"diffusers": "0.40", "transformers": "4.56"}


@dataclass(frozen=True)
class Repository:
    """The files that are needed of a hub repository, or of a folder of the same layout.

    Attributes:
        name: hub id, or folder.
        licence: under which its weights are.
        weights: safetensors files; of each, the one in half precision (``model.fp16.safetensors``) is preferred.
        others: configurations and tokenizers; names with ``*`` are optional.
        revision: commit; None is the newest.
    """

    name: str
    licence: str
    weights: tuple[str, ...]
    others: tuple[str, ...] = ()
    revision: str | None = None

    def at(self, name: str) -> Repository:
        """Return the same files of another repository, at its newest commit, or of a folder."""
        if name == self.name:
            return self
        return replace(self, name=name, revision=None, licence="see its model card")

    def missing(self, folder: Path) -> list[str]:
        """Return the names of the files that a folder lacks."""
        others = [name for name in self.others if "*" not in name and not (folder / name).is_file()]
        weights = [name for name in self.weights if not any((folder / file).is_file() for file in _precisions(name))]
        return others + weights


def fetch(repository: Repository) -> Path:
    """Return the folder of a repository's files, downloaded if need be.

    Files pinned to a commit and complete in the hub's cache are used without a request to the hub. ``HF_HUB_OFFLINE``
    and the other variables of ``huggingface_hub`` are respected.

    Raises:
        DeidError: for files that are missing and cannot be downloaded; it names the command that downloads them.
    """
    from huggingface_hub.errors import HFValidationError

    folder = Path(repository.name)
    if folder.is_dir():
        if missing := repository.missing(folder):
            raise DeidError(f"{repository.name}: lacks {', '.join(missing)}")
        return folder
    reason = "incomplete on this machine"
    for local_files_only in (True, False) if repository.revision else (False,):
        try:
            folder = _download(repository, local_files_only)
        except HFValidationError as error:
            raise DeidError(f"{repository.name}: no such folder, and not a valid hub id") from error
        except (OSError, ValueError) as error:  # the hub's client has a dozen of them
            reason = shorten(one_line(error).partition(". ")[0], 160, placeholder=" ...")
            continue
        if not repository.missing(folder):
            return folder
    raise DeidError(
        f"{repository.name}: no such folder, and not available from the hub ({reason}): while online, run: "
        + _command(repository)
    )


def load_part(kind: type[Part], folder: str | Path, dtype: torch.dtype) -> Part:
    """Load one part of a pipeline; a model's weights from safetensors only, in half precision if there is such a file.

    Args:
        kind: a class of diffusers or transformers.
        folder: of its configuration and weights, or a hub id.
        dtype: of the loaded weights.

    Raises:
        DeidError: when they cannot be loaded, or are another class's.
    """
    loader: Any = kind
    options: dict[str, Any] = {}
    if issubclass(kind, torch.nn.Module):
        options = {"variant": variant(folder), "use_safetensors": True, **dtype_argument(kind, dtype)}
    try:
        if issubclass(kind, ModelMixin):  # diffusers would fill another class's model with random weights
            name = loader.load_config(folder).get("_class_name", kind.__name__)
            if name != kind.__name__:
                raise ValueError(f"its config.json is of a {name}")
        return loader.from_pretrained(folder, **options)
    except Exception as error:  # missing or broken files, other shapes: each library has errors of its own
        raise DeidError(f"{folder}: no {kind.__name__} can be loaded from it ({one_line(error)[:160]})") from error


def variant(folder: str | Path) -> str | None:
    """Return the ``variant`` to load of a part's folder: "fp16" where it has such a file."""
    return _VARIANT if any(Path(folder).glob(f"*.{_VARIANT}.safetensors")) else None


def dtype_argument(kind: type, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the argument of ``kind.from_pretrained`` for a dtype, by its name in the installed version."""
    library = "transformers" if issubclass(kind, PreTrainedModel) else "diffusers"
    new = Version(version(library)) >= Version(_DTYPE_SINCE[library])
    return {"dtype" if new else "torch_dtype": dtype}


def _precisions(name: str) -> tuple[str, str]:
    """Return the names of a weights file in half and in full precision."""
    return f"{name.removesuffix('.safetensors')}.{_VARIANT}.safetensors", name


def _download(repository: Repository, local_files_only: bool) -> Path:
    """Return the repository's snapshot, with each weights file in half precision or else in full."""
    from huggingface_hub import snapshot_download

    def snapshot(files: list[str]) -> Path:
        return Path(
            snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=files,
                local_files_only=local_files_only,
            )
        )

    folder = snapshot([*repository.others, *(_precisions(name)[0] for name in repository.weights)])
    full = [name for name in repository.weights if not (folder / _precisions(name)[0]).is_file()]
    return snapshot(full) if full else folder


def _command(repository: Repository) -> str:
    """Return the command that downloads a repository's files."""
    patterns = [*repository.others, *(name.replace(".safetensors", "*safetensors") for name in repository.weights)]
    revision = f" --revision {repository.revision}" if repository.revision else ""
    # of several --include, clients before 1.0 take the last; of one name alone, every client takes no pattern;
    # after an option, clients before 1.0 take no names
    option = "--include " if len(patterns) == 1 else ""
    return f"hf download {repository.name} {option}" + " ".join(f"'{pattern}'" for pattern in patterns) + revision
