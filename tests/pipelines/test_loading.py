import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from deid_diffusion.errors import DeidError
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.loading import fastest_dtype, load_pipeline, load_saved, pick_device, short_name
from tests.pipelines.faces import inputs, run


def test_pick_device() -> None:
    torch.empty(1, device=pick_device("auto"))
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "tpu9"):
        with pytest.raises(DeidError, match=f"--device {name}: not available here"):
            pick_device(name)


@pytest.mark.parametrize(
    ("instructions", "device", "expected"),
    [
        ("avx512_bf16", "cpu", torch.bfloat16),
        ("amx_tile", "cpu", torch.bfloat16),
        (None, "cpu", torch.float32),
        ("avx512_bf16", "cuda", torch.float16),
        ("avx512_bf16", "mps", torch.float32),
    ],
)
def test_fastest_dtype(monkeypatch, instructions: str | None, device: str, expected: torch.dtype) -> None:
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name == instructions, raising=False)
    assert fastest_dtype(torch.device(device)) == expected


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved pipeline that a test may change."""
    return shutil.copytree(saved, tmp_path / "copy")


def rewrite(folder: Path, **entries: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entries}))


def test_load_saved(saved: Path, tiny_pipeline: FaceDeidPipeline) -> None:
    loaded = load_saved(saved, torch.float32)
    types = {name: type(part) for name, part in loaded.components.items()}
    assert types == {name: type(part) for name, part in tiny_pipeline.components.items()}
    assert not any(model.training for model in loaded.components.values() if isinstance(model, torch.nn.Module))
    assert (loaded.config.default_steps, loaded.config.control) == (2, "semantic_map")
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(run(loaded, inputs()) - run(tiny_pipeline, inputs())).max() < 1e-5


LOADERS = [lambda folder: load_saved(folder, torch.float32), FaceDeidPipeline.from_pretrained]


@pytest.mark.parametrize("load", LOADERS)
def test_published_code_ignored(published: Path, tmp_path: Path, load: Callable[[Path], FaceDeidPipeline]) -> None:
    folder = shutil.copytree(published, tmp_path / "copy")
    for name in ("pipeline.py", "attribute_adapter/attribute_adapter.py", "unet/unet.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert type(load(folder)) is FaceDeidPipeline
    assert not (tmp_path / "ran").exists()


OWN_CODE = "attribute_adapter/deid_diffusion.models.attribute_adapter.py"


@pytest.mark.parametrize("file", ["None.py", "unet/diffusers.py", "text_encoder/transformers.py", OWN_CODE])
@pytest.mark.parametrize("load", LOADERS)
def test_code_that_diffusers_runs(folder: Path, tmp_path: Path, load: Callable[[Path], object], file: str) -> None:
    (folder / file).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DeidError, match="which diffusers would run"):
        load(folder)
    assert not (tmp_path / "ran").exists()


CLASSES = """diffusers DiffusionPipeline, diffusers nothing, os system, transformers AutoModel,
    unet UNet2DConditionModel, deid_diffusion.anonymizer Anonymizer"""


@pytest.mark.parametrize(("library", "name"), [entry.split() for entry in CLASSES.split(",")])
def test_class_not_allowed(folder: Path, library: str, name: str) -> None:
    rewrite(folder, vae=[library, name])
    with pytest.raises(DeidError, match=rf"its vae is a {library}\.{name}, which no installed library has"):
        load_saved(folder, torch.float32)


def test_other_saved_pipelines(tiny_pipeline: FaceDeidPipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert load_saved(tmp_path / "half", torch.float16).unet.dtype == torch.float16
    plain = diffusers.StableDiffusionControlNetInpaintPipeline.from_pipe(tiny_pipeline)
    plain.save_pretrained(tmp_path / "plain")
    loaded = load_saved(tmp_path / "plain", torch.float32)
    assert type(loaded) is FaceDeidPipeline
    assert loaded.attribute_adapter is None


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: rewrite(folder, unet=[None, None]), "its model_index.json names no unet"),
        (lambda folder: rewrite(folder, unet="UNet2DConditionModel"), "its model_index.json names no unet"),
        (lambda folder: rewrite(folder, control="canny"), "control: expected one of semantic_map"),
        (lambda folder: rewrite(folder, _class_name="FluxPipeline"), "holds a FluxPipeline: expected a FaceDeid"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "is no folder written by save_pretrained"),
        (
            lambda folder: FaceEncoder(16, 8).save_pretrained(folder / "attribute_adapter"),
            "its attribute_adapter is of class FaceEncoder, expected AttributeAdapter",
        ),
        (lambda folder: cut_off(folder / "text_encoder" / "model.safetensors"), "its text_encoder is damaged"),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "vae"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "its vae is damaged"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "its tokenizer is missing"),
    ],
)
def test_broken_folder(folder: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(folder)
    with pytest.raises(DeidError, match=words) as caught:
        load_saved(folder, torch.float32)
    assert "\n" not in str(caught.value)


def test_builtin_and_short_names() -> None:
    names = {"sd15-semantic=/home/me/trained": "sd15-semantic=trained", "/home/me/model": "model", "builtin": "builtin"}
    assert {model: short_name(model) for model in names} == names
    weight = load_pipeline("builtin", torch.float32).unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
