"""Distances of Gaussians that are known, and those of torchmetrics on the same features."""

import numpy as np
import pytest

from deid_diffusion.evaluation.distributions import frechet_distance, jackknife_interval, kernel_distance


def normal(count: int, dimensions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions))


def exact(mean: list[float], deviations: list[float]) -> np.ndarray:
    """Points of exactly this mean and diagonal covariance."""
    points = normal(400, len(mean), 0)
    points -= points.mean(0)
    root = np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return points @ root * deviations + mean


def test_frechet_distance_of_known_gaussians():
    first, second = exact([0, 0, 0], [1, 2, 3]), exact([3, 4, 0], [1, 4, 1])
    assert frechet_distance(first, second) == pytest.approx(25 + 0 + 4 + 4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


class Through:
    """A stand-in for Inception: pictures are their own features."""

    def __new__(cls, dimensions: int):
        import torch

        class Net(torch.nn.Module):
            num_features = dimensions

            def forward(self, pictures):
                return pictures.flatten(1)[:, :dimensions].float()

        return Net()


def test_both_are_those_of_torchmetrics():
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    first, second = normal(80, 12, 1), normal(80, 12, 2) * 1.3 + 0.4
    pair = [torch.from_numpy(points).reshape(80, 3, 2, 2) for points in (first, second)]
    fid = FrechetInceptionDistance(feature=Through(12), normalize=False, input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    kid = KernelInceptionDistance(feature=Through(12), subsets=1, subset_size=80)
    for metric in (fid, kid):
        metric.update(pair[0], real=True)
        metric.update(pair[1], real=False)
    assert frechet_distance(first, second) == pytest.approx(float(fid.compute()), rel=1e-3)
    assert kernel_distance(first, second) == pytest.approx(float(kid.compute()[0]), rel=1e-3)


def test_kernel_distance_is_unbiased():
    within = [kernel_distance(normal(40, 6, k), normal(40, 6, k + 1000)) for k in range(60)]
    assert abs(np.mean(within)) < 3 * np.std(within) / 60**0.5
    assert kernel_distance(normal(40, 6, 0), normal(40, 6, 1) + 2) > max(within)


def test_jackknife_of_a_mean_is_the_textbook_interval():
    values = normal(2000, 1, 3)

    def apart(first: np.ndarray, second: np.ndarray) -> float:
        return float(first.mean() - second.mean())

    low, high = jackknife_interval(apart, values, np.zeros_like(values), [str(k) for k in range(2000)])
    assert (low + high) / 2 == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.4)
    paired = np.repeat(values[:200], 10, axis=0)
    wide = np.subtract(*jackknife_interval(apart, paired, 0 * paired, np.repeat(np.arange(200), 10))[::-1])
    assert wide == pytest.approx(2 * 1.96 / 200**0.5, rel=0.4)


def test_two_people_are_too_few_to_leave_one_out():
    faces = normal(30, 4, 0), normal(30, 4, 1)
    assert jackknife_interval(frechet_distance, *faces, ["ada"] * 29 + ["bob"]) is None
    assert jackknife_interval(frechet_distance, *faces, ["ada"] * 28 + ["bob", "eve"]) is not None
