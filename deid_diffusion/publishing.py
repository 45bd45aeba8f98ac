"""A pipeline's folder made ready for the hub: its parts, the shims that load it, and a model card."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path

from .errors import DeidError, UsageError, one_line
from .model_cards import USES, figures, front_matter, table

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


def write_publication(model: Path, out: Path, *, license: str | None = None, name: str | None = None) -> None:
    """Write a folder that a hub's repository can be made of.

    Only configurations, tokenizers and safetensors of the pipeline's parts are copied. A card that ``model`` has is
    taken over, otherwise one is made.

    Args:
        model: a folder written by ``FaceDeidPipeline.save_pretrained``.
        out: a folder that does not exist, or is empty.
        license: of the weights, in the hub's words, as "apache-2.0"; needed where ``model`` has no card.
        name: the repository's, for the card; the name of ``out`` when None.

    Raises:
        UsageError: ``out`` is taken, or card and licence do not fit.
        DeidError: ``model`` is no such folder or lacks a part.
    """
    index = _read_index(model)
    parts = {name: one[1] for name, one in index.items() if isinstance(one, list) and name != "_class_name" and one[1]}
    has_card = (model / _CARD).is_file()
    _check_license(license, has_card, model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already and is not empty: name another folder")
    if model.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"{out}: lies in the model's folder: name another folder")
    files = [path for part in parts for path in _files(model / part)]
    temporary = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        for path in files:
            target = temporary / path.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        _write_portable(temporary)
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
    """The card of a pipeline's folder.

    Args:
        folder: of the pipeline.
        parts: its parts' names and classes.
        license: in the hub's words.
        name: of the repository.
    """
    index = json.loads((folder / "model_index.json").read_text())
    rows = [(f"`{part}`", kind, _parameters(folder / part)) for part, kind in parts.items()]
    options = [(f"`{key}`", value) for key, value in index.items() if key.startswith("default_") or key == "control"]
    return "\n\n".join(
        [
            front_matter(license),
            f"# {name}",
            _HOW.format(name=name),
            "## Parts",
            table(("part", "class", "parameters"), rows),
            table(("default", "value"), options),
            "## Training data",
            "Not recorded here: say what the parts were trained on, and under which licences.",
            "## Measured figures",
            figures(folder),
            USES,
        ]
    )


def _read_index(model: Path) -> dict[str, object]:
    try:
        index = json.loads((model / "model_index.json").read_text())
        kind = index["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        why = one_line(error)[:120]
        raise DeidError(f"{model}: no folder written by FaceDeidPipeline.save_pretrained ({why})") from error
    if kind not in ("FaceDeidPipeline", ["pipeline", "FaceDeidPipeline"]):
        raise DeidError(f"{model}: holds a {kind}: expected a FaceDeidPipeline, as save_pretrained writes it")
    return index


def _check_license(license: str | None, has_card: bool, model: Path) -> None:
    if has_card and license is not None:
        raise UsageError(f"{model / _CARD}: is taken over as it is and names its licence: leave out --license")
    if not has_card and license is None:
        raise UsageError("under which licence are the weights? Say it: --license apache-2.0, or creativeml-openrail-m")
    if license is not None and not _LICENSE.fullmatch(license):
        raise UsageError(f"--license {one_line(license)}: expected an identifier of the hub's, as apache-2.0")


def _files(part: Path) -> Iterator[Path]:
    """What is copied of a part. Raises DeidError for one that is missing, or whose weights are pickled only."""
    files = [path for path in sorted(part.glob("*")) if path.is_file() and path.suffix in _COPIED]
    if not files:
        raise DeidError(f"{part}: is missing or empty, but model_index.json names it")
    pickled = [path.name for path in part.glob("*") if path.suffix in (".bin", ".ckpt", ".pt", ".pth")]
    if pickled and not any(path.suffix == ".safetensors" for path in files):
        raise DeidError(f"{part / pickled[0]}: weights in a pickle are not published: save them as safetensors")
    yield from files


def _parameters(part: Path) -> str:
    """The number of a part's parameters, buffers included; empty for one without weights."""
    from safetensors import safe_open

    count = 0
    for path in part.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            count += sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return f"{count:,}" if count else ""


def _write_portable(folder: Path) -> None:
    from .pipelines.portable import write_portable

    write_portable(folder)
