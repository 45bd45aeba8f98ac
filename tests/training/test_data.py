from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deid_diffusion.attributes.subspace import FEATURE_NAMES
from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh
from deid_diffusion.training import data
from deid_diffusion.training.attribute_encoder import all_facts


def test_random_mask(rng: np.random.Generator) -> None:
    points = np.round(mean_mesh(64)).astype(int)
    masks = [data.random_mask(mean_mesh(64), 64, rng) for _ in range(120)]
    assert all(mask[points[:, 1], points[:, 0]].all() for mask in masks)
    sizes = {int(mask.sum()) for mask in masks}
    assert len(sizes) > 10
    assert 64 * 64 in sizes  # now and then everything


def test_random_affine(rng: np.random.Generator) -> None:
    crop, mesh = np.zeros((128, 128, 3), np.uint8), mean_mesh(128)
    x, y = np.round(mesh[1]).astype(int)  # the nose's tip
    crop[y - 2 : y + 3, x - 2 : x + 3] = 255
    warped, moved = data.random_affine(crop, mesh, rng)
    centre = np.argwhere(warped[..., 0] > 128).mean(0)[::-1]
    assert np.abs(centre - moved[1]).max() < 1
    assert not np.allclose(moved, mesh)


def test_jitter_appearance(rng: np.random.Generator) -> None:
    crop = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def jitter(seed: int, grey: bool = False) -> np.ndarray:
        return data.jitter_appearance(crop, np.random.default_rng(seed), grey=grey)

    assert (jitter(1).dtype, jitter(1).shape) == (np.uint8, crop.shape)
    assert np.array_equal(jitter(1), jitter(1))
    assert not np.array_equal(jitter(1), jitter(2))
    chroma = [np.median(np.ptp(jitter(seed, grey=True).astype(int), 2)) for seed in range(8)]
    assert max(chroma) < 40  # only the occluded patch has colour


MAN, WOMAN, UNKNOWN = {"person": "man"}, {"person": "woman"}, {}
YOUNG_MAN, BOY, YOUNG_WOMAN = MAN | {"age": "young"}, {"person": "boy", "age": "child"}, WOMAN | {"age": "young"}
TURNED = 2 / (2 + 96**0.5)  # share of 4 turned heads among 100, by the square roots of the numbers


@pytest.mark.parametrize(
    ("groups", "turned", "expected"),
    [
        ([(YOUNG_MAN, 160), (BOY, 10), (YOUNG_WOMAN, 30)], 0, [0.4, 0.1, 0.5]),
        ([(MAN, 96), (MAN, 4)], 4, [1 - TURNED, TURNED]),
        ([(MAN, 60), (UNKNOWN, 20), (WOMAN, 20)], 0, [0.4, 0.2, 0.4]),
        ([(UNKNOWN, 1), (UNKNOWN, 3)], 0, [0.25, 0.75]),
    ],
    ids=["sex and age", "pose", "unknown sex", "all unknown"],
)
def test_sampler(rng: np.random.Generator, groups: list[tuple[dict, int]], turned: int, expected: list[float]) -> None:
    facts = [face for face, count in groups for _ in range(count)]
    group_of = np.repeat(range(len(groups)), [count for _, count in groups])
    meshes = np.repeat(mean_mesh(100)[None], len(facts), 0)
    meshes[len(facts) - turned :] = 100 * mean_faces()[0]
    sampler = data.sex_age_pose_sampler(facts, meshes)
    counts = np.bincount(group_of[[sampler.draw(rng) for _ in range(20_000)]])
    assert counts / 20_000 == pytest.approx(expected, abs=0.02)


def test_encoded_items(tiny_pipeline, cache: data.FaceCache, tmp_path: Path) -> None:
    assert not data.is_encoded(tmp_path)
    data.encode_cache(cache, tmp_path, tiny_pipeline.vae, tiny_pipeline.image_encoder, seed=0, batch=3)
    assert data.is_encoded(tmp_path)
    dataset = data.LatentFaces(cache, tmp_path, tiny_pipeline.tokenizer, all_facts(cache), 0)
    item = dataset[7]
    shapes = {"latents": (4, 16, 16), "masked_latents": (4, 16, 16), "control": (3, 32, 32)}
    shapes |= {"features": (len(FEATURE_NAMES), 16)}
    assert {name: item[name].shape for name in shapes} == shapes
    assert set(np.unique(item["mask"])) <= {0.0, 1.0}
    assert not torch.equal(item["latents"], item["masked_latents"])
    captions = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        captions.add(tuple(dataset[7]["input_ids"].tolist()))
    assert len(captions) > 1
    broken = SimpleNamespace(config=tiny_pipeline.image_encoder.config)
    with pytest.raises((AttributeError, TypeError)):
        data.encode_cache(cache, tmp_path, tiny_pipeline.vae, broken, seed=0)
    assert not data.is_encoded(tmp_path)  # after an interrupted encoding


def test_missing_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="deid-diffusion prepare"):
        data.FaceCache(tmp_path)
