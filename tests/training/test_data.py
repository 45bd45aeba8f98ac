"""Which faces a training sees how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh
from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.data import (
    Balance,
    FaceCache,
    LatentFaces,
    by_sex_age_and_turn,
    encode_cache,
    is_encoded,
    random_look,
    random_mask,
    random_view,
)


def test_masks_always_cover_the_face_and_come_in_many_shapes() -> None:
    rng = np.random.default_rng(0)
    points = np.round(mean_mesh(64)).astype(int)
    masks = [random_mask(mean_mesh(64), 64, rng) for _ in range(120)]
    assert all(mask[points[:, 1], points[:, 0]].all() for mask in masks)
    sizes = {int(mask.sum()) for mask in masks}
    assert len(sizes) > 10
    assert 64 * 64 in sizes  # now and then everything


def test_a_view_moves_the_mesh_with_the_picture() -> None:
    crop, mesh = np.zeros((128, 128, 3), np.uint8), mean_mesh(128)
    x, y = np.round(mesh[1]).astype(int)  # the nose's tip
    crop[y - 2 : y + 3, x - 2 : x + 3] = 255
    view, moved = random_view(crop, mesh, np.random.default_rng(1))
    rows, columns = np.nonzero(view[..., 0] > 128)
    assert abs(columns.mean() - moved[1, 0]) < 1
    assert abs(rows.mean() - moved[1, 1]) < 1
    assert not np.allclose(moved, mesh)


def test_a_look_changes_the_picture_repeatably() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one, same, other = (random_look(crop, np.random.default_rng(seed), grey=False) for seed in (1, 1, 2))
    assert one.dtype == np.uint8
    assert one.shape == crop.shape
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_grey_look_has_no_colour_but_where_it_is_covered() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    looks = [random_look(crop, np.random.default_rng(seed), grey=True).astype(int) for seed in range(8)]
    spreads = [np.median(look.max(2) - look.min(2)) for look in looks]
    assert max(spreads) < 40


def shares(balance: Balance, names: list[str], draws: int = 20_000) -> dict[str, float]:
    rng = np.random.default_rng(0)
    found = Counter(names[balance.draw(rng)] for _ in range(draws))
    return {name: count / draws for name, count in found.items()}


def frontal(count: int) -> np.ndarray:
    return np.repeat(mean_mesh(100)[None], count, 0)


def test_groups_are_drawn_equally_and_their_parts_by_the_roots_of_their_sizes() -> None:
    said = [{"person": "man", "age": "young"}] * 160 + [{"person": "boy", "age": "child"}] * 10
    said += [{"person": "woman", "age": "young"}] * 30
    found = shares(by_sex_age_and_turn(said, frontal(len(said))), [one["person"] for one in said])
    assert found["woman"] == pytest.approx(0.5, abs=0.02)
    assert found["man"] / found["boy"] == pytest.approx(4, rel=0.15)


def test_turned_heads_are_drawn_more_often_than_their_number_says() -> None:
    said, profile = [{"person": "man"}] * 100, 100 * mean_faces()[0]
    meshes = np.concatenate([frontal(96), np.repeat(profile[None], 4, 0)])
    found = shares(by_sex_age_and_turn(said, meshes), ["front"] * 96 + ["turned"] * 4)
    assert found["turned"] == pytest.approx(2 / (2 + 96**0.5), abs=0.02)


def test_faces_of_no_known_group_keep_their_share() -> None:
    said = [{"person": "man"}] * 60 + [{}] * 20 + [{"person": "woman"}] * 20
    found = shares(by_sex_age_and_turn(said, frontal(len(said))), ["m"] * 60 + ["?"] * 20 + ["w"] * 20)
    assert found == pytest.approx({"m": 0.4, "w": 0.4, "?": 0.2}, abs=0.02)


def test_without_groups_all_are_drawn_equally() -> None:
    found = shares(Balance([None] * 4, [""] * 4), list("abcd"))
    assert found == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.02)


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


def test_a_folder_that_is_no_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="deid-diffusion prepare"):
        FaceCache(tmp_path)
