"""Publication of pipelines: folders that every supported version can load, shims for diffusers, model cards."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import huggingface_hub
from safetensors import safe_open
from safetensors.torch import load_file, save

from ..errors import DeidError, UsageError, one_line

OWN_MODELS = {
    "AttributeAdapter": "deid_diffusion.models.attribute_adapter",
    "FaceEncoder": "deid_diffusion.models.face_encoder",
    "IdentityModel": "deid_diffusion.models.identity_model",
}
"""The package's own parts of a pipeline: class -> its module."""

TAGS = ("deid-diffusion", "face-de-identification", "privacy")

USES = """\
## Intended use

A part of a pipeline that replaces faces in photos by different, realistic ones, so that photos can be shared or worked
on without showing the people's faces. Not for making pictures of real people, nor for deciding anything about a person.

## Limits

- De-identification of faces is not anonymisation of people: hair, clothes, body, place and company may still identify
  somebody. Whether a result is anonymous in law has to be judged for the whole data set.
- Faces made with one seed or key can be linked to each other; that is pseudonymisation (GDPR Art. 4(5)), not
  anonymisation.
- Faces that the training data lacks come out worse: look at the sources above, and at results of your own photos.
- Measured figures hold for the data and evaluators that they were measured with; another recogniser may match more.
"""


_PIPELINE_SHIM = "from deid_diffusion.pipelines.face_deid import FaceDeidPipeline  # noqa: F401\n"
_MODEL_SHIM = (
    "from diffusers.models.modeling_utils import ModelMixin  # noqa: F401\n\n"
    "from {module} import {name}  # noqa: F401\n"
)
_TEXT = "text_model."
_COPIED = (".json", ".txt", ".safetensors")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_CARD = "README.md"

_HOW = """\
A diffusers pipeline that replaces faces in photos by different, realistic ones.

```console
pip install deid-diffusion
deid-diffusion anonymize photos/ -o out/ --model {name}
```

```python
from deid_diffusion import Anonymizer

anonymizer = Anonymizer.from_pretrained("{name}")
```

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
```

The code in this repository only imports the package `deid-diffusion`."""


def use_installed_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``model_index.json`` with the package's own classes in place of the shims that `write_shims` names."""
    entries = dict(index)
    if isinstance(entries.get("_class_name"), list):
        entries["_class_name"] = entries["_class_name"][-1]
    for name, entry in entries.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[1] in OWN_MODELS:
            entries[name] = [OWN_MODELS[entry[1]], entry[1]]
    return entries


def write_shims(folder: Path) -> None:
    """Add the modules that import this package's classes, and name them in ``model_index.json``.

    ``DiffusionPipeline.from_pretrained`` of a hub repository finds other libraries' classes through such files only,
    and asks for ``trust_remote_code=True``.
    """
    index = folder / "model_index.json"
    entries = json.loads(index.read_text())
    entries["_class_name"] = ["pipeline", "FaceDeidPipeline"]
    (folder / "pipeline.py").write_text(_PIPELINE_SHIM)
    for part, entry in entries.items():
        if isinstance(entry, list) and entry[1] in OWN_MODELS:
            module = OWN_MODELS[entry[1]]
            shim = module.rpartition(".")[2]
            (folder / part / f"{shim}.py").write_text(_MODEL_SHIM.format(module=module, name=entry[1]))
            entries[part] = [shim, entry[1]]
    index.write_text(json.dumps(entries, indent=2) + "\n")


def write_portable(folder: str | os.PathLike[str]) -> None:
    """Make a saved pipeline's files readable by transformers 4 and 5, and remove the paths its parts came from."""
    root = Path(folder)
    for config in (*root.glob("*/config.json"), root / "model_index.json"):
        values = json.loads(config.read_text())
        if values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n")
    _name_text_weights(root / "text_encoder")
    _write_vocabulary(root / "tokenizer")


def _name_text_weights(folder: Path) -> None:
    """Give a text encoder's weights the names of transformers 4, which 5 reads too.

    Where transformers 4 does not find its names, it continues with random weights and a log line.
    """
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        if not any(name.startswith(_TEXT) for name in weights):
            path.write_bytes(save({_TEXT + name: value for name, value in weights.items()}, {"format": "pt"}))


