import copy
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import apply_group_offloading
from packaging.version import Version
from PIL import Image

from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from tests.pipelines.faces import generators, inputs, run
from tests.tiny_hub import ip_adapter, lora

NEW = Version(diffusers.__version__) >= Version("0.38")
needs_accelerator = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="diffusers offloads to an accelerator, and there is none here"
)


@pytest.fixture
def pipeline(tiny_pipeline: FaceDeidPipeline) -> FaceDeidPipeline:
    """A copy that a test may change."""
    return copy.deepcopy(tiny_pipeline)


def differs(result: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(result - other).max()) > 1e-4


SCHEDULERS = "DDIM LCM TCD DPMSolverMultistep UniPCMultistep EulerDiscrete EulerAncestralDiscrete PNDM"


@pytest.mark.parametrize("name", SCHEDULERS.split())
def test_scheduler(pipeline: FaceDeidPipeline, name: str) -> None:
    config = {**pipeline.scheduler.config, "rescale_betas_zero_snr": False, "skip_prk_steps": True}
    pipeline.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
    pictures = run(pipeline, inputs(), num_inference_steps=3)
    assert pictures.shape == (3, 32, 32, 3)
    assert np.isfinite(pictures).all()


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "latent"])
def test_output_type(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray, output_type: str) -> None:
    (result, *_) = tiny_pipeline(**inputs(), generator=generators(), output_type=output_type, return_dict=False)
    assert len(result) == 3
    if output_type == "pil":
        assert np.abs(np.stack(result) / 255 - plain).max() <= 0.5 / 255 + 1e-6
    elif output_type == "pt":
        assert torch.allclose(result.permute(0, 2, 3, 1), torch.from_numpy(plain), atol=1e-6)
    elif output_type == "latent":
        assert result.shape == (3, 4, 16, 16)


