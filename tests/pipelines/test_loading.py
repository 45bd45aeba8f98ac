"""Models by name, from small random models in the true layouts."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextModel

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.errors import DeidError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.semantic_map import draw_mediapipe_face, mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.options import Options
from deid_diffusion.pipelines import loading, presets
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.loading import fastest_dtype, load_pipeline, pick_device, short_name
from deid_diffusion.pipelines.presets import CLIP, FACE_LINES, INPAINTING, LCM_LORA
from deid_diffusion.pipelines.repositories import (
    Repository,
    dtype_argument,
    fetch,
    half_precision,
    load_part,
    load_saved,
)
from tests.fake_verifier import FakeVerifier
from tests.loopback_hub import COMMIT as HUBS_COMMIT
from tests.loopback_hub import loopback_hub
from tests.pipelines.faces import inputs, run
from tests.tiny_hub import add_to_cache, fill_cache


def test_auto_is_a_device_that_is_there() -> None:
    torch.empty(1, device=pick_device("auto"))
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu9"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(DeidError, match=f"--device {name}: not available here"):
        pick_device(name)


@pytest.mark.parametrize(
    ("instructions", "device", "expected"),
    [
        (("avx512_bf16",), "cpu", torch.bfloat16),
        (("amx_tile",), "cpu", torch.bfloat16),
        ((), "cpu", torch.float32),
        (("avx512_bf16",), "cuda", torch.float16),
        (("avx512_bf16",), "mps", torch.float32),
    ],
)
def test_numbers_are_those_that_the_device_computes_with(
    monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], device: str, expected: torch.dtype
) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in instructions, raising=False)
    assert fastest_dtype(torch.device(device)) == expected


COMMIT = "a" * 40
WANTED = Repository("me/model", "MIT", ("unet/w.safetensors",), ("unet/config.json", "tokenizer/*"), COMMIT)


def folder(path: Path, *files: str) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize("weights", ["unet/w.safetensors", "unet/w.fp16.safetensors"])
def test_a_folder_of_the_layout_is_taken_as_it_is(tmp_path: Path, weights: str) -> None:
    there = folder(tmp_path, "unet/config.json", weights)
    assert fetch(WANTED.at(str(there))) == there


def test_a_folder_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"lacks unet/config\.json, unet/w\.safetensors$"):
        fetch(WANTED.at(str(tmp_path)))


def test_pickled_weights_are_none(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"lacks unet/w\.safetensors$"):
        fetch(WANTED.at(str(folder(tmp_path, "unet/config.json", "unet/w.bin"))))


def test_the_cache_is_read_at_the_pinned_commit(tmp_path: Path, hub_cache: Path) -> None:
    there = folder(tmp_path / "repo", "unet/config.json", "unet/w.fp16.safetensors")
    snapshot = add_to_cache(hub_cache, "me/model", there, COMMIT)
    assert fetch(WANTED) == snapshot
    with pytest.raises(DeidError, match=f"--revision {'b' * 40}"):
        fetch(replace(WANTED, revision="b" * 40))
    newest = fetch(replace(WANTED, revision=None))
    assert newest == snapshot


def test_offline_one_line_says_what_to_download(hub_cache: Path) -> None:
    with pytest.raises(DeidError) as caught:
        fetch(WANTED)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("me/model: no such folder, and not to be had from the hub (Cannot find")
    assert line.endswith(
        f"while online, run: hf download me/model 'unet/config.json' 'tokenizer/*' "
        f"'unet/w*safetensors' --revision {COMMIT}"
    )


@pytest.mark.parametrize("wanted", [WANTED, Repository("me/model", "MIT", ("unet/w.safetensors",))])
def test_the_command_downloads_what_is_needed(
    wanted: Repository, tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed as it is printed, to the installed client."""
    from huggingface_hub.cli.hf import main

    wanted = replace(wanted, revision=wanted.revision and HUBS_COMMIT)
    needed = {"unet/w.fp16.safetensors", *(("unet/config.json", "tokenizer/vocab.json") if wanted.others else ())}
    there = folder(
        tmp_path / "repo", "unet/config.json", "unet/w.fp16.safetensors", "tokenizer/vocab.json", "unet/w.bin"
    )
    with pytest.raises(DeidError) as caught:
        fetch(wanted)
    monkeypatch.setattr("sys.argv", shlex.split(str(caught.value).partition("run: ")[2]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_UPDATE_CHECK", True, raising=False)
    patched = pytest.MonkeyPatch.context()
    with patched as patch, loopback_hub(patch, hub_cache, {"me/model": there}), suppress(SystemExit):
        main()
    found = fetch(wanted)
    assert {path.relative_to(found).as_posix() for path in found.rglob("*.*")} == needed


def test_an_incomplete_cache_is_no_model(tmp_path: Path, hub_cache: Path) -> None:
    add_to_cache(hub_cache, "me/model", folder(tmp_path / "repo", "unet/config.json"), COMMIT)
    with pytest.raises(DeidError, match="incomplete on this machine"):
        fetch(WANTED)


def test_what_is_pinned_and_complete_is_not_asked_for(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    there = folder(tmp_path / "repo", "unet/config.json", "unet/w.safetensors")

    def snapshot_download(name: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((revision, allow_patterns, local_files_only))
        if local_files_only and len(asked) < 2:
            raise FileNotFoundError("nothing here")
        return str(there)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    others = ["unet/config.json", "tokenizer/*"]
    assert fetch(WANTED) == there
    assert asked == [
        (COMMIT, [*others, "unet/w.fp16.safetensors"], True),
        (COMMIT, [*others, "unet/w.fp16.safetensors"], False),
        (COMMIT, ["unet/w.safetensors"], False),
    ]
    del asked[1:]
    fetch(WANTED)
    assert all(local for _, _, local in asked[1:])


def test_another_repository_is_not_pinned() -> None:
    assert WANTED.at("me/model") is WANTED
    other = WANTED.at("you/model")
    assert (other.name, other.revision, other.licence) == ("you/model", None, "see its model card")
    assert other.weights == WANTED.weights


def test_a_part_is_loaded_from_safetensors_in_either_precision(tmp_path: Path) -> None:
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    for variant, dtype in (("fp16", torch.float16), (None, torch.float32)):
        unet.save_pretrained(tmp_path / str(variant), variant=variant)
        loaded = load_part(UNet2DConditionModel, tmp_path / str(variant), dtype)
        assert loaded.dtype == dtype
    unet.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(DeidError, match="pickled: no UNet2DConditionModel can be loaded from it"):
        load_part(UNet2DConditionModel, tmp_path / "pickled", torch.float32)


def test_types_of_number_have_the_name_that_the_libraries_know() -> None:
    for kind in (UNet2DConditionModel, CLIPTextModel):
        (name,) = dtype_argument(kind, torch.float16)
        assert name in ("dtype", "torch_dtype")


def test_names_of_variants() -> None:
    assert half_precision("unet/w.safetensors") == "unet/w.fp16.safetensors"


@pytest.fixture
def mine(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(saved, tmp_path / "mine")


def rewrite(folder: Path, **entries: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entries}))


def test_it_is_what_was_saved(saved: Path, tiny_pipeline: FaceDeidPipeline) -> None:
    loaded = load_saved(saved, torch.float32)
    assert {name: type(part) for name, part in loaded.components.items()} == {
        name: type(part) for name, part in tiny_pipeline.components.items()
    }
    assert not any(model.training for model in loaded.components.values() if isinstance(model, torch.nn.Module))
    assert (loaded.config.default_steps, loaded.config.control) == (2, "semantic_map")
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(run(loaded, inputs()) - run(tiny_pipeline, inputs())).max() < 1e-5


def test_no_code_of_the_folder_is_run(mine: Path, tmp_path: Path) -> None:
    for place in ("pipeline.py", "attribute_adapter/attribute_adapter.py", "unet/unet.py"):
        (mine / place).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_saved(mine, torch.float32)
    rewrite(mine, unet=["unet", "UNet2DConditionModel"])
    with pytest.raises(DeidError, match=r"its unet is a unet\.UNet2DConditionModel, which no installed library has"):
        load_saved(mine, torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "entry",
    [["diffusers", "DiffusionPipeline"], ["diffusers", "nothing"], ["os", "system"], ["transformers", "AutoModel"]],
)
def test_a_part_is_a_model_by_name_or_nothing(mine: Path, entry: list[str]) -> None:
    rewrite(mine, vae=entry)
    with pytest.raises(DeidError, match="its vae is a "):
        load_saved(mine, torch.float32)


def test_half_precision_files_alone_will_do(tiny_pipeline: FaceDeidPipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert load_saved(tmp_path / "half", torch.float16).unet.dtype == torch.float16


def test_a_plain_controlnet_pipelines_folder_will_do(tiny_pipeline: FaceDeidPipeline, tmp_path: Path) -> None:
    theirs = diffusers.StableDiffusionControlNetInpaintPipeline.from_pipe(tiny_pipeline)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_saved(tmp_path / "theirs", torch.float32)
    assert type(loaded) is FaceDeidPipeline
    assert loaded.attribute_adapter is None


def _without_unet(folder: Path) -> None:
    rewrite(folder, unet=[None, None])


def _nameless_unet(folder: Path) -> None:
    rewrite(folder, unet="UNet2DConditionModel")


def _another_control(folder: Path) -> None:
    rewrite(folder, control="canny")


def _another_kind(folder: Path) -> None:
    rewrite(folder, _class_name="FluxPipeline")


def _no_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _cut_off(folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _no_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (_without_unet, "its model_index.json names no unet"),
        (_nameless_unet, "its model_index.json names no unet"),
        (_another_control, "cannot be followed .control: expected one of semantic_map"),
        (_another_kind, "holds a FluxPipeline: expected a FaceDeidPipeline"),
        (_no_index, "is no folder written by save_pretrained"),
        (_cut_off, "text_encoder: no CLIPTextModel can be loaded from it"),
        (_no_weights, "vae: no AutoencoderKL can be loaded from it"),
        (_no_tokenizer, "tokenizer: no CLIPTokenizer can be loaded from it"),
    ],
)
def test_what_is_broken_is_named(mine: Path, break_it: Callable[[Path], None], words: str) -> None:
    break_it(mine)
    with pytest.raises(DeidError, match=words):
        load_saved(mine, torch.float32)


@pytest.fixture
def trained(hub: dict[str, Path], tmp_path: Path) -> Path:
    """A folder as train_face_deid.py writes it."""
    from diffusers import ControlNetModel

    folder = tmp_path / "trained"
    ControlNetModel.from_pretrained(hub[FACE_LINES.name] / "diffusion_sd15").save_pretrained(folder / "controlnet")
    AttributeAdapter(16, 6, 4, 16).save_pretrained(folder / "attribute_adapter")
    return folder


@pytest.fixture(scope="module")
def sd15(hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FaceDeidPipeline:
    """The preset, from a full cache."""
    cache = tmp_path_factory.mktemp("full")
    fill_cache(cache, hub)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        return load_pipeline("sd15", torch.float32)


def paint(pipeline: FaceDeidPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    crops, mask = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    features = pipeline.encode_attributes(crops, [np.ones((32, 32), np.uint8)])
    given = {"image": crops, "mask_image": mask, "control_image": crops, "attribute_features": features}
    return pipeline(**given, num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="np").images


def test_sd15_is_put_together_from_the_cache(sd15: FaceDeidPipeline, hub: dict[str, Path]) -> None:
    pipeline = sd15
    assert (pipeline.crop_size, pipeline.config.control, pipeline.config.default_steps) == (32, "mediapipe_face", 25)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert pipeline.safety_checker is None
    assert pipeline.attribute_adapter is None
    assert pipeline.reads_attributes
    assert pipeline.embed_phrases(["a man"]).shape == (1, 16)
    assert pipeline.unet.dtype == pipeline.image_encoder.dtype == torch.float32
    half = load_file(hub[INPAINTING.name] / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(pipeline.unet.conv_in.weight, half["conv_in.weight"].float())
    half = load_file(hub[INPAINTING.name] / "text_encoder" / "model.fp16.safetensors")
    name = "embeddings.token_embedding.weight"  # with or without a prefix, as transformers will
    (loaded,) = (value for key, value in pipeline.text_encoder.state_dict().items() if key.endswith(name))
    assert torch.equal(loaded, half[f"text_model.{name}"].float())
    assert paint(pipeline).shape == (1, 32, 32, 3)


def test_a_saved_preset_remembers_its_kind_of_control_image(sd15: FaceDeidPipeline, tmp_path: Path) -> None:
    sd15.save_pretrained(tmp_path / "saved")
    again = load_pipeline(str(tmp_path / "saved"), torch.float32)
    assert again.config.control == "mediapipe_face"
    assert np.abs(paint(again) - paint(sd15)).max() < 1e-5


def test_the_lora_is_fused_and_its_sampler_taken(sd15: FaceDeidPipeline, hub: dict[str, Path], hub_cache: Path) -> None:
    fill_cache(hub_cache, hub)
    fast = load_pipeline("sd15-lcm", torch.float32)
    assert isinstance(fast.scheduler, LCMScheduler)
    assert fast.config.default_steps == 8
    before, after = sd15.unet.state_dict(), fast.unet.state_dict()
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name, value in after.items() if not torch.equal(before[name], value)}
    assert changed == {"to_q", "to_v", "conv1"}


def test_a_lora_without_peft_says_what_to_install(
    hub: dict[str, Path], hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(hub_cache, hub)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DeidError, match=r"a LoRA needs a package that is missing here: pip install 'peft'$"):
        load_pipeline("sd15-lcm", torch.float32)


def test_our_own_parts_go_over_the_same_base(hub: dict[str, Path], hub_cache: Path, trained: Path) -> None:
    fill_cache(hub_cache, hub)
    pipeline = load_pipeline(f"sd15-semantic={trained}", torch.float32)
    assert pipeline.config.control == "semantic_map"
    assert paint(pipeline).shape == (1, 32, 32, 3)
    add_to_cache(hub_cache, "me/trained", trained)
    again = load_pipeline("sd15-semantic=me/trained", torch.float32)
    assert np.abs(paint(again) - paint(pipeline)).max() < 1e-5


def test_a_distilled_generator_brings_its_sampler(hub: dict[str, Path], hub_cache: Path, trained: Path) -> None:
    fill_cache(hub_cache, hub)
    LCMScheduler().save_pretrained(trained / "scheduler")
    pipeline = load_pipeline(f"sd15-semantic={trained}", torch.float32)
    assert isinstance(pipeline.scheduler, LCMScheduler)


def test_a_base_of_ones_own(hub: dict[str, Path], hub_cache: Path) -> None:
    for one in (FACE_LINES, CLIP):
        add_to_cache(hub_cache, one.name, hub[one.name], one.revision or "")
    pipeline = load_pipeline(f"sd15={hub[INPAINTING.name]}", torch.float16)
    assert pipeline.unet.dtype == pipeline.vae.dtype == pipeline.phrase_encoder.dtype == torch.float16
    with pytest.raises(DeidError, match=r"without ControlNet: put sd15= before its name$"):
        load_pipeline(str(hub[INPAINTING.name]), torch.float32)


def test_what_is_not_on_this_machine_is_named_with_the_command(hub: dict[str, Path], hub_cache: Path) -> None:
    add_to_cache(hub_cache, INPAINTING.name, hub[INPAINTING.name], INPAINTING.revision or "")
    with pytest.raises(DeidError, match=f"hf download {CLIP.name} .* --revision {CLIP.revision}"):
        load_pipeline("sd15", torch.float32)
    with pytest.raises(DeidError, match=r"run: hf download me/nothing .*; or give builtin, sd15, sd15-lcm"):
        load_pipeline("me/nothing", torch.float32)


def test_what_a_user_names_is_looked_at_before_anything_is_downloaded(tmp_path: Path, hub_cache: Path) -> None:
    with pytest.raises(DeidError, match=rf"^{tmp_path}: lacks controlnet/config\.json"):
        load_pipeline(f"sd15-semantic={tmp_path}", torch.float32)
    with pytest.raises(DeidError, match=r"^model no/such/model: no such folder, and no name that the hub can have; or"):
        load_pipeline("no/such/model", torch.float32)


def test_parts_of_different_families_are_refused(hub: dict[str, Path], hub_cache: Path, trained: Path) -> None:
    fill_cache(hub_cache, hub)
    AttributeAdapter(16, 6, 4, 24).save_pretrained(trained / "attribute_adapter")
    with pytest.raises(DeidError, match="AttributeAdapter was made for texts of width 24, this checkpoint's have 16"):
        load_pipeline(f"sd15-semantic={trained}", torch.float32)


def test_licences_are_said_once(
    sd15: FaceDeidPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presets, "build_preset", lambda preset, dtype: sd15)
    loading._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "deid_diffusion"):
        for _ in range(2):
            load_pipeline("sd15-lcm", torch.float32)
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("deid_diffusion")]
    for one in (INPAINTING, FACE_LINES, CLIP, LCM_LORA):
        assert f"{one.name} ({one.licence})" in line


def test_the_anonymizer_takes_a_preset(sd15: FaceDeidPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "build_preset", lambda preset, dtype: sd15)
    made = Anonymizer.from_pretrained("sd15", device="cpu")
    assert made.pipeline is sd15
    assert made.model_name == "sd15"


def test_reports_do_not_name_folders() -> None:
    names = ["sd15-semantic=/home/me/trained", "/home/me/model", "builtin", "me/model"]
    assert [short_name(name) for name in names] == ["sd15-semantic=trained", "model", "builtin", "model"]


def test_faces_are_replaced_and_the_controlnet_sees_lines(
    sd15: FaceDeidPipeline, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of another face's proportions, in the colours that CrucibleAI's ControlNet knows."""
    seen, real = [], type(sd15.controlnet).forward

    def forward(self, *given: object, controlnet_cond: torch.Tensor, **options: object) -> object:
        seen.append(controlnet_cond)
        return real(self, *given, controlnet_cond=controlnet_cond, **options)

    monkeypatch.setattr(type(sd15.controlnet), "forward", forward)
    face = Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given")
    model = Anonymizer(sd15, detector=lambda image: [face], verifier=FakeVerifier())
    result = model(astronaut, Options(seed=1, num_inference_steps=1, keep=("expression", "age")))
    assert [one.action for one in result.faces] == ["replaced"]
    colours = {tuple(colour) for colour in (seen[0][0] * 255).round().byte().flatten(1).T.tolist()}
    known = draw_mediapipe_face(mean_mesh(512), 512).reshape(-1, 3)
    assert {(0, 0, 0), (10, 200, 10)} < colours <= {tuple(colour) for colour in known.tolist()}


def test_the_command_line_says_what_to_download(call, tmp_path: Path, hub_cache: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut).save(tmp_path / "photo.png")
    arguments = ("anonymize", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--device", "cpu", "--model")
    for model, words in (("sd15", f"run: hf download {INPAINTING.name}"), ("sd15-semantic", "say whose")):
        code, _, errors = call(*arguments, model)
        assert code == 2
        (line,) = [one for one in errors if one.startswith("error: ")]
        assert words in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_convolutions_are_laid_out_channels_last() -> None:
    weight = load_pipeline("builtin", torch.float32).unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
