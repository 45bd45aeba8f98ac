"""The attacker finds what was planted, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from leakage import attribute_tokens, measure_leakage

from deid_diffusion.models.attribute_adapter import AttributeAdapter

PEOPLE = 90
NAMES = np.repeat([f"person{k:03d}" for k in range(PEOPLE)], 2)


def noise(dimensions: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2 * PEOPLE, dimensions))


def planted(dimensions: int) -> np.ndarray:
    """Four faint directions that say who it is, turned into all of them, under noise a hundred times as large."""
    generator = np.random.default_rng(1)
    features = 10 * noise(dimensions)
    features[:, :4] = np.repeat(generator.normal(size=(PEOPLE, 4)), 2, axis=0) + 0.1 * noise(4)
    return features @ np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0]


def test_a_planted_signal_is_found_by_training_alone():
    found = measure_leakage("planted", planted(24), NAMES)
    assert (found.name, found.photos, found.people, found.dimensions) == ("planted", 180, 90, 24)
    assert found.trained.auc > 0.98
    assert found.trained.tpr_at_1e2.value > 0.8
    assert found.trained.tpr_at_1e3 is None  # 5 x 612 pairs are too few
    assert found.trained.tpr_at_1e2.chance == 1e-2
    assert found.trained.rank1.value > 0.8
    assert found.trained.rank1.chance == pytest.approx(1 / 18)
    assert found.untrained.auc < 0.6


def test_verification_at_1e3_where_there_are_pairs_enough():
    centres = np.repeat(np.random.default_rng(3).normal(size=(120, 8)), 2, axis=0)
    features = centres + 0.3 * np.random.default_rng(4).normal(size=centres.shape)
    found = measure_leakage("close", features, np.repeat(np.arange(120).astype(str), 2), folds=2)
    rate = found.trained.tpr_at_1e3  # 2 x 7,080 pairs
    assert (rate.chance, rate.trials, rate.people) == (1e-3, 120, 120)
    assert 0.1 < rate.interval[0] < rate.value < rate.interval[1] < 1
    assert rate.value < found.trained.tpr_at_1e2.value


def test_noise_gives_nothing():
    found = measure_leakage("noise", noise(24), NAMES)
    for one in (found.trained, found.untrained):
        assert 0.4 < one.auc < 0.6
        assert one.tpr_at_1e2.value < 0.06
        assert one.rank1.interval[0] <= one.rank1.chance


def test_more_dimensions_than_photos_and_people_with_one_photo():
    features = np.repeat(np.random.default_rng(2).normal(size=(PEOPLE, 200)), 2, axis=0) + 0.5 * noise(200)
    names = np.array([*NAMES[:60], *(f"once{k}" for k in range(30))])
    found = measure_leakage("wide", features[:90], names)
    assert found.people == 60
    assert found.trained.auc > 0.99
    assert found.untrained.auc > 0.99


def test_features_that_say_nothing_at_all():
    found = measure_leakage("constant", np.ones((2 * PEOPLE, 3)), NAMES)
    assert found.trained.auc == found.untrained.auc == 0.5
    assert found.trained.rank1.value == pytest.approx(found.trained.rank1.chance)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"expected \(180, D\) finite numbers, got \(180,\)"):
        measure_leakage("flat", np.zeros(180), NAMES)
    with pytest.raises(ValueError, match="finite"):
        measure_leakage("nan", np.full((180, 2), np.nan), NAMES)
    with pytest.raises(ValueError, match="people: expected 12 or more with two photos for 5 folds, got 4"):
        measure_leakage("few", noise(3)[:8], NAMES[:8])


def test_tokens_are_the_adapters():
    torch.manual_seed(0)
    adapter = AttributeAdapter(feature_dim=12, num_tokens=3, bottleneck_dim=4, cross_attention_dim=8)
    features = torch.nn.functional.normalize(torch.randn(5, 3, 12), dim=-1)
    tokens = attribute_tokens(adapter, features)
    assert tokens.shape == (5, 3 * 8)
    with torch.no_grad():
        np.testing.assert_allclose(tokens, adapter(features).flatten(1), atol=1e-6)
