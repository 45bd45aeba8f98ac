"""The stand-in of ComfyUI's API, photos as IMAGE, and faces that need no detector."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deid_diffusion.comfyui import faces
from deid_diffusion.faces.boxes import Detection

HERE = Path(__file__).parent
FACES = (
    Detection((170.0, 60.0, 270.0, 190.0), 0.9, "given"),
    Detection((300.0, 300.0, 360.0, 380.0), 0.8, "given"),
)

sys.path.insert(0, str(HERE / "stand_in"))


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The stand-in's modules, as new, its models in `tmp_path`; and our nodes by id."""
    names = ("folder_paths", "comfy.model_management", "comfy.utils")
    modules = {name.split(".")[-1]: importlib.import_module(name) for name in names}
    monkeypatch.setattr(modules["folder_paths"], "models_dir", str(tmp_path))
    monkeypatch.setattr(modules["folder_paths"], "folder_names_and_paths", {})
    from deid_diffusion.comfyui import nodes as extension
    from deid_diffusion.comfyui import runtime

    loop = importlib.import_module("asyncio")

    async def load() -> list[type]:
        return await (await extension.comfy_entrypoint()).get_node_list()

    nodes = {node.define_schema().node_id: node for node in loop.run(load())}
    for held in (modules["model_management"].loads, modules["utils"].shown, modules["utils"].hooks):
        held.clear()
    yield SimpleNamespace(**modules, nodes=nodes, generator=runtime)
    modules["model_management"].unload_all_models()
    modules["model_management"].interrupt_current_processing(False)


@pytest.fixture
def image(astronaut: np.ndarray) -> torch.Tensor:
    """The astronaut twice, as IMAGE."""
    return torch.from_numpy(np.stack([astronaut, astronaut[:, ::-1]])).float() / 255


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two faces in every photo, without a mesh."""
    monkeypatch.setattr(faces, "shared_detector", lambda: lambda photo: list(FACES))
    monkeypatch.setattr(faces, "shared_landmarker", lambda: lambda crop: None)