def _write_vocabulary(folder: Path) -> None:
    """Write the two files of a CLIP tokenizer that transformers 4 reads, from the single file that 5 writes."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    tokenizer = json.loads(path.read_text())
    if tokenizer.get("padding") or tokenizer.get("truncation"):  # of the last call, kept by the fast tokenizer
        path.write_text(
            json.dumps(tokenizer | {"padding": None, "truncation": None}, indent=2, ensure_ascii=False) + "\n"
        )
    model = tokenizer["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def write_publication(model: Path, out: Path, *, license: str | None = None, name: str | None = None) -> None:
    """Write a folder to upload as a hub repository.

    Only configurations, tokenizers and safetensors of the pipeline's parts are copied. A model card in ``model`` is
    copied, otherwise one is written.

    Args:
        model: a folder written by ``FaceDeidPipeline.save_pretrained``.
        out: a folder that does not exist, or is empty.
        license: of the weights, a hub identifier such as "apache-2.0"; required if ``model`` has no card.
        name: of the repository, for the card; the name of ``out`` when None.

    Raises:
        UsageError: ``out`` exists and is not empty, or card and licence do not fit.
        DeidError: ``model`` is no such folder or lacks a part.
    """
    index = _read_index(model)
    parts = {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and entry[1]}
    has_card = (model / _CARD).is_file()
    _check_license(license, has_card, model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already and is not empty: name another folder")
    if model.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"{out}: is inside the model's folder: name another folder")
    files = [path for part in parts for path in _files(model / part)]
    temporary = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        for path in files:
            target = temporary / path.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        write_portable(temporary)
        write_shims(temporary)
        if has_card:
            shutil.copyfile(model / _CARD, temporary / _CARD)
        else:
            (temporary / _CARD).write_text(pipeline_card(temporary, parts, license or "", name or out.name))
        if out.is_dir():
            out.rmdir()
        temporary.replace(out)
    except OSError as error:
        raise DeidError(f"{out}: cannot be written ({one_line(error.strerror)})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def pipeline_card(folder: Path, parts: dict[str, str], license: str, name: str) -> str:
    """Return the model card of a pipeline.

    Args:
        folder: of the pipeline.
        parts: its parts' names and classes.
        license: hub identifier.
        name: of the repository.
    """
    index = json.loads((folder / "model_index.json").read_text())
    rows = [(f"`{part}`", kind, _parameters(folder / part)) for part, kind in parts.items()]
    defaults = [(f"`{key}`", value) for key, value in index.items() if key.startswith("default_") or key == "control"]
    sections = [
        front_matter(license),
        f"# {name}",
        _HOW.format(name=name),
        "## Parts",
        table(("part", "class", "parameters"), rows),
        table(("default", "value"), defaults),
        "## Training data",
        "Not recorded: state the training data of the parts, and its licences.",
        "## Measured figures",
        figures(folder),
        USES,
    ]
    return "\n\n".join(sections)


def front_matter(license: str) -> str:
    """Return a model card's metadata; ``license`` is a hub identifier such as "apache-2.0"."""
    return f"---\n{huggingface_hub.ModelCardData(license=license, library_name='diffusers', tags=list(TAGS))}\n---"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; floats have four digits."""
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in cells)


def figures(folder: Path) -> str:
    """Return the measured figures in a folder's ``figures.json``, as ``benchmarks/folder.py`` prints it."""
    path = folder / "figures.json"
    if not path.is_file():
        return "None yet."
    return table(("figure", "value"), [(f"`{name}`", value) for name, value in json.loads(path.read_text()).items()])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _read_index(model: Path) -> dict[str, Any]:
    """Return the ``model_index.json`` of a saved pipeline. Raises DeidError for another folder."""
    try:
        index = use_installed_classes(json.loads((model / "model_index.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        reason = one_line(error)[:120]
        raise DeidError(f"{model}: no folder written by FaceDeidPipeline.save_pretrained ({reason})") from error
    if index.get("_class_name") != "FaceDeidPipeline":
        kind = one_line(index.get("_class_name"))[:80]
        raise DeidError(f"{model}: holds a {kind}: expected a FaceDeidPipeline, as save_pretrained writes it")
    return index


def _check_license(license: str | None, has_card: bool, model: Path) -> None:
    if has_card and license is not None:
        raise UsageError(f"{model / _CARD}: is copied and names its own licence: omit --license")
    if not has_card and license is None:
        raise UsageError("the licence of the weights is required: pass --license apache-2.0, or creativeml-openrail-m")
    if license is not None and not _LICENSE.fullmatch(license):
        raise UsageError(f"--license {one_line(license)}: expected a hub identifier such as apache-2.0")


def _files(part: Path) -> Iterator[Path]:
    """Yield the files of a part to copy. Raises DeidError for a missing part, or one with weights in pickles only."""
    files = [path for path in sorted(part.glob("*")) if path.is_file() and path.suffix in _COPIED]
    if not files:
        raise DeidError(f"{part}: is missing or empty, but model_index.json names it")
    pickles = [path.name for path in part.glob("*") if path.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickles and not any(path.suffix == ".safetensors" for path in files):
        raise DeidError(f"{part / pickles[0]}: weights in a pickle are not published: save them as safetensors")
    yield from files


def _parameters(part: Path) -> str:
    """Return the number of a part's parameters, buffers included; empty for one without weights."""
    count = 0
    for path in part.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return f"{count:,}" if count else ""


def upload(folder: Path, name: str, message: str, *, token: str | None = None, ignored: Sequence[str] = ()) -> str:
    """Upload a folder to a hub repository, which is created if missing; return the repository's full name.

    Args:
        folder: uploaded in full.
        name: of the repository, with or without its owner.
        message: of the commit.
        token: for the upload; None uses the stored login.
        ignored: patterns of files that are not uploaded.
    """
    repository = huggingface_hub.create_repo(name, token=token, exist_ok=True)
    huggingface_hub.upload_folder(
        repo_id=repository.repo_id,
        folder_path=folder,
        token=token,
        commit_message=message,
        ignore_patterns=list(ignored),
    )
    return repository.repo_id


def reason(error: Exception) -> str:
    """Return an upload's failure as one line: the exception's class and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
