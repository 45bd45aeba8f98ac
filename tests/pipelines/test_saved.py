import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.saved import load_saved
from tests.pipelines.faces import inputs, run


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
