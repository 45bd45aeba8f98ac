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
from deid_diffusion.pipelines.presets import INPAINTING
from tests.loopback_hub import loopback_hub
from tests.pipelines.faces import inputs, run
from tests.tiny_hub import add_to_cache

ROOT = Path(__file__).parents[2]
SHIM = ROOT / "pipelines" / "face_deid"
ASKS = Version(diffusers.__version__) >= Version("0.38")  # before, a folder's code is run without trust_remote_code


@pytest.fixture
def downloads(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with the published model, and a repository with nothing but our pipeline.py; the files downloaded."""
    folders = {"me/model": published, "me/face-deid": SHIM}
    with loopback_hub(monkeypatch, tmp_path / "cache", folders) as downloads:
        yield downloads


def check(loaded: DiffusionPipeline, plain: np.ndarray) -> None:
    assert type(loaded) is FaceDeidPipeline
    assert loaded.config.default_steps == 2
    assert type(loaded.attribute_adapter).__module__ == "deid_diffusion.models.attribute_adapter"
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(run(loaded, inputs()) - plain).max() < 1e-5
    assert loaded.embed_phrases(["a man"]).shape == (1, 16)


def test_half_precision_weights(saved: Path, tmp_path: Path, plain: np.ndarray) -> None:
    """Without a dtype, transformers 5 loads its models as they were saved, and diffusers in single precision."""
    load_pipeline(str(saved), torch.float16).save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, custom_pipeline=str(SHIM), trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    assert np.abs(run(loaded, inputs()) - plain).max() < 0.02


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("saved", str(SHIM)),
        ("saved", str(SHIM / "pipeline.py")),
        ("published", str(SHIM)),
        ("published", "pipeline"),  # a file's name in the model's folder
        ("published", None),  # the class in model_index.json
    ],
)
def test_folder(source: str, form: str | None, request: pytest.FixtureRequest, plain: np.ndarray) -> None:
    folder = request.getfixturevalue(source)
    assert bool(list(folder.rglob("*.py"))) == (source == "published")
    check(DiffusionPipeline.from_pretrained(folder, custom_pipeline=form, trust_remote_code=True), plain)


@pytest.mark.parametrize("form", ["me/face-deid", "pipeline", None])
def test_hub(form: str | None, downloads: list[str], plain: np.ndarray) -> None:
    """A repository with pipeline.py; a file's name in the model's repository; the class in model_index.json."""
    check(DiffusionPipeline.from_pretrained("me/model", custom_pipeline=form, trust_remote_code=True), plain)
    assert {"attribute_adapter/attribute_adapter.py", "pipeline.py"} <= set(downloads)


@pytest.mark.parametrize("source", ["saved", "published", "hub"])
def test_class(source: str, saved: Path, published: Path, downloads: list[str], plain: np.ndarray) -> None:
    name = {"saved": saved, "published": published, "hub": "me/model"}[source]
    check(FaceDeidPipeline.from_pretrained(name, trust_remote_code=True), plain)


def test_hub_cache_offline(published: Path, tmp_path: Path, plain: np.ndarray) -> None:
    add_to_cache(tmp_path, "me/model", published)
    offline = {"cache_dir": tmp_path, "local_files_only": True}
    check(DiffusionPipeline.from_pretrained("me/model", trust_remote_code=True, **offline), plain)


@pytest.mark.parametrize("source", ["saved", "published"])
def test_loader_downloads_no_code(source: str, request, hub_cache: Path, plain: np.ndarray) -> None:
    """The second time without a network: diffusers 0.42 requests the commit of a repository's code even so."""
    folder = request.getfixturevalue(source)
    with pytest.MonkeyPatch.context() as patch, loopback_hub(patch, hub_cache, {"me/model": folder}) as downloads:
        load_pipeline("me/model", torch.float32)
    assert {"unet/config.json", "attribute_adapter/config.json"} <= set(downloads)
    assert not any(name.endswith(".py") for name in downloads)
    check(load_pipeline("me/model", torch.float32), plain)


@pytest.mark.parametrize("form", [str(SHIM), "me/face-deid"])
def test_plain_checkpoint(form: str, hub: dict[str, Path], downloads, tiny_pipeline: FaceDeidPipeline) -> None:
    names = ("controlnet", "image_encoder", "attribute_adapter", "phrase_encoder")
    ours = {name: getattr(tiny_pipeline, name) for name in names}
    options = {"custom_pipeline": form, "trust_remote_code": True, "variant": "fp16", **ours}
    loaded = DiffusionPipeline.from_pretrained(hub[INPAINTING.name], **options)
    assert type(loaded) is FaceDeidPipeline
    assert all(getattr(loaded, name) is part for name, part in ours.items())


def test_trust_remote_code_required(published: Path, downloads: list[str]) -> None:
    for name in ([published] if ASKS else []) + ["me/model"]:
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            DiffusionPipeline.from_pretrained(name)
