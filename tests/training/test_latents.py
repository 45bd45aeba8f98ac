from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.latents import LatentFaces, encode_cache, is_encoded


def test_items_are_what_was_encoded_with_a_fresh_caption(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    assert not is_encoded(tmp_path)
    encode_cache(cache, tmp_path, tiny_pipeline.vae, tiny_pipeline.image_encoder, seed=0, batch=3)
    assert is_encoded(tmp_path)
    dataset = LatentFaces(cache, tmp_path, tiny_pipeline.tokenizer, all_facts(cache), 0)
    item = dataset[7]
    assert item["latents"].shape == item["masked_latents"].shape == (4, 16, 16)
    assert item["control"].shape == (3, 32, 32)
    assert item["features"].shape == (len(FEATURE_NAMES), 16)
    assert set(np.unique(item["mask"])) <= {0.0, 1.0}
    assert not torch.equal(item["latents"], item["masked_latents"])
    captions = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        captions.add(tuple(dataset[7]["input_ids"].tolist()))
    assert len(captions) > 1


def test_an_encoding_that_was_broken_off_does_not_count(tiny_pipeline, cache: FaceCache, tmp_path: Path) -> None:
    encode_cache(cache, tmp_path, tiny_pipeline.vae, tiny_pipeline.image_encoder, seed=0)

    class Broken:
        config = tiny_pipeline.image_encoder.config

    with pytest.raises(AttributeError):
        encode_cache(cache, tmp_path, tiny_pipeline.vae, Broken(), seed=0)
    assert not is_encoded(tmp_path)
