import numpy as np
import pytest

from deid_diffusion.evaluation import statistics as stats
from deid_diffusion.evaluation.statistics import SHARE, Figure, number, rank_hits, true_positive_rate


def test_mean_of():
    figure = stats.mean_of("age error", [1.0, None, 3.0], ["a", "b", "c"], "years", "lower")
    assert (figure.value, figure.trials, figure.unit, figure.interval) == (2, 2, "years", (1, 3))
    empty = stats.mean_of("age error", [None], ["a"], "years")
    assert (empty.value, empty.note) == (None, "no face to measure it on")
    assert stats.mean_of("x", [0.0] * 9, list("abcdefghi"), "levels").interval == (0, 0)
    assert stats.mean_of("x", [0.0] * 9, list("abcdefghi")).interval == (0, pytest.approx(0.336, abs=1e-3))


def test_number_formatting():
    share, unknown = Figure("a", 0.019, interval=(0.01, 0.031)), stats.missing("a", SHARE, "why")
    figures = share, Figure("a", 5.234, "degrees"), Figure("a", 1299.0, ""), unknown
    assert [stats.format_value(figure) for figure in figures] == ["1.9 %", "5.23 degrees", "1,299", "not measured"]
    assert [stats.format_interval(figure) for figure in (share, unknown)] == ["1.0 % to 3.1 %", ""]
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


def test_frechet_distance():
    first, second = exact([0, 0, 0], [1, 2, 3]), exact([3, 4, 0], [1, 4, 1])
    assert stats.frechet_distance(first, second) == pytest.approx(25 + 0 + 4 + 4)
    assert stats.frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


def test_distances_match_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    network = torch.nn.Sequential(torch.nn.Flatten())  # images are their own features
    network.num_features = 12
    first, second = normal(80, 12, 1), normal(80, 12, 2) * 1.3 + 0.4
    fid = FrechetInceptionDistance(feature=network, normalize=False, input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=network, subsets=1, subset_size=80)
    for metric in (fid, kid):
        for points, real in ((first, True), (second, False)):
            metric.update(torch.from_numpy(points).float().reshape(80, 3, 2, 2), real=real)
    assert stats.frechet_distance(first, second) == pytest.approx(float(fid.compute()), rel=1e-3)
    assert stats.kernel_distance(first, second) == pytest.approx(float(kid.compute()[0]), rel=1e-3)


def test_kernel_distance_is_unbiased():
    within = [stats.kernel_distance(normal(40, 6, k), normal(40, 6, k + 1000)) for k in range(60)]
    assert abs(np.mean(within)) < 3 * np.std(within) / 60**0.5
    assert stats.kernel_distance(normal(40, 6, 0), normal(40, 6, 1) + 2) > max(within)


def test_jackknife():
    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return float(first.mean() - second.mean())

    values = normal(2000, 1, 3)
    low, high = stats.jackknife_interval(difference, values, 0 * values, np.arange(2000))
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.4)
    paired = np.repeat(values[:200], 10, axis=0)
    low, high = stats.jackknife_interval(difference, paired, 0 * paired, np.repeat(np.arange(200), 10))
    assert high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.4)
    faces = normal(30, 4, 0), normal(30, 4, 1)
    assert stats.jackknife_interval(stats.frechet_distance, *faces, ["ada"] * 29 + ["bob"]) is None
    assert stats.jackknife_interval(stats.frechet_distance, *faces, ["ada"] * 28 + ["bob", "eve"]) is not None


def test_threshold_at():
    scores = np.random.default_rng(0).permutation(np.arange(1000.0))
    threshold = stats.threshold_at(scores, 0.01)
    assert (threshold, true_positive_rate(scores, threshold)) == (989, 0.01)
    ties = np.repeat([0.0, 1.0], 500)
    assert true_positive_rate(ties, stats.threshold_at(ties, 0.1)) == 0
    assert [stats.enough(count, 1e-3) for count in (10_000, 9_999)] == [True, False]
    with pytest.raises(ValueError, match="needs 10,000 impostor pairs, got 50"):
        stats.threshold_at(np.zeros(50), 1e-3)
    with pytest.raises(ValueError, match="fmr: expected a rate between 0 and 1, got 1"):
        stats.threshold_at(np.zeros(50), 1)


def test_genuine_and_impostor_pairs():
    first, second = stats.genuine_pairs(["a", "b", "a", "c", "a"])
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (0, 4), (2, 4)]
    assert [len(side) for side in stats.genuine_pairs(["a", "b"])] == [0, 0]
    scores = np.arange(9.0).reshape(3, 3)
    assert sorted(stats.impostor_scores(scores, ["a", "b", "a"])) == [1, 5]
    assert sorted(stats.impostor_scores(scores, ["a", "b", "a"], symmetric=False)) == [1, 3, 5, 7]


def test_missing_face_matches_nothing():
    both, people = np.array([[1, 0], [np.nan, np.nan]]), np.array(["a", "b"])
    scores = stats.similarities(both, both)
    np.testing.assert_array_equal(scores, [[1, -np.inf], [-np.inf, -np.inf]])
    assert rank_hits(scores, people, people).tolist() == [1, 0]


def test_enrolments():
    people = ["b", "a", "b", "c", "b"]
    galleries = [(gallery.tolist(), probes.tolist()) for gallery, probes in stats.enrolments(people)]
    assert galleries == [([1, 0, 3], [2, 4]), ([1, 4, 3], [0, 2])]
    result = stats.identification(np.eye(5) - 1, people)  # all gallery entries tie
    assert (result.value, result.trials, result.people) == (pytest.approx(1 / 3), 4, 1)
    assert result.chance == pytest.approx(1 / 3)


def test_bootstrap_resamples_people():
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 20)
    successes = np.repeat(generator.integers(2, size=100), 20).astype(float)  # every person always or never
    low, high = stats.bootstrap_interval(successes, people)
    assert low < successes.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 100**0.5, rel=0.2)
    assert stats.bootstrap_interval(successes, people) == (low, high)
    low, high = stats.bootstrap_interval(generator.permutation(successes), people)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2000**0.5, rel=0.3)


@pytest.mark.parametrize(("value", "interval"), [(0.0, (0, 0.036)), (1.0, (0.964, 1))])
def test_exact_interval_of_extremes(value: float, interval: tuple[float, float]):
    result = stats.rate(np.full(200, value), np.repeat(np.arange(100), 2), 0.01)
    assert result.interval == pytest.approx(interval, abs=1e-3)
    assert (result.value, result.chance, result.trials, result.people) == (value, 0.01, 200, 100)
    with pytest.raises(ValueError, match="at least one trial"):
        stats.rate(np.zeros(0), [], 0)


def test_rank_hits():
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
    rank1, rank5 = (stats.identification(scores, np.repeat(np.arange(15), 2), rank=rank) for rank in (1, 5))
    assert rank5.chance == pytest.approx(1 / 3)
    assert rank5.value > rank1.value


def test_roc_matches_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    genuine, impostor = generator.normal(1, 1, 300), generator.normal(0, 1, 1000)
    labels, scores = np.repeat([1, 0], (300, 1000)), np.concatenate([genuine, impostor])
    fmrs, tprs, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    rates = (0.001, 0.01, 0.25, 1)
    expected = [tprs[fmrs <= fmr + 1e-9].max() for fmr in rates]
    np.testing.assert_allclose(stats.true_positive_rates(genuine, impostor, rates), expected)
