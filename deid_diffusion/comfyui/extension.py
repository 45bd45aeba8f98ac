"""What ComfyUI loads: the pack's folder `comfyui` hands on `comfy_entrypoint`."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension

from . import folders


class DeidExtension(ComfyExtension):
    """The nodes of deid-diffusion. Their ids are stable: a saved workflow goes on working."""

    async def get_node_list(self) -> list[Any]:
        from .nodes_attributes import ApplyAttributes, LoadAttributeAdapter
        from .nodes_deidentify import DeidentifyFaces
        from .nodes_faces import CropFaces, DetectFaces, FaceSemanticMap, StitchFaces

        return [
            DeidentifyFaces,
            DetectFaces,
            FaceSemanticMap,
            CropFaces,
            StitchFaces,
            LoadAttributeAdapter,
            ApplyAttributes,
        ]


async def comfy_entrypoint() -> DeidExtension:
    """ComfyUI's way in."""
    folders.register()  # here, since older ComfyUI never calls on_load
    return DeidExtension()
