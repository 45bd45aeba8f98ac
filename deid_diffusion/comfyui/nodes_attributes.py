"""Load Attribute Adapter and Apply Attributes: what the old face showed, as tokens beside the text."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..attributes.choice import AttributeChoice, choose, parse_change, parse_keep
from ..attributes.vocabulary import VOCABULARY
from . import folders
from .conditioning import LoadedAdapter, append_tokens, clip_features, encoder_features, make_tokens
from .found_faces import FaceCrops
from .nodes_faces import CATEGORY, Crops

Adapter = io.Custom("DEID_ADAPTER")


def choice_inputs() -> list[Any]:
    """What is kept and changed, in words."""
    listed = ", ".join(VOCABULARY)
    return [
        io.String.Input(
            "keep",
            default="all",
            tooltip=f"What the new face has of the old one: all, none, or a list of {listed}, and phrases of your own.",
        ),
        io.String.Input(
            "change",
            default="",
            placeholder="age=70, gender=woman",
            tooltip="What it shows instead: NAME=WORD, separated by commas, as age=70, expression=smiling.",
        ),
    ]


def read_choice(keep: str, change: str) -> AttributeChoice:
    """What `choice_inputs` mean. Raises UsageError."""
    return choose(parse_keep([keep]), parse_change([one for one in change.split(",") if one.strip()]))


class LoadAttributeAdapter(io.ComfyNode):
    """Loads an adapter."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidLoadAttributeAdapter",
            display_name="Load Attribute Adapter",
            category=CATEGORY,
            description="Load the attribute adapter of a model in models/attribute_adapters or models/deid_diffusion.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=folders.names("attribute_adapters"),
                    tooltip="A folder as FaceDeidPipeline.save_pretrained and training write it. The embedded model's "
                    "adapter fits no checkpoint that ComfyUI loads; it serves tests.",
                )
            ],
            outputs=[Adapter.Output("adapter", display_name="adapter", tooltip="For Apply Attributes.")],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> Any:
        return io.NodeOutput(LoadedAdapter(folders.place("attribute_adapters", adapter_name)))


class ApplyAttributes(io.ComfyNode):
    """Adds the tokens."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="DeidApplyAttributes",
            display_name="Apply Attributes",
            category=CATEGORY,
            description="Append a few tokens of each old face's kept attributes to the texts, where any sampler, LoRA "
            "and ControlNet finds them. All that they carry of a face has passed the adapter's bottleneck.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="One text for all face crops, or one each."),
                io.Conditioning.Input("negative", tooltip="Gets as many tokens, which say nothing."),
                Adapter.Input("adapter", tooltip="From Load Attribute Adapter, trained for this checkpoint."),
                Crops.Input("crops", tooltip="From Crop Faces."),
                *choice_inputs(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="CLIP Vision Encode of Crop Faces' original_image, for adapters trained with CLIP. Without "
                    "it the adapter's own small encoder reads the faces.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The model that made clip_vision_output: the regions' features need its last layer. "
                    "Without it only the whole face's attributes are told.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive_out", display_name="positive"),
                io.Conditioning.Output("negative_out", display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        adapter: LoadedAdapter,
        crops: FaceCrops,
        keep: str,
        change: str,
        clip_vision_output: Any = None,
        clip_vision: Any = None,
    ) -> Any:
        choice = read_choice(keep, change)
        if not crops.faces:
            return io.NodeOutput(positive, negative)
        if clip_vision_output is None:
            features = encoder_features(adapter, crops)
        else:
            features = clip_features(adapter, crops, clip_vision_output, _network(clip_vision))
        told, untold = make_tokens(adapter, features, choice)
        texts = append_tokens(positive, told, "positive"), append_tokens(negative, untold, "negative")
        return io.NodeOutput(*texts)


def _network(clip_vision: Any) -> Any:
    """ComfyUI's CLIP vision model, on its device."""
    if clip_vision is None:
        return None
    import comfy.model_management

    comfy.model_management.load_models_gpu([clip_vision.patcher])
    return clip_vision.model
