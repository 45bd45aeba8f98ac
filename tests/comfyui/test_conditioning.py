"""Attribute tokens: their features, and how they are appended to a CONDITIONING."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deid_diffusion.anonymizer import Anonymizer
from deid_diffusion.attributes.encoding import encode_attributes, labels_tensor
from deid_diffusion.attributes.selection import AttributeSelection, make_selection
from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.comfyui.conditioning import (
    LoadedAdapter,
    append_tokens,
    clip_features,
    encoder_features,
    make_tokens,
)
from deid_diffusion.comfyui.faces import FaceCrops, crop_faces, find_faces
from deid_diffusion.errors import DeidError, UsageError
from deid_diffusion.generation import to_tensor
from deid_diffusion.models.attribute_adapter import AttributeAdapter

BUILTIN = Path(__file__).parents[2] / "deid_diffusion" / "builtin"
COUNT = len(FEATURE_NAMES)


@pytest.fixture
def crops(given: None, astronaut: np.ndarray) -> FaceCrops:
    return crop_faces([astronaut], find_faces([astronaut]), 64)


@pytest.fixture(scope="session")
def model_folder(tiny_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model, with CLIP and a text encoder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter_alone(tmp_path: Path) -> LoadedAdapter:
    """An adapter of the tiny CLIP's width, with nothing beside it."""
    torch.manual_seed(0)
    AttributeAdapter(16, COUNT, 4, 16).save_pretrained(tmp_path / "alone" / "attribute_adapter")
    return LoadedAdapter(tmp_path / "alone")


def vision_output(pipeline, crops: FaceCrops) -> SimpleNamespace:
    """Return a CLIP_VISION_OUTPUT of the crops, as ComfyUI's CLIP Vision Encode does."""
    from deid_diffusion.attributes.encoding import clip_pixels

    pixels = torch.stack([to_tensor(crop) for crop in crops.originals()]) * 2 - 1
    encoder = pipeline.image_encoder
    with torch.no_grad():
        output = encoder(pixel_values=clip_pixels(pixels, encoder.config.image_size))
    return SimpleNamespace(image_embeds=output.image_embeds, last_hidden_state=output.last_hidden_state)


def test_encoder_features_equal_pipeline(crops):
    anonymizer = Anonymizer.from_pretrained("builtin", device="cpu", dtype=torch.float32)  # as ComfyUI reads
    pixels = torch.stack([to_tensor(crop) for crop in crops.originals()])
    expected = anonymizer.pipeline.encode_attributes(
        pixels, [face.semantic_map for _, face in crops.faces], [face.map_mesh for _, face in crops.faces]
    )
    assert torch.allclose(encoder_features(LoadedAdapter(BUILTIN), crops), expected, atol=1e-5)


def test_clip_features_equal_pipeline(crops, tiny_pipeline, adapter_alone):
    pixels = torch.stack([to_tensor(crop) for crop in crops.originals()]) * 2 - 1
    labels = labels_tensor([face.semantic_map for _, face in crops.faces])
    with torch.no_grad():
        expected = encode_attributes(tiny_pipeline.image_encoder, pixels, labels)
    output = vision_output(tiny_pipeline, crops)
    assert torch.allclose(clip_features(adapter_alone, crops, output, tiny_pipeline.image_encoder), expected, atol=1e-5)
    overall = clip_features(adapter_alone, crops, output, None)
    assert torch.allclose(overall[:, 0], expected[:, 0], atol=1e-5)
    assert torch.equal(overall[0, 1:], adapter_alone.attribute_adapter.centre[1:])


def test_clip_output_of_other_crops(crops, tiny_pipeline, adapter_alone):
    output = vision_output(tiny_pipeline, crops)
    output.image_embeds = output.image_embeds[:1]
    with pytest.raises(UsageError, match="expected 2 pictures and 16 numbers per picture"):
        clip_features(adapter_alone, crops, output, None)


def test_missing_encoder(crops, adapter_alone):
    with pytest.raises(UsageError, match="connect CLIP Vision Encode"):
        encoder_features(adapter_alone, crops)


def test_tokens_hold_kept_attributes_only(crops, model_folder):
    adapter = LoadedAdapter(model_folder)
    tokens = [make_tokens(adapter, torch.randn(1, COUNT, 16), make_selection(()))[0] for _ in range(2)]
    assert torch.equal(*tokens)


def test_model_without_text_encoder(adapter_alone):
    with pytest.raises(DeidError, match="alone: this model cannot read words"):
        make_tokens(adapter_alone, torch.randn(2, COUNT, 16), AttributeSelection())


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (make_selection(["a scar"]), r"keep: .*: use other words"),
        (make_selection(change={"age": "70"}), "change: age=elderly: this model cannot distinguish elderly from child"),
    ],
)
def test_unknown_words_are_refused(model_folder, monkeypatch, choice, words):
    def embed(texts: list[str]) -> torch.Tensor:
        """Distinguish the first word of each attribute, and no single phrase."""
        vectors = torch.ones(len(texts), 16)
        vectors[0, 0] += len(texts) > 1
        return vectors

    adapter = LoadedAdapter(model_folder)
    monkeypatch.setattr(adapter, "_embed", embed)
    with pytest.raises(UsageError, match=words):
        make_tokens(adapter, torch.randn(1, COUNT, 16), choice)


def test_custom_phrase(model_folder):
    adapter, features = LoadedAdapter(model_folder), torch.randn(1, COUNT, 16)
    kept = [make_tokens(adapter, features, make_selection(words))[0] for words in (["age"], ["age", "a scar"])]
    assert not torch.equal(*kept)


def test_folder_without_adapter(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "attribute_adapter")
    with pytest.raises(DeidError, match="no AttributeAdapter can be loaded"):
        LoadedAdapter(tmp_path / "broken")


def test_tokens_follow_text():
    tokens = torch.randn(3, 6, 8)
    single, three = torch.randn(1, 77, 8), torch.randn(3, 77, 8, dtype=torch.float16)
    joined = append_tokens([[single, {"pooled_output": None}], [three, {}]], tokens, "positive")
    assert joined[0][0].shape == (3, 83, 8)
    assert torch.equal(joined[0][0][:, :77], single.expand(3, -1, -1))
    assert torch.equal(joined[0][0][:, 77:], tokens)
    assert joined[0][1] == {"pooled_output": None}
    assert joined[1][0].dtype == torch.float16


@pytest.mark.parametrize(("shape", "words"), [((1, 77, 9), "9 numbers wide"), ((2, 77, 8), "2 texts for 3 face crops")])
def test_incompatible_texts(shape, words):
    with pytest.raises(UsageError, match=f"negative: .*{words}"):
        append_tokens([[torch.randn(shape), {}]], torch.randn(3, 6, 8), "negative")
