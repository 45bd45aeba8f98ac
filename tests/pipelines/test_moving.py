"""A user's script for StableDiffusionControlNetInpaintPipeline becomes ours by another class name and one argument."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deid_diffusion.models.attribute_adapter import AttributeAdapter
from tests.tiny_hub import fill_cache

SCRIPT = """
import torch
from diffusers import ControlNetModel
from diffusers import DDIMScheduler
from diffusers import StableDiffusionControlNetInpaintPipeline
from diffusers.utils import load_image

controlnet = ControlNetModel.from_pretrained("CrucibleAI/ControlNetMediaPipeFace", subfolder="diffusion_sd15")
pipe = StableDiffusionControlNetInpaintPipeline.from_pretrained(
    "stable-diffusion-v1-5/stable-diffusion-inpainting", controlnet=controlnet, variant="fp16", safety_checker=None
)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
images = pipe(
    "a handsome man with ray-ban sunglasses",
    num_inference_steps=2,
    generator=torch.Generator(device="cpu").manual_seed(1),
    eta=1.0,
    image=load_image("init.png"),
    mask_image=load_image("mask.png"),
    control_image=load_image("control.png"),
    strength=1.0,
    guidance_scale=7.5,
    negative_prompt="deformed, low quality",
    num_images_per_prompt=2,
    controlnet_conditioning_scale=0.5,
).images
"""
OURS = {
    "from diffusers import StableDiffusionControlNetInpaintPipeline": "from deid_diffusion import FaceDeidPipeline",
    "StableDiffusionControlNetInpaintPipeline": "FaceDeidPipeline",
}
ARGUMENT = {"controlnet=controlnet,": "controlnet=controlnet, attribute_adapter=adapter,"}
CUSTOM = {
    "StableDiffusionControlNetInpaintPipeline": "DiffusionPipeline",
    "controlnet=controlnet,": f"controlnet=controlnet, custom_pipeline={str(Path(__file__).parents[2])!r}"
    "'/pipelines/face_deid', trust_remote_code=True,",
}


@pytest.fixture
def work(hub: dict[str, Path], hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the script's pictures, and the models that it names."""
    fill_cache(hub_cache, hub)
    draw = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for name in ("init", "control"):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def adapter() -> AttributeAdapter:
    """What a user has trained."""
    return AttributeAdapter(16, 6, 4, 16).eval()


def result(changes: dict[str, str], adapter: AttributeAdapter | None = None) -> tuple[object, np.ndarray]:
    """The pipeline that a changed script leaves, and its (2, 32, 32, 3) pictures."""
    script = SCRIPT
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    names = {"adapter": adapter}
    exec(script, names)
    return names["pipe"], np.stack([np.asarray(one) for one in names["images"]])


@pytest.mark.parametrize("changes", [OURS, OURS | ARGUMENT, CUSTOM], ids=["class", "class and argument", "custom"])
def test_the_script_runs_and_what_is_masked_has_no_influence(
    work: Path, adapter: AttributeAdapter, changes: dict[str, str]
) -> None:
    pipe, pictures = result(changes, adapter)
    assert type(pipe).__name__ == "FaceDeidPipeline"
    assert pictures.shape == (2, 32, 32, 3)
    assert (pipe.attribute_adapter is not None) == (changes == OURS | ARGUMENT)
    init = np.array(Image.open(work / "init.png"))
    init[8:24, 8:24] = 255 - init[8:24, 8:24]
    Image.fromarray(init).save(work / "init.png")
    assert np.array_equal(result(changes, adapter)[1], pictures)
    init[0, 0] = 255 - init[0, 0]
    Image.fromarray(init).save(work / "init.png")
    assert not np.array_equal(result(changes, adapter)[1], pictures)


def test_the_users_own_script_runs(work: Path) -> None:
    pipe, pictures = result({})
    assert type(pipe).__name__ == "StableDiffusionControlNetInpaintPipeline"
    assert pictures.shape == (2, 32, 32, 3)
