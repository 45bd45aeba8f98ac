"""Example workflows on the stand-in: all links and saved values fit our nodes and ComfyUI's own."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from tests.comfyui.workflows import to_prompt

PACK = Path(__file__).parents[2] / "comfyui"
EXAMPLES = PACK / "example_workflows"
PEOPLE = torch.from_numpy(np.asarray(Image.open(EXAMPLES / "invented_people.jpg")).copy())[None].float() / 255

#: ComfyUI's own nodes of the examples: inputs and outputs, as /object_info of 0.3.64 names them.
CORE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "LoadImage": ({"image": ["COMBO", {"image_upload": True}]}, ["IMAGE", "MASK"]),
    "SaveImage": ({"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}, []),
    "PreviewImage": ({"images": ["IMAGE"]}, []),
    "PreviewAny": ({"source": ["*", {}]}, []),
    "CheckpointLoaderSimple": ({"ckpt_name": [["a"], {}]}, ["MODEL", "CLIP", "VAE"]),
    "CLIPTextEncode": ({"text": ["STRING", {}], "clip": ["CLIP", {}]}, ["CONDITIONING"]),
    "CLIPVisionLoader": ({"clip_name": [["a"]]}, ["CLIP_VISION"]),
    "CLIPVisionEncode": (
        {"clip_vision": ["CLIP_VISION"], "image": ["IMAGE"], "crop": [["center", "none"]]},
        ["CLIP_VISION_OUTPUT"],
    ),
    "ControlNetLoader": ({"control_net_name": [["a"]]}, ["CONTROL_NET"]),
    "ControlNetApplyAdvanced": (
        {
            "positive": ["CONDITIONING"], "negative": ["CONDITIONING"], "control_net": ["CONTROL_NET"],
            "image": ["IMAGE"], "strength": ["FLOAT", {}],
            "start_percent": ["FLOAT", {}], "end_percent": ["FLOAT", {}], "vae": ["VAE"],
        },
        ["CONDITIONING", "CONDITIONING"],
    ),
    "InpaintModelConditioning": (
        {
            "positive": ["CONDITIONING"], "negative": ["CONDITIONING"], "vae": ["VAE"], "pixels": ["IMAGE"],
            "mask": ["MASK"], "noise_mask": ["BOOLEAN", {}],
        },
        ["CONDITIONING", "CONDITIONING", "LATENT"],
    ),
    "KSampler": (
        {
            "model": ["MODEL", {}], "seed": ["INT", {"control_after_generate": True}], "steps": ["INT", {}],
            "cfg": ["FLOAT", {}], "sampler_name": [["a"], {}], "scheduler": [["a"], {}],
            "positive": ["CONDITIONING", {}], "negative": ["CONDITIONING", {}], "latent_image": ["LATENT", {}],
            "denoise": ["FLOAT", {}],
        },
        ["LATENT"],
    ),
    "VAEDecode": ({"samples": ["LATENT", {}], "vae": ["VAE", {}]}, ["IMAGE"]),
}  # fmt: skip


def core(kind: str, inputs: dict[str, Any], saved: dict[str, Any]) -> tuple[Any, ...]:
    """Execute a stand-in for one of ComfyUI's own nodes: texts of width 16, and noise for a generator's pictures."""
    if kind == "LoadImage":
        return PEOPLE, torch.zeros(PEOPLE.shape[:3])
    if kind in ("SaveImage", "PreviewImage", "PreviewAny"):
        saved.setdefault(kind, []).append(next(iter(inputs.values())))
        return ()
    if kind == "CLIPTextEncode":
        return ([[torch.randn(1, 77, 16), {}]],)
    if kind == "CLIPVisionLoader":
        from comfy.model_patcher import ModelPatcher

        network = torch.nn.Module()
        network.vision_model = torch.nn.Module()
        network.vision_model.post_layernorm = torch.nn.LayerNorm(16)
        network.visual_projection = torch.nn.Linear(16, 16, bias=False)
        return (SimpleNamespace(model=network, patcher=ModelPatcher(network, "cpu", "cpu")),)
    if kind == "CLIPVisionEncode":
        count = len(inputs["image"])
        output = SimpleNamespace(image_embeds=torch.randn(count, 16), last_hidden_state=torch.randn(count, 17, 16))
        return (output,)
    if kind == "InpaintModelConditioning":
        saved["erased"] = inputs["pixels"]
        return inputs["positive"], inputs["negative"], inputs["pixels"]
    if kind == "ControlNetApplyAdvanced":
        assert inputs["image"].shape[-1] == 3
        return inputs["positive"], inputs["negative"]
    if kind == "KSampler":
        saved["texts"] = inputs["positive"]
        return (torch.rand_like(inputs["latent_image"]),)
    if kind == "VAEDecode":
        return (inputs["samples"],)
    return tuple(None for _ in CORE[kind][1])


def run(prompt: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """Execute each node of a prompt after those that it needs; return what was saved and generated."""
    done: dict[str, tuple[Any, ...]] = {}
    saved: dict[str, Any] = {}

    def result(place: str) -> tuple[Any, ...]:
        if place not in done:
            kind, given = prompt[place]["class_type"], prompt[place]["inputs"]
            inputs = {key: linked(value) if isinstance(value, list) else value for key, value in given.items()}
            done[place] = nodes[kind].execute(**inputs).args if kind in nodes else core(kind, inputs, saved)
        return done[place]

    def linked(link: list[Any]) -> Any:
        return result(link[0])[link[1]]

    for place in prompt:
        result(place)
    return saved


@pytest.fixture
def described(comfy: SimpleNamespace) -> dict[str, Any]:
    """Description of all nodes of the examples, as /object_info has it."""
    own = {name: node.GET_NODE_INFO_V1() for name, node in comfy.nodes.items()}
    others = {name: {"input": {"required": inputs}, "output": outputs} for name, (inputs, outputs) in CORE.items()}
    return {**others, **own}


def test_examples_have_pictures():
    names = {path.stem for path in EXAMPLES.glob("*.json")}
    assert names == {"de-identify_faces", "faces_by_your_own_checkpoint"}
    for name in names:
        with Image.open(EXAMPLES / f"{name}.jpg") as picture:
            assert min(picture.size) >= 192


def test_one_click_example(comfy, described):
    workflow = json.loads((EXAMPLES / "de-identify_faces.json").read_text())
    saved = run(to_prompt(workflow, described), comfy.nodes)
    picture = saved["SaveImage"][0]
    assert picture.shape == PEOPLE.shape
    assert (picture != PEOPLE).float().mean() > 0.2
    assert len(json.loads(saved["PreviewAny"][0])["faces"]) == 3


def test_checkpoint_example_fails_closed(comfy, described, tiny_pipeline, tmp_path):
    """Noise is no face: all are covered. The generator's inputs were erased."""
    tiny_pipeline.save_pretrained(tmp_path / "attribute_adapters" / "face_deid")
    AttributeAdapter(16, len(FEATURE_NAMES), 4, 16).save_pretrained(
        tmp_path / "attribute_adapters" / "face_deid" / "attribute_adapter"
    )
    workflow = json.loads((EXAMPLES / "faces_by_your_own_checkpoint.json").read_text())
    saved = run(to_prompt(workflow, described), comfy.nodes)
    faces = json.loads(saved["PreviewAny"][0])["faces"]
    assert {face["action"] for face in faces} == {"covered"}
    assert len(faces) >= 3
    assert saved["texts"][0][0].shape == (3, 77 + len(FEATURE_NAMES), 16)
    assert ((saved["erased"][:, 240:270, 240:270] * 255).round() == 128).all()


def test_versions_agree():
    from deid_diffusion import __version__

    assert f'version = "{__version__}"' in (PACK / "pyproject.toml").read_text()