def test_num_images_per_prompt(tiny_pipeline: FaceDeidPipeline) -> None:
    given = inputs()
    together = run(tiny_pipeline, given, num_images_per_prompt=2, generator=generators(range(6)))
    twice = {name: value.repeat_interleave(2, 0) for name, value in given.items()}
    assert np.abs(together - run(tiny_pipeline, twice, generator=generators(range(6)))).max() < 1e-4
    first, second = (run(tiny_pipeline, given, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert np.array_equal(first, second)  # of a single generator


def test_callback(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    steps = []

    def stop(pipe, step, time, tensors):
        steps.append((step, sorted(tensors), tensors["prompt_embeds"].shape[0]))
        pipe._interrupt = True
        return tensors

    names = ["latents", "prompt_embeds"]
    result = run(tiny_pipeline, inputs(), callback_on_step_end=stop, callback_on_step_end_tensor_inputs=names)
    assert steps == [(0, names, 6)]
    assert differs(result, plain)


def test_prompt_embeds_and_guidance(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    positive, negative = tiny_pipeline.encode_prompt([""] * 3, torch.device("cpu"), 1, True)
    given = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    assert np.abs(run(tiny_pipeline, inputs(), **given) - plain).max() < 1e-5
    assert differs(run(tiny_pipeline, inputs(), control_guidance_end=0.4), plain)
    assert differs(run(tiny_pipeline, inputs(), guess_mode=True), plain)


def test_from_pipe(tiny_pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    theirs = diffusers.StableDiffusionControlNetInpaintPipeline.from_pipe(tiny_pipeline)
    assert theirs.unet is tiny_pipeline.unet
    own = ("image_encoder", "attribute_adapter", "phrase_encoder", "identity_model")
    parts = {name: getattr(tiny_pipeline, name) for name in own}
    ours = FaceDeidPipeline.from_pipe(theirs, **parts)
    assert type(ours) is FaceDeidPipeline
    assert ours.attribute_adapter is tiny_pipeline.attribute_adapter
    given = {"num_inference_steps": 2, "guidance_scale": 1.5}
    assert np.abs(run(ours, inputs(), **given) - plain).max() < 1e-5
    shim = str(Path(__file__).parents[2] / "pipelines" / "face_deid")
    trust = {"trust_remote_code": True} if NEW else {}  # before, from_pipe does not ask
    again = DiffusionPipeline.from_pipe(tiny_pipeline, custom_pipeline=shim, **trust)
    assert type(again) is FaceDeidPipeline
    assert again.config.default_steps == 2
    assert np.abs(run(again, inputs()) - plain).max() < 1e-5


def test_lora(pipeline: FaceDeidPipeline, plain: np.ndarray, tmp_path: Path) -> None:
    path = lora(tmp_path, pipeline.unet)
    pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="style")
    styled = run(pipeline, inputs())
    assert differs(styled, plain)
    assert np.abs(run(pipeline, inputs(), cross_attention_kwargs={"scale": 0.0}) - plain).max() < 1e-5
    pipeline.fuse_lora()
    assert np.abs(run(pipeline, inputs()) - styled).max() < 1e-3
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert np.abs(run(pipeline, inputs()) - plain).max() < 1e-3


def test_textual_inversion(pipeline: FaceDeidPipeline) -> None:
    before = run(pipeline, inputs(), prompt="photo of <them>")
    pipeline.load_textual_inversion({"<them>": torch.full((16,), 3.0)}, token="<them>")
    assert differs(run(pipeline, inputs(), prompt="photo of <them>"), before)


def test_ip_adapter(pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    encoder = pipeline.image_encoder
    pipeline.load_ip_adapter(ip_adapter(pipeline.unet, 12), subfolder="", weight_name="", image_encoder_folder=None)
    embeds = torch.randn(1, 1, 12, generator=torch.Generator().manual_seed(0))
    styles = {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(embeds), embeds])]}
    styled = run(pipeline, inputs(), **styles)
    assert differs(styled, plain)
    other = dict(inputs(), attribute_features=inputs()["attribute_features"].flip(-1))
    assert differs(run(pipeline, other, **styles), styled)
    pipeline.set_ip_adapter_scale(0.0)
    assert np.abs(run(pipeline, inputs(), **styles) - plain).max() < 1e-5
    with pytest.raises(ValueError, match="pass ip_adapter_image_embeds"):
        run(pipeline, inputs(), ip_adapter_image=Image.new("RGB", (32, 32)))
    pipeline.unload_ip_adapter()
    assert pipeline.image_encoder is encoder
    assert np.abs(run(pipeline, inputs()) - plain).max() < 1e-5


def test_layerwise_casting(pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    for model in (pipeline.unet, pipeline.controlnet, pipeline.attribute_adapter):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        assert any(weights.dtype == torch.float8_e4m3fn for weights in model.parameters())
    result = run(pipeline, inputs())
    assert np.isfinite(result).all()
    assert 0 < np.abs(result - plain).mean() < 0.05


MAPS = [np.ones((32, 32), np.uint8)] * 3


def test_group_offloading(pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    """From the CPU to the CPU, which shows that all hooks are passed; a GPU would be another device."""
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            apply_group_offloading(model, torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    assert pipeline.encode_attributes(inputs()["image"], MAPS).shape[0] == 3
    assert np.abs(run(pipeline, inputs()) - plain).max() < 1e-5


@needs_accelerator
@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_model_offloading(pipeline: FaceDeidPipeline, plain: np.ndarray, how: str) -> None:
    getattr(pipeline, how)()
    assert pipeline.encode_attributes(inputs()["image"], MAPS).shape[0] == 3
    assert np.abs(run(pipeline, inputs()) - plain).max() < 1e-2


def test_forward_hooks(pipeline: FaceDeidPipeline) -> None:
    """Model offloading moves a model to the accelerator when it is called, and not when a part of it is."""
    models = {"image_encoder", "phrase_encoder", "text_encoder", "attribute_adapter", "controlnet", "unet"}
    called_models = set()
    for name in models:
        getattr(pipeline, name).register_forward_hook(lambda *_, name=name: called_models.add(name))
    features = pipeline.encode_attributes(inputs()["image"], MAPS)
    pipeline.embed_phrases(["a man"])
    run(pipeline, dict(inputs(), attribute_features=features))
    assert called_models == models


def test_compile(pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    """Trace the UNet's blocks, and run them without the code generator, which takes a minute."""
    pipeline.unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    assert np.abs(run(pipeline, inputs()) - plain).max() < 1e-4


def test_tiny_autoencoder_and_freeu(pipeline: FaceDeidPipeline, plain: np.ndarray) -> None:
    pipeline.vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        upsampling_scaling_factor=2,
    ).eval()
    pipeline.fuse_qkv_projections(vae=False)
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert run(pipeline, inputs()).shape == plain.shape


def test_start_image(tiny_pipeline: FaceDeidPipeline) -> None:
    given = {**inputs(), "strength": 0.5, "num_inference_steps": 4}
    start = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    mask = given["mask_image"] >= 0.5
    full, inside, outside = (
        run(tiny_pipeline, {**given, "start_image": image})
        for image in (start, torch.where(mask, start, 0.0), torch.where(mask, 0.0, start))
    )
    assert np.array_equal(full, inside)
    assert np.abs(full - outside).max() > 1e-3
