"""How far two sets of pictures are apart, by some network's features: Fréchet and kernel distance. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_BLOCKS = 20  # groups of people that the jackknife leaves out one after another
_NORMAL_95 = 1.96


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al., "GANs Trained by a Two Time-Scale Update
    Rule Converge to a Local Nash Equilibrium", 2017). It is FID if the features are Inception's.

    The fewer pictures, the larger it comes out; only sets of one size and features of one network can be compared.

    Args:
        first: (N, D), N over 1.
        second: (M, D), M over 1.

    Returns:
        0 or more, in squared units of the features.
    """
    mean = first.mean(0) - second.mean(0)
    one, other = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (first, second))
    values, axes = np.linalg.eigh(one)
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    return float(max(mean @ mean + np.trace(one) + np.trace(other) - 2 * cross, 0.0))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x y / D + 1) ** 3 (Binkowski et al., "Demystifying MMD
    GANs", 2018). It is KID if the features are Inception's.

    Args:
        first: (N, D), N over 1.
        second: (M, D), M over 1.

    Returns:
        0 in the mean for sets of one make, below 0 half the time then, whatever the number of pictures.
    """
    dimensions = first.shape[1]
    within = []
    for features in (first, second):
        kernel = (features @ features.T / dimensions + 1) ** 3
        count = len(features)
        within.append((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
    return float(sum(within) - 2 * ((first @ second.T / dimensions + 1) ** 3).mean())


def jackknife_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    people: Sequence[str] | np.ndarray,
) -> tuple[float, float] | None:
    """The interval of 95 % around a distance of paired sets, by leaving out groups of people (delete-d jackknife).

    A bootstrap would show each picture several times, which these distances take for a difference.

    Args:
        statistic: of two sets of features.
        first: (N, D).
        second: (N, D), of the same photos.
        people: N names.

    Returns:
        Lower and upper bound; None for fewer than three people, of whom one may have all pictures but one.
    """
    names = np.unique(np.asarray(people), return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(names.max() + 1)
    if len(order) < 3:
        return None
    blocks = min(_BLOCKS, len(order))
    group = order[names] % blocks
    whole = statistic(first, second)
    without = np.array([statistic(first[group != k], second[group != k]) for k in range(blocks)])
    reach = _NORMAL_95 * float(np.sqrt((blocks - 1) * without.var()))
    return whole - reach, whole + reach
