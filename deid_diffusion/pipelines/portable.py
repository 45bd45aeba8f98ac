"""What makes a saved pipeline portable: names that a hub can resolve, and one-line shims beside the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

_PIPELINE_SHIM = "from deid_diffusion.pipelines.face_deid import FaceDeidPipeline  # noqa: F401\n"
_ADAPTER_SHIM = (
    "from diffusers.models.modeling_utils import ModelMixin  # noqa: F401\n\n"
    "from deid_diffusion.models.attribute_adapter import AttributeAdapter  # noqa: F401\n"
)


def write_portable(folder: str | os.PathLike[str]) -> None:
    """Rewrite ``model_index.json`` of a saved pipeline and add the shims it names.

    diffusers records a custom class by its dotted module path, which loads where it was saved and cannot be downloaded.
    """
    root = Path(folder)
    index = root / "model_index.json"
    entries = json.loads(index.read_text())
    entries["_class_name"] = ["pipeline", "FaceDeidPipeline"]
    if entries.get("attribute_adapter", [None, None])[1] is not None:
        entries["attribute_adapter"] = ["attribute_adapter", "AttributeAdapter"]
        (root / "attribute_adapter" / "attribute_adapter.py").write_text(_ADAPTER_SHIM)
    (root / "pipeline.py").write_text(_PIPELINE_SHIM)
    index.write_text(json.dumps(entries, indent=2) + "\n")
