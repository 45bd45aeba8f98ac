"""Leakage attackers on planted signals and on noise."""

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
    """Four weak directions of identity, rotated into all dimensions, under noise of a hundred times their variance."""
    generator = np.random.default_rng(1)
    features = 10 * noise(dimensions)
    features[:, :4] = np.repeat(generator.normal(size=(PEOPLE, 4)), 2, axis=0) + 0.1 * noise(4)
    return features @ np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0]


def test_trained_attacker_finds_planted_signal():
    leakage = measure_leakage("planted", planted(24), NAMES)
    assert (leakage.name, leakage.photos, leakage.people, leakage.dimensions) == ("planted", 180, 90, 24)
    assert leakage.trained.auc > 0.98
    assert leakage.trained.tpr_at_1e2.value > 0.8
    assert leakage.trained.tpr_at_1e3 is None  # 5 x 612 pairs are too few
    assert leakage.trained.tpr_at_1e2.chance == 1e-2
    assert leakage.trained.rank1.value > 0.8
    assert leakage.trained.rank1.chance == pytest.approx(1 / 18)
    assert leakage.untrained.auc < 0.6


def test_tpr_at_1e3():
    centres = np.repeat(np.random.default_rng(3).normal(size=(120, 8)), 2, axis=0)
    features = centres + 0.3 * np.random.default_rng(4).normal(size=centres.shape)
    leakage = measure_leakage("close", features, np.repeat(np.arange(120).astype(str), 2), folds=2)
    rate = leakage.trained.tpr_at_1e3  # 2 x 7,080 pairs
    assert (rate.chance, rate.trials, rate.people) == (1e-3, 120, 120)
    assert 0.1 < rate.interval[0] < rate.value < rate.interval[1] < 1
    assert rate.value < leakage.trained.tpr_at_1e2.value


def test_noise_is_at_chance():
    leakage = measure_leakage("noise", noise(24), NAMES)
    for attacker in (leakage.trained, leakage.untrained):
        assert 0.4 < attacker.auc < 0.6
        assert attacker.tpr_at_1e2.value < 0.06
        assert attacker.rank1.interval[0] <= attacker.rank1.chance


def test_wide_features_and_single_photos():
    features = np.repeat(np.random.default_rng(2).normal(size=(PEOPLE, 200)), 2, axis=0) + 0.5 * noise(200)
    names = np.array([*NAMES[:60], *(f"once{k}" for k in range(30))])
    leakage = measure_leakage("wide", features[:90], names)
    assert leakage.people == 60
    assert leakage.trained.auc > 0.99
    assert leakage.untrained.auc > 0.99


def test_constant_features():
    leakage = measure_leakage("constant", np.ones((2 * PEOPLE, 3)), NAMES)
    assert leakage.trained.auc == leakage.untrained.auc == 0.5
    assert leakage.trained.rank1.value == pytest.approx(leakage.trained.rank1.chance)


def test_invalid_features():
    with pytest.raises(ValueError, match=r"expected \(180, D\) finite numbers, got \(180,\)"):
        measure_leakage("flat", np.zeros(180), NAMES)
    with pytest.raises(ValueError, match="finite"):
        measure_leakage("nan", np.full((180, 2), np.nan), NAMES)
    with pytest.raises(ValueError, match="people: expected 12 or more with two photos for 5 folds, got 4"):
        measure_leakage("few", noise(3)[:8], NAMES[:8])


def test_attribute_tokens():
    torch.manual_seed(0)
    adapter = AttributeAdapter(feature_dim=12, num_tokens=3, bottleneck_dim=4, cross_attention_dim=8)
    features = torch.nn.functional.normalize(torch.randn(5, 3, 12), dim=-1)
    tokens = attribute_tokens(adapter, features)
    assert tokens.shape == (5, 3 * 8)
    with torch.no_grad():
        np.testing.assert_allclose(tokens, adapter(features).flatten(1), atol=1e-6)
