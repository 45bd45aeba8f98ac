"""What makes a saved pipeline portable: names that a hub can resolve, shims beside the weights, older files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors.torch import load_file, save

_PIPELINE_SHIM = "from deid_diffusion.pipelines.face_deid import FaceDeidPipeline  # noqa: F401\n"
_MODEL_SHIM = (
    "from diffusers.models.modeling_utils import ModelMixin  # noqa: F401\n\n"
    "from deid_diffusion.models.{module} import {name}  # noqa: F401\n"
)
_TEXT = "text_model."
OWN_MODELS = {
    "AttributeAdapter": "attribute_adapter", "FaceEncoder": "face_encoder", "IdentityModel": "identity_model",
}  # fmt: skip
"""Our own parts of a pipeline: class -> its module in ``deid_diffusion.models``."""


def write_portable(folder: str | os.PathLike[str]) -> None:
    """Rewrite ``model_index.json`` of a saved pipeline, add the shims it names, and forget where its parts came from.

    diffusers records a custom class by its dotted module path, which loads where it was saved and cannot be downloaded.
    """
    root = Path(folder)
    index = root / "model_index.json"
    entries = json.loads(index.read_text())
    entries["_class_name"] = ["pipeline", "FaceDeidPipeline"]
    for component, entry in entries.items():
        if isinstance(entry, list) and entry[1] in OWN_MODELS:
            module = OWN_MODELS[entry[1]]
            entries[component] = [module, entry[1]]
            shim = _MODEL_SHIM.format(module=module, name=entry[1])
            (root / component / f"{module}.py").write_text(shim)
    for config in root.glob("*/config.json"):  # where a part was loaded from is its trainer's business
        values = json.loads(config.read_text())
        if values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n")
    (root / "pipeline.py").write_text(_PIPELINE_SHIM)
    index.write_text(json.dumps(entries, indent=2) + "\n")
    _name_text_weights(root / "text_encoder")
    _write_vocabulary(root / "tokenizer")


def _name_text_weights(folder: Path) -> None:
    """Give a text encoder's weights the names that transformers 4 has for them; 5 knows both.

    Where transformers 4 does not find its names, it goes on with random weights and says so in a log line.
    """
    for path in folder.glob("*.safetensors"):
        weights = load_file(path)
        if not any(name.startswith(_TEXT) for name in weights):
            path.write_bytes(save({_TEXT + name: value for name, value in weights.items()}, {"format": "pt"}))


def _write_vocabulary(folder: Path) -> None:
    """Write the two files of a CLIP tokenizer that transformers 4 reads, from the one that 5 writes."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    tokenizer = json.loads(path.read_text())
    if tokenizer.get("padding") or tokenizer.get("truncation"):  # of the call before, kept by the fast tokenizer
        path.write_text(
            json.dumps(tokenizer | {"padding": None, "truncation": None}, indent=2, ensure_ascii=False) + "\n"
        )
    model = tokenizer["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
