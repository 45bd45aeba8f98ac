"""The model under ComfyUI's memory manager."""

from types import SimpleNamespace

import pytest
import torch

from deid_diffusion.errors import DeidError


def test_a_second_run_loads_nothing(comfy: SimpleNamespace) -> None:
    first = comfy.generator.ready("embedded", 8)
    assert comfy.generator.ready("embedded", 8) is first
    assert comfy.model_management.loads == ["FaceDeidModel"]


def test_what_comfyui_unloads_has_no_weights_left_and_comes_again(comfy: SimpleNamespace) -> None:
    first = comfy.generator.ready("embedded", 8)
    networks = [one for one in first.pipeline.components.values() if isinstance(one, torch.nn.Module)]
    comfy.model_management.unload_all_models()
    assert all(weight.is_meta for one in networks for weight in one.parameters())
    again = comfy.generator.ready("embedded", 8)
    assert again is not first
    assert not again.pipeline.unet.conv_in.weight.is_meta
    assert comfy.model_management.loads == ["FaceDeidModel"] * 2


def test_weights_that_nodes_load_can_be_moved_outside_of_them(comfy: SimpleNamespace) -> None:
    """Nodes run in inference mode, and ComfyUI's memory manager does not."""
    with torch.inference_mode():
        pipeline = comfy.generator.ready("embedded", 8).pipeline
    assert not pipeline.unet.conv_in.weight.is_inference()
    assert not pipeline.unet.conv_in.weight.requires_grad


def test_a_folder_without_a_model_is_one_line(comfy: SimpleNamespace, tmp_path) -> None:
    (tmp_path / "deid_diffusion" / "broken").mkdir(parents=True)
    (tmp_path / "deid_diffusion" / "broken" / "model_index.json").write_text(
        '{"_class_name": ["pipeline", "FaceDeidPipeline"]}'
    )
    with pytest.raises(DeidError):
        comfy.generator.ready("broken", 8)
