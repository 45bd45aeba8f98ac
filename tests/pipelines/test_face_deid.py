"""FaceDeidPipeline on crops and on photos, and in scripts for the base class."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Union, get_origin

import numpy as np
import pytest
import torch
from PIL import Image

from deid_diffusion import Anonymizer, Options
from deid_diffusion.errors import DeidError
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from tests.pipelines.faces import generators, inputs, run
from tests.tiny_hub import fill_cache


def test_signature_types() -> None:
    """As diffusers 0.35 needs them: it looks up each component's type, and resolves no strings and no unions by |."""
    for parameter in list(inspect.signature(FaceDeidPipeline.__init__).parameters.values())[1:]:
        assert isinstance(parameter.annotation, type) or get_origin(parameter.annotation) is Union, parameter.name


def test_masked_pixels_ignored(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    given = inputs()
    other = dict(given, image=torch.where(given["mask_image"] > 0.5, torch.rand(3, 3, 32, 32), given["image"]))
    assert not torch.equal(given["image"], other["image"])
    assert np.array_equal(plain, run(tiny_pipeline, other))


@pytest.mark.parametrize("name", ["image", "control_image", "attribute_features"])
def test_condition_matters(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray, name: str) -> None:
    given = inputs()
    changed = run(tiny_pipeline, dict(given, **{name: given[name].flip(-1)}))
    assert np.abs(plain - changed).max() > 1e-3


def test_seed(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    assert np.array_equal(plain, run(tiny_pipeline, inputs()))
    assert np.abs(plain - run(tiny_pipeline, inputs(), generator=generators((7, 8, 9)))).max() > 1e-3


def test_batch_equals_single(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    """To 1e-4 of a full scale of 1, float32's rounding through another batch size."""
    for k in range(3):
        crop = {name: value[k : k + 1] for name, value in inputs().items()}
        assert np.abs(run(tiny_pipeline, crop, generator=generators([k]))[0] - plain[k]).max() < 1e-4


def test_embed_phrases(tiny_pipeline: FaceDeidPipeline) -> None:
    vectors = tiny_pipeline.embed_phrases(["a man", "a woman"])
    assert vectors.shape == (2, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2))
    parts = {**tiny_pipeline.components, "phrase_encoder": None}
    with pytest.raises(DeidError, match="phrase_encoder="):  # the generator's text encoder has no such projection
        FaceDeidPipeline(**parts).embed_phrases(["a man"])
    embedded = FaceDeidPipeline(**{**parts, "image_encoder": FaceEncoder(16, 8)})
    assert not torch.allclose(embedded.embed_phrases(["a man", "a woman"]), vectors)
    assert tiny_pipeline.subspace(["freckles"]) is tiny_pipeline.subspace(["freckles"])
    assert tiny_pipeline.subspace(["freckles"]).words["freckles"] == ("freckles",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"strength": 0.5}, "strength: must be 1 without a start_image, got 0.5"),
        ({"padding_mask_crop": 8}, "padding_mask_crop: must be None"),
        ({"image": None}, "expected image alone"),
        ({"mask_image": None, "control_image": None}, "expected PIL photos, or crops together with mask_image and"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected 1 or more, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: expected 1 or more, got 0"),
        ({"prompt": ["a", "b"]}, "3 control_image, 2 prompt"),
        ({"control_image": torch.rand(2, 3, 32, 32)}, "2 control_image"),
        ({"start_image": torch.rand(2, 3, 32, 32)}, "2 start_image"),
        ({"strenght": 0.5}, "strenght"),
    ],
)
def test_invalid_arguments(tiny_pipeline: FaceDeidPipeline, given: dict, words: str) -> None:
    with pytest.raises(TypeError if "strenght" in given else ValueError, match=words):
        tiny_pipeline(**{**inputs(), **given})


def test_saved_index(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "FaceDeidPipeline"
    assert index["attribute_adapter"] == ["deid_diffusion.models.attribute_adapter", "AttributeAdapter"]
    assert "_name_or_path" not in index


def test_without_adapter_or_features(tiny_pipeline: FaceDeidPipeline, tmp_path: Path) -> None:
    from tests.conftest import make_tiny_pipeline

    pipeline = make_tiny_pipeline(tmp_path, with_adapter=False)
    given = inputs()
    with pytest.raises(ValueError, match="no attribute_adapter"):
        run(pipeline, given)
    del given["attribute_features"]
    for model in (pipeline, tiny_pipeline):
        assert run(model, given).shape == (3, 32, 32, 3)
    pipeline.save_pretrained(tmp_path / "model")
    again = FaceDeidPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert again.attribute_adapter is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_photo_equals_anonymizer(astronaut: np.ndarray, dtype: torch.dtype) -> None:
    pipeline = FaceDeidPipeline.from_pretrained("builtin", torch_dtype=dtype)
    photo = Image.fromarray(astronaut)
    output = pipeline(image=photo, generator=torch.Generator().manual_seed(7))
    ((face,),) = output.records
    expected = Anonymizer(pipeline)(photo, Options(seed=7))
    assert (face.action, face.seed) == ("replaced", expected.faces[0].seed)
    assert np.array_equal(np.asarray(output.images[0]), np.asarray(expected.image))
    assert (np.asarray(output.images[0]) != astronaut).any()


def test_photos_and_options(anonymizer: Anonymizer, astronaut: np.ndarray) -> None:
    photos = [Image.fromarray(astronaut), Image.fromarray(np.zeros((64, 64, 3), np.uint8))]
    images, records = anonymizer.pipeline(image=photos, options=Options(keep=("pose",)), return_dict=False)
    assert [image.size for image in images] == [(512, 512), (64, 64)]
    assert records[0][0].kept_attributes == ("pose",)
    assert records[1] == ()


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


def result(changes: dict[str, str], adapter: AttributeAdapter | None = None) -> tuple[object, np.ndarray]:
    """Return the pipeline that a changed script leaves, and its (2, 32, 32, 3) pictures."""
    script = SCRIPT
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    names = {"adapter": adapter}
    exec(script, names)
    return names["pipe"], np.stack([np.asarray(image) for image in names["images"]])


@pytest.mark.parametrize("changes", [OURS, OURS | ARGUMENT, CUSTOM], ids=["class", "class and argument", "custom"])
def test_user_script_with_our_class(work: Path, changes: dict[str, str]) -> None:
    adapter = AttributeAdapter(16, 6, 4, 16).eval()
    pipe, pictures = result(changes, adapter)
    assert type(pipe).__name__ == "FaceDeidPipeline"
    assert pictures.shape == (2, 32, 32, 3)
    assert (pipe.attribute_adapter is not None) == (changes == OURS | ARGUMENT)
    init = np.array(Image.open(work / "init.png"))
    for inverted, is_masked in ((np.s_[8:24, 8:24], True), (np.s_[0, 0], False)):
        init[inverted] = 255 - init[inverted]
        Image.fromarray(init).save(work / "init.png")
        assert np.array_equal(result(changes, adapter)[1], pictures) == is_masked


def test_user_script(work: Path) -> None:
    pipe, pictures = result({})
    assert type(pipe).__name__ == "StableDiffusionControlNetInpaintPipeline"
    assert pictures.shape == (2, 32, 32, 3)
