import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from deid_diffusion.errors import DeidError
from deid_diffusion.repositories import Repository, dtype_argument, fetch, half_precision, load_part
from tests.loopback_hub import COMMIT as HUBS_COMMIT
from tests.loopback_hub import loopback_hub
from tests.tiny_hub import add_to_cache

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
