"""Python snippets of the README and the documentation, run page by page."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import diffusers
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from packaging.version import Version
from PIL import Image
from safetensors.torch import save_file

from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.pipelines.presets import CLIP, FACE_LINES, INPAINTING, SD15
from deid_diffusion.pipelines.publishing import write_publication
from deid_diffusion.pipelines.repositories import fetch
from tests.tiny_hub import add_to_cache, fill_cache, ip_adapter_repository, parser_repository

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def downloaded(hub: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All repositories that the pages name, in the cache that every library reads."""
    from deid_diffusion.pipelines.loading import BUILTIN

    folder = tmp_path_factory.mktemp("made")
    write_publication(BUILTIN, folder / "face-deid", license="apache-2.0")
    shutil.copytree(hub[FACE_LINES.name] / "diffusion_sd15", folder / "trained" / "controlnet")
    AttributeAdapter(16, 6, 4, 16).save_pretrained(folder / "trained" / "attribute_adapter")
    (folder / "style").mkdir()
    save_file({"<style>": torch.zeros(16)}, folder / "style" / "learned_embeds.safetensors")
    ip_adapter_repository(folder / "ip")
    parser_repository(folder / "parser", ("background", "skin", "nose", "l_eye", "r_brow", "u_lip"), "skin")
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
    fill_cache(cache, hub)
    for name in ("face-deid", "trained", "style", "parser"):
        add_to_cache(cache, f"me/{name}", folder / name)
    add_to_cache(cache, "h94/IP-Adapter", folder / "ip")
    yield
    shutil.rmtree(cache)


@pytest.fixture
def work(hub: dict[str, Path], tmp_path: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name."""
    Image.fromarray(astronaut).save(tmp_path / "photo.jpg")
    Image.fromarray(astronaut[:64, :64]).save(tmp_path / "style.jpg")
    shutil.copytree(hub[CLIP.name], tmp_path / "models" / "clip")
    shutil.copytree(hub[FACE_LINES.name], tmp_path / "models" / "face")
    shutil.copytree(hub[INPAINTING.name], tmp_path / "models" / "inpainting")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(name: str) -> dict[str, object]:
    """Run a page's snippets one after the other, and return their names."""
    text = (DOCS / name).read_text()
    if Version(diffusers.__version__) < Version("0.40"):  # as the page says
        text = re.sub(r"\bdtype=", "torch_dtype=", text)
    names: dict[str, object] = {"__name__": "page"}
    for snippet in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text[: snippet.start(1)].count("\n")
        exec(compile("\n" * line + snippet[1], f"docs/{name}", "exec"), names)
    return names


def test_readme(work, astronaut):
    (work / "pipelines").symlink_to(DOCS.parent / "pipelines")
    names = run_page("../README.md")
    assert (np.asarray(Image.open(work / "anonymous.png")) != astronaut).any()
    assert type(names["pipeline"]) is type(names["pipe"])


def test_diffusers(downloaded, work, astronaut):
    names = run_page("diffusers.md")
    result = np.asarray(Image.open(work / "anonymous.png"))
    assert (result != astronaut).any()
    assert Image.open(work / "face.png").size == (128, 128)
    assert type(names["ours"]) is type(names["pipe"])
    assert names["ours"].attribute_adapter is names["adapter"]


def test_attributes(downloaded, work):
    names = run_page("attributes.md")
    assert names["result"].faces[0].changed_attributes == {"gender": "man"}
    assert names["anonymizer"].pipeline.reads_attributes


def test_controlnet_aux(downloaded, work):
    names = run_page("controlnet_aux.md")
    assert names["control"].size == names["parsed"].size == (512, 512)
    assert Image.open(work / "map.png").getbbox() is not None
    assert names["lines"].any()


def test_models(downloaded, work):
    names = run_page("models.md")
    assert (work / "my-sd15" / "model_index.json").is_file()
    assert names["pipeline"].config.control == "mediapipe_face"


def test_scale(work, astronaut):
    pytest.importorskip("datasets", reason="its age fits the newest huggingface_hub only", exc_type=ImportError)
    (row,) = run_page("scale.md")["rows"]
    assert row["label"] == 3
    assert (np.asarray(row["image"]) != astronaut).any()


def test_documented_downloads_suffice(hub, tmp_path):
    text = (DOCS / "models.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line)[2:] for line in text.splitlines() if line.startswith("hf download")]
    wanted = {repository.name: repository for repository in SD15.repositories}
    assert {name for name, *_ in commands} == set(wanted)
    for name, *patterns, option, revision in commands:
        assert (option, revision) == ("--revision", wanted[name].revision)
        there = [path.relative_to(hub[name]).as_posix() for path in hub[name].rglob("*") if path.is_file()]
        for file in filter_repo_objects(there, allow_patterns=patterns):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(hub[name] / file, tmp_path / name / file)
        fetch(wanted[name].at(str(tmp_path / name)))
    assert any((tmp_path / INPAINTING.name / "tokenizer").iterdir())


def test_documented_commits():
    from deid_diffusion.pipelines.presets import PRESETS

    text = (DOCS / "models.md").read_text()
    for preset in PRESETS.values():
        assert preset.name in text
        for repository in preset.repositories:
            if repository.revision is not None:
                assert f"| {repository.name} |" in text
                assert f"`{repository.revision[:8]}`" in text
    commits = {repository.revision for preset in PRESETS.values() for repository in preset.repositories}
    assert set(re.findall(r"[0-9a-f]{40}", text)) <= commits
