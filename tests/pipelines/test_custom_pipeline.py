"""Every way in which diffusers takes a custom pipeline, from folders and from a hub."""

from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from packaging.version import Version

from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
from deid_diffusion.pipelines.loading import load_pipeline
from tests.loopback_hub import loopback_hub
from tests.pipelines.faces import inputs, run
from tests.tiny_hub import add_to_cache

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "pipelines" / "face_deid"
ASKS = Version(diffusers.__version__) >= Version("0.38")  # before, a folder's code is run without trust_remote_code


@pytest.fixture
def taken(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that has the model, a repository with nothing but our pipeline.py, and a checkpoint without our parts."""
    folders = {"me/model": saved, "me/face-deid": SHIM}
    with loopback_hub(monkeypatch, tmp_path / "cache", folders) as taken:
        yield taken


def check(loaded: DiffusionPipeline, plain: np.ndarray) -> None:
    assert type(loaded) is FaceDeidPipeline
    assert loaded.config.default_steps == 2
    assert type(loaded.attribute_adapter).__module__ == "deid_diffusion.models.attribute_adapter"
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(run(loaded, inputs()) - plain).max() < 1e-5
    assert loaded.embed_phrases(["a man"]).shape == (1, 16)


@pytest.mark.parametrize("form", [str(SHIM), str(SHIM / "pipeline.py"), "pipeline", None])
def test_from_a_folder(form: str | None, saved: Path, plain: np.ndarray) -> None:
    """A folder with pipeline.py; a file; a file's name inside the model's folder; what model_index.json names."""
    check(DiffusionPipeline.from_pretrained(saved, custom_pipeline=form, trust_remote_code=True), plain)


@pytest.mark.parametrize("form", ["me/face-deid", "pipeline", None])
def test_from_a_hub(form: str | None, taken: list[str], plain: np.ndarray) -> None:
    """A repository with pipeline.py; a file's name inside the model's repository; what model_index.json names."""
    check(DiffusionPipeline.from_pretrained("me/model", custom_pipeline=form, trust_remote_code=True), plain)
    assert "attribute_adapter/attribute_adapter.py" in taken
    assert "pipeline.py" in taken


@pytest.mark.parametrize("source", ["folder", "hub"])
def test_by_its_class(source: str, saved: Path, taken: list[str], plain: np.ndarray) -> None:
    name = {"folder": saved, "hub": "me/model"}[source]
    check(FaceDeidPipeline.from_pretrained(name, trust_remote_code=True), plain)


def test_from_the_hubs_cache_without_a_network(saved: Path, tmp_path: Path, plain: np.ndarray) -> None:
    add_to_cache(tmp_path, "me/model", saved)
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    check(DiffusionPipeline.from_pretrained("me/model", trust_remote_code=True, **offline), plain)


def test_what_was_downloaded_is_loaded_without_a_network_and_without_its_code(
    saved: Path, tmp_path: Path, hub_cache: Path, plain: np.ndarray
) -> None:
    """By our own loader: diffusers 0.42 asks the hub for the commit of a repository's code even so."""
    with pytest.MonkeyPatch.context() as patch, loopback_hub(patch, hub_cache, {"me/model": saved}) as taken:
        load_pipeline("me/model", torch.float32)
    assert {"unet/config.json", "attribute_adapter/config.json"} <= set(taken)
    assert not any(name.endswith(".py") for name in taken)
    check(load_pipeline("me/model", torch.float32), plain)


@pytest.mark.parametrize("form", [str(SHIM), "me/face-deid"])
def test_over_a_plain_checkpoint_with_our_parts(
    form: str, hub: dict[str, Path], taken: list[str], tiny_pipeline: FaceDeidPipeline
) -> None:
    from deid_diffusion.pipelines.presets import INPAINTING

    names = ("controlnet", "image_encoder", "attribute_adapter", "phrase_encoder")
    ours = {name: getattr(tiny_pipeline, name) for name in names}
    loaded = DiffusionPipeline.from_pretrained(
        hub[INPAINTING.name], custom_pipeline=form, trust_remote_code=True, variant="fp16", **ours
    )
    assert type(loaded) is FaceDeidPipeline
    assert all(getattr(loaded, name) is part for name, part in ours.items())


def test_code_is_not_run_unasked(saved: Path, taken: list[str]) -> None:
    for name in ([saved] if ASKS else []) + ["me/model"]:
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            DiffusionPipeline.from_pretrained(name)
