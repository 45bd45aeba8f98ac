"""Model folders, images and masks, and the model under ComfyUI's memory manager."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deid_diffusion.comfyui import runtime
from deid_diffusion.comfyui.runtime import changed, to_image, to_mask, to_photos
from deid_diffusion.errors import DeidError, UsageError


@pytest.fixture
def models(comfy: SimpleNamespace, tmp_path: Path) -> Path:
    for name in ("deid_diffusion/complete", "attribute_adapters/adapter", "deid_diffusion/embedded"):
        (tmp_path / name / "attribute_adapter").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
        (tmp_path / name / "attribute_adapter" / "config.json").write_text("{}")
    for name in ("deid_diffusion/no_adapter", "attribute_adapters/no_adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text("{}")
    (tmp_path / "deid_diffusion" / "no_model").mkdir()
    (tmp_path / "deid_diffusion" / "a_file.txt").write_text("")
    return tmp_path


def test_model_folders_are_listed(models):
    assert runtime.list_models("deid_diffusion") == ["embedded", "complete", "no_adapter"]
    assert runtime.list_models("attribute_adapters") == ["embedded", "adapter", "complete"]
    assert runtime.model_folder("attribute_adapters", "complete") == models / "deid_diffusion" / "complete"
    assert runtime.model_folder("deid_diffusion", "embedded").name == "builtin"


@pytest.mark.parametrize("name", ["gone", "../attribute_adapters/adapter", ""])
def test_unknown_model_folder(models, name):
    with pytest.raises(FileNotFoundError, match="there are embedded, complete, no_adapter"):
        runtime.model_folder("deid_diffusion", name)


def test_builtin_without_folders(comfy):
    assert runtime.list_models("attribute_adapters") == ["embedded"]


def test_8_bit_round_trip():
    """Also by ComfyUI's conversion for files, which rounds down."""
    picture = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    image = to_image([picture])
    assert image.dtype == torch.float32
    assert np.array_equal(to_photos(image)[0], picture)
    assert np.array_equal(np.clip(255.0 * image[0].numpy(), 0, 255).astype(np.uint8), picture)


def test_clipping_and_rounding():
    image = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0]).view(1, 2, 2, 1).expand(1, 2, 2, 3)
    assert to_photos(image)[0][..., 0].ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (4, 4, 3), (0, 4, 4, 3), (1, 3, 4, 4)])
def test_non_rgb_is_refused(shape):
    with pytest.raises(UsageError, match="expected a batch of RGB pictures"):
        to_photos(torch.zeros(shape))


def test_nan_is_refused():
    with pytest.raises(UsageError, match="NaN or infinity"):
        to_photos(torch.full((1, 2, 2, 3), float("nan")))


def test_masks():
    before = np.zeros((2, 3, 3), np.uint8)
    after = before.copy()
    after[1, 2, 1] = 9
    mask = to_mask([changed(before, after)])
    assert mask.shape == (1, 2, 3)
    assert mask.sum() == mask[0, 1, 2] == 1


def test_model_is_loaded_once(comfy, unloaded):
    first = comfy.generator.ready("embedded", 8)
    assert comfy.generator.ready("embedded", 8) is first
    assert comfy.model_management.loads == ["FaceDeidModel"]


def test_unloaded_model_is_reloaded(comfy, unloaded):
    first = comfy.generator.ready("embedded", 8)
    networks = [network for network in first.pipeline.components.values() if isinstance(network, torch.nn.Module)]
    comfy.model_management.unload_all_models()
    assert all(weight.is_meta for network in networks for weight in network.parameters())
    again = comfy.generator.ready("embedded", 8)
    assert again is not first
    assert not again.pipeline.unet.conv_in.weight.is_meta
    assert comfy.model_management.loads == ["FaceDeidModel"] * 2


def test_weights_move_outside_inference_mode(comfy, unloaded):
    """Nodes run in inference mode, and ComfyUI's memory manager does not."""
    with torch.inference_mode():
        pipeline = comfy.generator.ready("embedded", 8).pipeline
    assert not pipeline.unet.conv_in.weight.is_inference()
    assert not pipeline.unet.conv_in.weight.requires_grad


def test_folder_without_model(comfy, tmp_path):
    (tmp_path / "deid_diffusion" / "broken").mkdir(parents=True)
    (tmp_path / "deid_diffusion" / "broken" / "model_index.json").write_text(
        '{"_class_name": ["pipeline", "FaceDeidPipeline"]}'
    )
    with pytest.raises(DeidError):
        comfy.generator.ready("broken", 8)
