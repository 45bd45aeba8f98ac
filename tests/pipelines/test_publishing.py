import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import CLIPTokenizer

from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.pipelines.loading import BUILTIN
from deid_diffusion.pipelines.presets import INPAINTING
from deid_diffusion.pipelines.publishing import use_installed_classes, write_portable, write_publication, write_shims


def test_shims(tmp_path: Path) -> None:
    index = {"_class_name": "FaceDeidPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"image_encoder": ["deid_diffusion.models.face_encoder", "FaceEncoder"], "attribute_adapter": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "image_encoder").mkdir()
    write_shims(tmp_path)
    shimmed = json.loads((tmp_path / "model_index.json").read_text())
    assert shimmed["image_encoder"] == ["face_encoder", "FaceEncoder"]
    assert (shimmed["attribute_adapter"], shimmed["unet"]) == ([None, None], index["unet"])
    assert "import FaceEncoder" in (tmp_path / "image_encoder" / "face_encoder.py").read_text()
    assert use_installed_classes(shimmed) == index


def test_write_portable(tmp_path: Path) -> None:
    for part in ("unet", "text_encoder", "tokenizer"):
        (tmp_path / part).mkdir()
    configs = tmp_path / "model_index.json", tmp_path / "unet" / "config.json"
    for config in configs:
        config.write_text(json.dumps({"_name_or_path": "/home/me", "_class_name": "FaceDeidPipeline"}))
    write_portable(tmp_path)  # no tokenizer.json
    weights = tmp_path / "text_encoder" / "model.safetensors"
    save_file({"embeddings.weight": torch.ones(2)}, weights, {"format": "pt"})
    vocabulary = {"a": 0, "é</w>": 1}
    bpe = {"vocab": vocabulary, "merges": [["a", "b</w>"], "c d"]}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": bpe}))
    for _ in range(2):
        write_portable(tmp_path)
    assert [json.loads(config.read_text()) for config in configs] == [{"_class_name": "FaceDeidPipeline"}] * 2
    assert list(load_file(weights)) == ["text_model.embeddings.weight"]
    assert json.loads((tmp_path / "tokenizer" / "vocab.json").read_text()) == vocabulary
    assert (tmp_path / "tokenizer" / "merges.txt").read_text().splitlines()[1:] == ["a b</w>", "c d"]


def test_builtin_older_layout() -> None:
    names = load_file(BUILTIN / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    model = json.loads((BUILTIN / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((BUILTIN / "tokenizer" / "vocab.json").read_text()) == model["vocab"]
    merges = (BUILTIN / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert merges == [" ".join(pair) for pair in model["merges"]]
    texts = ["photo of a man", "A Woman, smiling; 3 freckles", ""]
    from_json = CLIPTokenizer.from_pretrained(BUILTIN / "tokenizer")(texts).input_ids
    pairs = [tuple(line.split(" ")) for line in merges]
    rebuilt = Tokenizer.from_file(str(BUILTIN / "tokenizer" / "tokenizer.json"))
    rebuilt.model = models.BPE(vocab=model["vocab"], merges=pairs, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    assert [rebuilt.encode(text).ids for text in texts] == from_json


@pytest.fixture(scope="module")
def model(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with private files beside its own."""
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("model") / "model")
    for name in ("optimizer.bin", "unet/old.bin", "notes.txt", ".env", "logs/events"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private")
    return folder


@pytest.fixture(scope="module")
def published(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publication") / "model"
    write_publication(model, folder, license="apache-2.0", name="me/model")
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_publication_files(published: Path) -> None:
    index = json.loads((published / "model_index.json").read_text())
    parts = {part for part, entry in index.items() if isinstance(entry, list) and entry[0] and part != "_class_name"}
    assert {path.name for path in published.iterdir()} == parts | {"README.md", "model_index.json", "pipeline.py"}
    assert {Path(name).suffix for name in names(published)} <= {".json", ".txt", ".safetensors", ".py", ".md"}
    code = {name for name in names(published) if name.endswith(".py")}
    assert code == {"pipeline.py", "attribute_adapter/attribute_adapter.py", "identity_model/identity_model.py"}
    assert not any("private" in path.read_text() for path in published.rglob("*.txt"))


def test_model_card(published: Path) -> None:
    text = (published / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert (data["license"], data["library_name"]) == ("apache-2.0", "diffusers")
    assert 'DiffusionPipeline.from_pretrained("me/model", trust_remote_code=True)' in text
    assert "| `unet` | UNet2DConditionModel |" in text
    assert "| `default_steps` | 2 |" in text
    assert "not anonymisation of people" in text


def test_own_card_copied(model: Path, tmp_path: Path) -> None:
    again = tmp_path / "model"
    write_publication(model, again, license="mit")
    (again / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="omit --license"):
        write_publication(again, tmp_path / "out", license="mit")
    write_publication(again, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("license", "words"), [(None, "weights is required"), ("Apache 2", "a hub identifier"), ("", "a hub identifier")]
)
def test_license_required(model: Path, tmp_path: Path, license: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        write_publication(model, tmp_path / "out", license=license)
    assert not (tmp_path / "out").exists()


def test_out_taken(model: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "file", model / "unet" / "out"):
        with pytest.raises(UsageError, match="name another folder"):
            write_publication(model, out, license="mit")
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write_publication(model, tmp_path / "empty", license="mit")


def test_no_model_leaves_nothing(hub: dict[str, Path], model: Path, tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="no folder written by FaceDeidPipeline"):
        write_publication(tmp_path, tmp_path / "out", license="mit")
    with pytest.raises(DeidError, match="holds a StableDiffusionInpaintPipeline"):
        write_publication(hub[INPAINTING.name], tmp_path / "out", license="mit")
    broken = tmp_path / "broken"
    write_publication(model, broken, license="mit")
    (broken / "README.md").unlink()
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DeidError, match=r"vae.*diffusion_pytorch_model\.bin: weights in a pickle are not published"):
        write_publication(broken, tmp_path / "out", license="mit")
    for path in (broken / "vae").iterdir():
        path.unlink()
    with pytest.raises(DeidError, match="vae: is missing or empty"):
        write_publication(broken, tmp_path / "out", license="mit")
    assert {path.name for path in tmp_path.iterdir()} == {"broken"}


def test_publish_builtin(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = ("publish", "builtin", "-o", str(out), "--license", "apache-2.0")
    assert call(*arguments) == (0, [str(out)], [])
    assert (out / "image_encoder" / "face_encoder.py").is_file()
    assert call(*arguments)[0] == 2


def test_publish_upload(call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload: dict[str, object] = {}
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **_: SimpleNamespace(repo_id=name))
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **options: upload.update(options))
    arguments = ("publish", str(model), "--license", "mit", "--repo-id", "me/model", "-o")
    code, lines, _ = call(*arguments, str(tmp_path / "out"))
    assert (code, lines[-1]) == (0, "uploaded to me/model")
    assert (upload["repo_id"], upload["folder_path"]) == ("me/model", tmp_path / "out")

    code, _, errors = call(*arguments[:-2], "a b/c", "-o", str(tmp_path / "other"))
    assert (code, errors) == (2, ["error: --repo-id a b/c: expected OWNER/NAME, of letters, digits, -, _ and ."])
    assert not (tmp_path / "other").exists()

    def refuse(name: str, **_: object) -> None:
        raise OSError("401 Client Error\nand more")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    code, _, errors = call(*arguments, str(tmp_path / "again"))
    assert (code, len(errors)) == (2, 1)
    assert "again is complete, but was not uploaded (OSError: 401 Client Error): hf upload me/model" in errors[0]
