"""Saved workflows as ComfyUI's page sends them to the API, and the API's descriptions of node types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_FOLDERS = ("model", "adapter_name")  # combos whose options are files


def to_prompt(workflow: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a saved workflow to the API's format.

    Args:
        workflow: ComfyUI's file format, 0.4.
        nodes: descriptions of the node types by /object_info.

    Raises:
        ValueError: when a node's saved values are not as many as its widgets, or a link joins two types.
    """
    links = {link[0]: link for link in workflow["links"]}
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    prompt = {}
    for node in workflow["nodes"]:
        known = nodes[node["type"]]["input"]
        specs = {**known.get("required", {}), **known.get("optional", {})}
        linked = {socket["name"]: links[socket["link"]] for socket in node["inputs"] if socket["link"] is not None}
        for name, (_, source, slot, *_) in linked.items():
            given, wanted = nodes[kinds[source]]["output"][slot], specs[name][0]
            if wanted not in ("*", given):
                raise ValueError(f"{node['type']}.{name} is {wanted}, but gets {given}")
        inputs, values = {}, list(node["widgets_values"])
        for name, spec in specs.items():
            if name in linked:
                inputs[name] = [str(linked[name][1]), linked[name][2]]
            elif isinstance(spec[0], list) or spec[0] in _WIDGETS:
                inputs[name] = values.pop(0)
                settings = spec[1] if len(spec) > 1 else {}
                if settings.get("control_after_generate") or settings.get("image_upload"):
                    values.pop(0)  # added by the page: "randomize", or the button
            elif name in known.get("required", {}):
                raise ValueError(f"{node['type']}.{name} is not connected")
        if values:
            raise ValueError(f"{node['type']}: {len(values)} values more than widgets")
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def essence(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a node's description that saved workflows depend on: names, types, order and ranges."""
    inputs = {
        f"{name} ({kind})": [spec[0], _ranges(name, spec[1])]
        for kind, specs in info["input"].items()
        for name, spec in specs.items()
    }
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": inputs, "outputs": outputs, "category": info["category"], "display_name": info["display_name"]}


def _ranges(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ["default", "min", "max", "step", "control_after_generate", *([] if name in _FOLDERS else ["options"])]
    return {key: settings[key] for key in names if key in settings}
