"""ComfyUI's V3 API, as far as our nodes use it. `object_info.json` holds the real one's descriptions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class _Input:
    def __init__(self, kind: str, id: str, optional: bool = False, **settings: Any) -> None:
        unknown = set(settings) - {
            "tooltip",
            "default",
            "min",
            "max",
            "step",
            "options",
            "placeholder",
            "control_after_generate",
        }
        assert not unknown, f"the stand-in knows no {unknown}"
        self.kind, self.id, self.optional, self.settings = kind, id, optional, settings


class _Output:
    def __init__(self, kind: str, id: str, display_name: str | None = None, tooltip: str | None = None) -> None:
        self.kind, self.id, self.display_name, self.tooltip = kind, id, display_name or kind, tooltip


class _Type:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def Input(self, id: str, **settings: Any) -> _Input:
        return _Input(self.kind, id, **settings)

    def Output(self, id: str, **settings: Any) -> _Output:
        return _Output(self.kind, id, **settings)


class Schema:
    def __init__(
        self,
        node_id: str,
        display_name: str,
        category: str,
        description: str,
        inputs: list[_Input],
        outputs: list[_Output],
    ) -> None:
        names = [socket.id for socket in (*inputs, *outputs)]
        assert len(set(names)) == len(names), f"{node_id}: ids must differ, inputs' and outputs' together: {names}"
        self.node_id, self.display_name, self.category, self.description = node_id, display_name, category, description
        self.inputs, self.outputs = inputs, outputs


class ComfyNode:
    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        schema = cls.define_schema()  # type: ignore[attr-defined]
        described: dict[str, Any] = {"required": {}}
        for socket in schema.inputs:
            kind = "optional" if socket.optional else "required"
            described.setdefault(kind, {})[socket.id] = [socket.kind, socket.settings]
        return {
            "input": described,
            "output": [socket.kind for socket in schema.outputs],
            "output_name": [socket.display_name for socket in schema.outputs],
            "name": schema.node_id,
            "display_name": schema.display_name,
            "description": schema.description,
            "category": schema.category,
        }


class NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class ComfyExtension:
    pass


_KINDS = {
    "Image": "IMAGE", "Mask": "MASK", "Int": "INT", "String": "STRING", "Combo": "COMBO",
    "Conditioning": "CONDITIONING", "ClipVision": "CLIP_VISION", "ClipVisionOutput": "CLIP_VISION_OUTPUT",
}  # fmt: skip
io = SimpleNamespace(
    **{name: _Type(kind) for name, kind in _KINDS.items()},
    Custom=_Type,
    Schema=Schema,
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
)
