import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import CLIPTokenizer

from deid_diffusion.loading import BUILTIN
from deid_diffusion.pipelines.portable import write_portable


def test_own_models_get_shims_and_parts_forget_where_they_came_from(tmp_path: Path) -> None:
    index = {
        "_class_name": "FaceDeidPipeline",
        "image_encoder": ["deid_diffusion.models.face_encoder", "FaceEncoder"],
        "attribute_adapter": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part in ("image_encoder", "unet"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({"_name_or_path": "/home/me", "size": 3}))
    write_portable(tmp_path)
    written = json.loads((tmp_path / "model_index.json").read_text())
    assert written["image_encoder"] == ["face_encoder", "FaceEncoder"]
    assert written["attribute_adapter"] == [None, None]
    assert written["unet"] == index["unet"]
    assert "import FaceEncoder" in (tmp_path / "image_encoder" / "face_encoder.py").read_text()
    assert json.loads((tmp_path / "unet" / "config.json").read_text()) == {"size": 3}


def test_files_of_older_layout_are_added(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FaceDeidPipeline"}))
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / part).mkdir()
    weights = tmp_path / "text_encoder" / "model.safetensors"
    save_file({"embeddings.weight": torch.ones(2)}, weights, {"format": "pt"})
    model = {"vocab": {"a": 0, "é</w>": 1}, "merges": [["a", "b</w>"], "c d"]}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": model}))
    for _ in range(2):
        write_portable(tmp_path)
    assert list(load_file(weights)) == ["text_model.embeddings.weight"]
    assert json.loads((tmp_path / "tokenizer" / "vocab.json").read_text()) == model["vocab"]
    assert (tmp_path / "tokenizer" / "merges.txt").read_text().splitlines()[1:] == ["a b</w>", "c d"]


def test_the_embedded_model_has_them() -> None:
    names = load_file(BUILTIN / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    model = json.loads((BUILTIN / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((BUILTIN / "tokenizer" / "vocab.json").read_text()) == model["vocab"]
    merges = (BUILTIN / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert merges == [" ".join(pair) for pair in model["merges"]]


def test_both_layouts_give_the_same_tokens() -> None:
    texts = ["photo of a man", "A Woman, smiling; 3 freckles", ""]
    from_json = CLIPTokenizer.from_pretrained(BUILTIN / "tokenizer")(texts).input_ids
    vocab, merges = ((BUILTIN / "tokenizer" / name).read_text() for name in ("vocab.json", "merges.txt"))
    pairs = [tuple(line.split(" ")) for line in merges.splitlines()[1:]]
    model = models.BPE(vocab=json.loads(vocab), merges=pairs, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    rebuilt = Tokenizer.from_file(str(BUILTIN / "tokenizer" / "tokenizer.json"))
    rebuilt.model = model
    assert [rebuilt.encode(text).ids for text in texts] == from_json
