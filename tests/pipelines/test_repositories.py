import json
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import UNet2DConditionModel

from deid_diffusion.errors import DeidError
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.pipelines.repositories import Repository, fetch, load_part
from tests.loopback_hub import COMMIT as HUB_COMMIT
from tests.loopback_hub import loopback_hub
from tests.tiny_hub import UNET, add_to_cache

COMMIT = "a" * 40
REPOSITORY = Repository("me/model", "MIT", ("unet/w.safetensors",), ("unet/config.json", "tokenizer/*"), COMMIT)


def make_folder(path: Path, *files: str) -> Path:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    return path


@pytest.mark.parametrize("weights", ["unet/w.safetensors", "unet/w.fp16.safetensors"])
def test_fetch_folder(tmp_path: Path, weights: str) -> None:
    repository = REPOSITORY.at(str(tmp_path))
    with pytest.raises(DeidError, match=r"lacks unet/config.json, unet/w.safetensors$"):
        fetch(repository)
    make_folder(tmp_path, "unet/config.json", "unet/w.bin")
    with pytest.raises(DeidError, match=r"lacks unet/w.safetensors$"):
        fetch(repository)
    make_folder(tmp_path, weights)
    assert fetch(repository) == tmp_path


def test_fetch_cached_commit(tmp_path: Path, hub_cache: Path) -> None:
    folder = make_folder(tmp_path / "repo", "unet/config.json", "unet/w.fp16.safetensors")
    snapshot = add_to_cache(hub_cache, "me/model", folder, COMMIT)
    assert fetch(REPOSITORY) == fetch(replace(REPOSITORY, revision=None)) == snapshot
    with pytest.raises(DeidError, match=f"--revision {'b' * 40}"):
        fetch(replace(REPOSITORY, revision="b" * 40))
    add_to_cache(hub_cache, "me/other", make_folder(tmp_path / "other", "unet/config.json"), COMMIT)
    with pytest.raises(DeidError, match="incomplete on this machine"):
        fetch(replace(REPOSITORY, name="me/other"))


def test_fetch_offline(hub_cache: Path) -> None:
    with pytest.raises(DeidError) as caught:
        fetch(REPOSITORY)
    message, files = str(caught.value), "'unet/config.json' 'tokenizer/*' 'unet/w*safetensors'"
    assert "\n" not in message
    assert message.startswith("me/model: no such folder, and not available from the hub (Cannot find")
    assert message.endswith(f"while online, run: hf download me/model {files} --revision {COMMIT}")


@pytest.mark.parametrize("repository", [REPOSITORY, Repository("me/model", "MIT", ("unet/w.safetensors",))])
def test_fetch_printed_command(repository: Repository, tmp_path: Path, hub_cache: Path, monkeypatch) -> None:
    """The command in the error message, run by the installed client, downloads all that is needed."""
    from huggingface_hub.cli.hf import main

    repository = replace(repository, revision=repository.revision and HUB_COMMIT)
    others = ("unet/config.json", "tokenizer/vocab.json")
    needed = {"unet/w.fp16.safetensors", *(others if repository.others else ())}
    source = make_folder(tmp_path / "repo", "unet/w.fp16.safetensors", "unet/w.bin", *others)
    with pytest.raises(DeidError) as caught:
        fetch(repository)
    monkeypatch.setattr("sys.argv", shlex.split(str(caught.value).partition("run: ")[2]))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_UPDATE_CHECK", True, raising=False)
    with pytest.MonkeyPatch.context() as patch, loopback_hub(patch, hub_cache, {"me/model": source}):  # noqa: SIM117
        with suppress(SystemExit):
            main()
    snapshot = fetch(repository)
    assert {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.*")} == needed


def test_fetch_pinned_without_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], bool]] = []
    folder = make_folder(tmp_path / "repo", "unet/config.json", "unet/w.safetensors")

    def snapshot_download(name: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        calls.append((revision, allow_patterns, local_files_only))
        if local_files_only and len(calls) < 2:
            raise FileNotFoundError("nothing here")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    patterns = ["unet/config.json", "tokenizer/*", "unet/w.fp16.safetensors"]
    assert fetch(REPOSITORY) == folder
    downloads = [(COMMIT, patterns, False), (COMMIT, ["unet/w.safetensors"], False)]
    assert calls == [(COMMIT, patterns, True), *downloads]
    del calls[1:]
    fetch(REPOSITORY)
    assert all(local_files_only for _, _, local_files_only in calls[1:])
    assert REPOSITORY.at("me/model") is REPOSITORY
    other = REPOSITORY.at("you/model")
    assert (other.name, other.revision, other.licence) == ("you/model", None, "see its model card")
    assert other.weights == REPOSITORY.weights


def test_load_part_precisions(tmp_path: Path) -> None:
    unet = UNet2DConditionModel(**UNET)
    for variant, dtype in (("fp16", torch.float16), (None, torch.float32)):
        unet.save_pretrained(tmp_path / str(variant), variant=variant)
        assert load_part(UNet2DConditionModel, tmp_path / str(variant), dtype).dtype == dtype
    unet.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(DeidError, match="pickled: no UNet2DConditionModel can be loaded from it"):
        load_part(UNet2DConditionModel, tmp_path / "pickled", torch.float32)
    adapter = AttributeAdapter(24, 3, 4, 32).half().eval()
    adapter.save_pretrained(tmp_path / "adapter")
    loaded, features = load_part(AttributeAdapter, tmp_path / "adapter", torch.float32), torch.randn(2, 3, 24)
    assert not loaded.training
    assert torch.equal(loaded(features), adapter.float()(features))


def reshape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_tokens": 4}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (FaceEncoder(16, 8).save_pretrained, "its config.json is of a FaceEncoder"),
        (reshape, "shape"),
        (lambda folder: (folder / "config.json").unlink(), ""),
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"torn"), ""),
    ],
)
def test_load_part_refused(tmp_path: Path, damage, words: str) -> None:
    AttributeAdapter(24, 3, 4, 32).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(DeidError, match=rf"no AttributeAdapter can be loaded from it \(.*{words}") as caught:
        load_part(AttributeAdapter, tmp_path, torch.float32)
    assert "\n" not in str(caught.value)
