"""Fixtures of the training tests: a tiny face cache, its encoding and untrained models."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.encoding import embed_phrases, tokenize
from deid_diffusion.attributes.subspace import FEATURE_NAMES, AttributeSubspace
from deid_diffusion.attributes.vocabulary import VOCABULARY
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.models.attribute_adapter import AttributeAdapter
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.components import make_controlnet, make_scheduler, make_unet
from deid_diffusion.training.data import FaceCache, LatentFaces, encode_cache


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Eight 32 px crops of noise around the mean face."""
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    np.save(folder / "crops.npy", rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "meshes.npy", np.stack([mean_mesh(32)] * 8))
    rows = [{"file": f"{k}.jpg", "grey": False, "predicted_age": "30", "predicted_male": "0.9"} for k in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FaceCache(folder)


@pytest.fixture(scope="session")
def dataset(tiny_pipeline, cache: FaceCache, tmp_path_factory: pytest.TempPathFactory) -> LatentFaces:
    encoded = tmp_path_factory.mktemp("encoded")
    encode_cache(cache, encoded, tiny_pipeline.vae, tiny_pipeline.image_encoder, seed=0, batch=3)
    return LatentFaces(cache, encoded, tiny_pipeline.tokenizer, all_facts(cache), 0)


@pytest.fixture(scope="session")
def subspace(tiny_pipeline) -> AttributeSubspace:
    return AttributeSubspace.from_phrases(
        VOCABULARY, partial(embed_phrases, tiny_pipeline.text_encoder, tiny_pipeline.tokenizer)
    )


@pytest.fixture
def models(tiny_pipeline):
    """Factory of a generator's untrained models, the same ones each time, and the empty text's ids."""

    def make() -> tuple[object, ...]:
        torch.manual_seed(0)
        unet = make_unet((16, 32), sample_size=16, cross_attention_dim=16)
        adapter = AttributeAdapter(16, len(FEATURE_NAMES), 4, 16)
        empty = tokenize(tiny_pipeline.tokenizer, [""])
        return unet, make_controlnet(unet, 2), adapter, make_scheduler(), tiny_pipeline.text_encoder, empty

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
