"""Biometric statistics against closed forms, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.evaluation.statistics import (
    SHARE,
    Figure,
    bootstrap_interval,
    enough,
    enrolments,
    format_interval,
    format_value,
    frechet_distance,
    genuine_pairs,
    identification,
    impostor_scores,
    jackknife_interval,
    kernel_distance,
    mean_of,
    missing,
    number,
    rank_hits,
    rate,
    similarities,
    threshold_at,
    true_positive_rate,
    true_positive_rates,
)


def test_mean_skips_unknown_values():
    figure = mean_of("age error", [1.0, None, 3.0], ["a", "b", "c"], "years", "lower")
    assert (figure.value, figure.trials, figure.unit, figure.interval) == (2, 2, "years", (1, 3))
    empty = mean_of("age error", [None], ["a"], "years")
    assert (empty.value, empty.note) == (None, "no face to measure it on")


def test_interval_of_constant_values():
    assert mean_of("x", [0.0] * 9, list("abcdefghi"), "levels").interval == (0, 0)
    assert mean_of("x", [0.0] * 9, list("abcdefghi")).interval == (0, pytest.approx(0.336, abs=1e-3))


def test_number_formatting():
    assert format_value(Figure("a", 0.019, interval=(0.01, 0.031))) == "1.9 %"
    assert format_interval(Figure("a", 0.019, interval=(0.01, 0.031))) == "1.0 % to 3.1 %"
    assert format_value(Figure("a", 5.234, "degrees")) == "5.23 degrees"
    assert format_value(Figure("a", 1299.0, "")) == "1,299"
    assert format_value(missing("a", SHARE, "why")) == "not measured"
    assert format_interval(missing("a", SHARE, "why")) == ""
    assert [number(v, SHARE) for v in (0, 1e-5, 1e-3, 1)] == ["0.0 %", "under 0.01 %", "0.10 %", "100.0 %"]
    assert [number(v, "s") for v in (123.4, 0.5, 0.0123, 0.00001)] == ["123.4", "0.50", "0.012", "1.0e-05"]


def normal(count: int, dimensions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def exact(mean: list[float], deviations: list[float]) -> np.ndarray:
    """Return points with exactly this mean and diagonal covariance."""
    points = normal(400, len(mean), 0)
    points -= points.mean(0)
    root = np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return points @ root * deviations + mean


def test_frechet_distance_of_known_gaussians():
    first, second = exact([0, 0, 0], [1, 2, 3]), exact([3, 4, 0], [1, 4, 1])
    assert frechet_distance(first, second) == pytest.approx(25 + 0 + 4 + 4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


class Identity:
    """Stand-in for Inception: images are their own features."""

    def __new__(cls, dimensions: int):
        import torch

        class Net(torch.nn.Module):
            num_features = dimensions

            def forward(self, pictures):
                return pictures.flatten(1)[:, :dimensions].float()

        return Net()


def test_distances_match_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    first, second = normal(80, 12, 1), normal(80, 12, 2) * 1.3 + 0.4
    pair = [torch.from_numpy(points).reshape(80, 3, 2, 2) for points in (first, second)]
    fid = FrechetInceptionDistance(feature=Identity(12), normalize=False, input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    kid = KernelInceptionDistance(feature=Identity(12), subsets=1, subset_size=80)
    for metric in (fid, kid):
        metric.update(pair[0], real=True)
        metric.update(pair[1], real=False)
    assert frechet_distance(first, second) == pytest.approx(float(fid.compute()), rel=1e-3)
    assert kernel_distance(first, second) == pytest.approx(float(kid.compute()[0]), rel=1e-3)


def test_kernel_distance_is_unbiased():
    within = [kernel_distance(normal(40, 6, k), normal(40, 6, k + 1000)) for k in range(60)]
    assert abs(np.mean(within)) < 3 * np.std(within) / 60**0.5
    assert kernel_distance(normal(40, 6, 0), normal(40, 6, 1) + 2) > max(within)


def test_jackknife_of_mean():
    values = normal(2000, 1, 3)

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        return float(first.mean() - second.mean())

    low, high = jackknife_interval(apart, values, np.zeros_like(values), [str(k) for k in range(2000)])
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.4)
    paired = np.repeat(values[:200], 10, axis=0)
    wide = np.subtract(*jackknife_interval(apart, paired, 0 * paired, np.repeat(np.arange(200), 10))[::-1])
    assert wide == pytest.approx(2 * 1.96 / 200**0.5, rel=0.4)


def test_jackknife_needs_three_people():
    faces = normal(30, 4, 0), normal(30, 4, 1)
    assert jackknife_interval(frechet_distance, *faces, ["ada"] * 29 + ["bob"]) is None
    assert jackknife_interval(frechet_distance, *faces, ["ada"] * 28 + ["bob", "eve"]) is not None


def test_threshold_keeps_false_match_rate():
    scores = np.random.default_rng(0).permutation(np.arange(1000.0))
    cut = threshold_at(scores, 0.01)
    assert cut == 989
    assert true_positive_rate(scores, cut) == 0.01
    ties = np.repeat([0.0, 1.0], 500)
    assert true_positive_rate(ties, threshold_at(ties, 0.1)) == 0


def test_threshold_needs_false_matches():
    assert enough(10_000, 1e-3)
    assert not enough(9_999, 1e-3)
    with pytest.raises(ValueError, match="needs 10,000 impostor pairs, got 50"):
        threshold_at(np.zeros(50), 1e-3)
    with pytest.raises(ValueError, match="fmr: expected a rate between 0 and 1, got 1"):
        threshold_at(np.zeros(50), 1)


def test_genuine_and_impostor_pairs():
    first, second = genuine_pairs(["a", "b", "a", "c", "a"])
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (0, 4), (2, 4)]
    assert [len(side) for side in genuine_pairs(["a", "b"])] == [0, 0]
    scores = np.arange(9.0).reshape(3, 3)
    assert sorted(impostor_scores(scores, ["a", "b", "a"])) == [1, 5]
    assert sorted(impostor_scores(scores, ["a", "b", "a"], symmetric=False)) == [1, 3, 5, 7]


def test_missing_face_matches_nothing():
    both = np.array([[1, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(similarities(both, both), [[1, -np.inf], [-np.inf, -np.inf]])
    people = np.array(["a", "b"])
    assert rank_hits(similarities(both, both), people, people).tolist() == [1, 0]


def test_enrolments():
    people = ["b", "a", "b", "c", "b"]
    galleries = [(gallery.tolist(), probes.tolist()) for gallery, probes in enrolments(people)]
    assert galleries == [([1, 0, 3], [2, 4]), ([1, 4, 3], [0, 2])]
    result = identification(np.eye(5) - 1, people)
    assert (result.value, result.trials, result.people) == (pytest.approx(1 / 3), 4, 1)  # all gallery entries tie
    assert result.chance == pytest.approx(1 / 3)


def test_bootstrap_resamples_people():
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 20)
    successes = np.repeat(generator.integers(2, size=100), 20).astype(float)  # every person always or never
    low, high = bootstrap_interval(successes, people)
    assert low < successes.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 100**0.5, rel=0.2)
    assert bootstrap_interval(successes, people) == (low, high)
    mixed = generator.permutation(successes)
    low, high = bootstrap_interval(mixed, people)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.3)


@pytest.mark.parametrize(("value", "interval"), [(0.0, (0, 0.036)), (1.0, (0.964, 1))])
def test_exact_interval_of_extremes(value: float, interval: tuple[float, float]):
    result = rate(np.full(200, value), np.repeat(np.arange(100), 2), 0.01)
    assert result.interval == pytest.approx(interval, abs=1e-3)
    assert (result.value, result.chance, result.trials, result.people) == (value, 0.01, 200, 100)


def test_rate_needs_trials():
    with pytest.raises(ValueError, match="at least one trial"):
        rate(np.zeros(0), [], 0)


def test_rank_hits_of_ties_and_known_matches():
    people = np.array(["a", "b", "c", "d"])
    scores = np.array([[0.1, 0.9, 0.8, 0.7], [0.5, 0.5, 0.5, 0.1], [np.inf, 0.9, np.inf, 0], [-np.inf] * 4])
    for rank, expected in ((1, [0, 1 / 3, 0.5, 0]), (2, [0, 2 / 3, 1, 0]), (4, [1, 1, 1, 0])):
        np.testing.assert_allclose(rank_hits(scores, people, people, rank=rank), expected)


def test_ranks_match_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    people = np.arange(30)
    scores = np.random.default_rng(0).normal(size=(30, 30)) + np.eye(30)
    for rank in (1, 5):
        known = metrics.top_k_accuracy_score(people, scores, k=rank, labels=people)
        assert rank_hits(scores, people, people, rank=rank).mean() == pytest.approx(known)
    rank5 = identification(scores, np.repeat(np.arange(15), 2), rank=5)
    assert rank5.chance == pytest.approx(1 / 3)
    assert rank5.value > identification(scores, np.repeat(np.arange(15), 2)).value


def test_roc_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(1, 1, 300), generator.normal(0, 1, 1000)
    labels, scores = np.repeat([1, 0], (300, 1000)), np.concatenate([genuine, impostor])
    fmrs, tprs, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    expected = [tprs[fmrs <= fmr + 1e-9].max() for fmr in (0.001, 0.01, 0.25, 1)]
    np.testing.assert_allclose(true_positive_rates(genuine, impostor, [0.001, 0.01, 0.25, 1]), expected)
