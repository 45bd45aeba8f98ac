"""Fixtures: the stand-in of ComfyUI's API, photos as IMAGE, and given faces."""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.given_faces import FACE, OTHER, no_mesh

HERE = Path(__file__).parent

sys.path.insert(0, str(HERE / "stand_in"))


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Modules of the stand-in in their first state, with models in `tmp_path`; and our nodes by id."""
    names = ("folder_paths", "comfy.model_management", "comfy.utils")
    modules = {name.split(".")[-1]: importlib.import_module(name) for name in names}
    monkeypatch.setattr(modules["folder_paths"], "models_dir", str(tmp_path))
    monkeypatch.setattr(modules["folder_paths"], "folder_names_and_paths", {})
    from deid_diffusion.comfyui import nodes as extension
    from deid_diffusion.comfyui import runtime

    async def load() -> list[type]:
        return await (await extension.comfy_entrypoint()).get_node_list()

    nodes = {node.define_schema().node_id: node for node in asyncio.run(load())}
    for values in (modules["model_management"].loads, modules["utils"].shown, modules["utils"].hooks):
        values.clear()
    yield SimpleNamespace(**modules, nodes=nodes, generator=runtime)
    modules["model_management"].interrupt_current_processing(False)


@pytest.fixture
def unloaded(comfy: SimpleNamespace) -> None:
    """No model is loaded, as when ComfyUI starts; other tests share the loaded model."""
    comfy.model_management.unload_all_models()
    comfy.model_management.loads.clear()


@pytest.fixture
def image(astronaut: np.ndarray) -> torch.Tensor:
    """The astronaut twice, as IMAGE."""
    return torch.from_numpy(np.stack([astronaut, astronaut[:, ::-1]])).float() / 255


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two faces in every photo, without a mesh."""
    monkeypatch.setattr("deid_diffusion.comfyui.faces.shared_detector", lambda: lambda photo: [FACE, OTHER])
    monkeypatch.setattr("deid_diffusion.comfyui.faces.shared_landmarker", lambda: no_mesh)
