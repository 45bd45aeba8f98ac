"""How much of a person the conditioning carries: attribute tokens and semantic map, judged without the generator.

What the generator is told of a face bounds what a result can give away. So the question is how well people can be told
apart by the conditioning alone, by an attacker who trained on other people's conditioning. The attacker here is
two-covariance PLDA (Ioffe, "Probabilistic Linear Discriminant Analysis", 2006; Brümmer and de Villiers, "The speaker
partitioning problem", 2010): the log likelihood ratio of "one person" to "two people" where people differ from each
other, and photos of one person among themselves, each by a Gaussian. How much to trust the two estimated covariances,
he finds out on the people he trains on. A figure at chance says that *this* attacker learns nothing from so
many people; a larger network with more people may. People are split into folds, and each fold is judged by an attacker
who has seen the others only. Beside it stands what the features give away untrained: their cosine after the mean of all
photos is subtracted. With few people to learn from that can be more; the larger figure is the one to quote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deid_diffusion.evaluation.statistics import (
    Rate,
    area_under_curve,
    enough,
    genuine_pairs,
    impostor_scores,
    rank_trials,
    rate,
    threshold_at,
)

if TYPE_CHECKING:
    import torch

    from deid_diffusion.models.attribute_adapter import AttributeAdapter


_Scored = list[tuple[np.ndarray, np.ndarray]]  # of each fold, (M, M) scores and M names
_INNER_FOLDS = 3  # on which an attacker chooses among `SETTINGS`


@dataclass(frozen=True)
class Setting:
    """How far an attacker trusts his estimates.

    Attributes:
        directions: that remain after PCA, at most.
        whiten: every direction counts alike; else as much as it varies.
        within, between: shrinkage of the covariance within and between people towards a sphere, 0 none to 1 all.
    """

    directions: int
    whiten: bool
    within: float
    between: float


SETTINGS = tuple(
    Setting(directions, whiten, *shrinkage)
    for directions in (32, 128)
    for whiten in (False, True)
    for shrinkage in ((0.02, 0.0), (0.2, 0.0), (0.95, 0.0), (0.95, 0.95))
)


@dataclass(frozen=True)
class Telling:
    """How well one score tells people apart.

    Attributes:
        auc: how often two photos of one person score over two of different people of the same fold; 0.5 is chance.
        tpr_at_1e2: TPR at a false match rate of 1e-2 among the folds' own impostor pairs; None if those are too few.
        tpr_at_1e3: likewise at 1e-3.
        rank1: identification within a fold; its chance is one in the people of a fold.
    """

    auc: float
    tpr_at_1e2: Rate | None
    tpr_at_1e3: Rate | None
    rank1: Rate


@dataclass(frozen=True)
class Leakage:
    """What one kind of conditioning gives away.

    Attributes:
        name: of the conditioning.
        trained: by the attacker who learned from other people.
        untrained: by the plain cosine.
        photos, people, dimensions: what they were measured on.
    """

    name: str
    trained: Telling
    untrained: Telling
    photos: int
    people: int
    dimensions: int


def measure_leakage(
    name: str, features: np.ndarray, people: Sequence[str] | np.ndarray, *, folds: int = 5, seed: int = 0
) -> Leakage:
    """Cross-validated figures of one kind of conditioning.

    Args:
        name: of the conditioning.
        features: (N, D) finite numbers, one row a photo.
        people: N names. Whoever has one photo only takes part as a stranger.
        folds: parts that the people are split into, at least 2.
        seed: of the split and of the intervals.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or too few people with two photos.
    """
    names, features = np.asarray(people), np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != len(names) or not np.isfinite(features).all():
        raise ValueError(f"features: expected ({len(names)}, D) finite numbers, got {features.shape}")
    everyone, photos = np.unique(names, return_counts=True)
    least, repeated = max(2 * folds, 4 * _INNER_FOLDS), int((photos > 1).sum())
    if folds < 2 or repeated < least:
        raise ValueError(f"people: expected {least} or more with two photos for {folds} folds, got {repeated}")
    points = features - features.mean(0)
    if points.shape[1] > len(points):  # the same distances in fewer numbers
        left, sizes, _ = np.linalg.svd(points, full_matrices=False)
        points = left * sizes
    trained, untrained = [], []
    for test in _folds(names, folds, seed):
        score = train_attacker(points[~test], names[~test], seed=seed)
        trained.append((score(points[test]), names[test]))
        untrained.append((_cosine(points[test]), names[test]))
    return Leakage(name, _tell(trained, seed), _tell(untrained, seed), len(names), len(everyone), features.shape[1])


def train_attacker(features: np.ndarray, people: np.ndarray, *, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """`fit_plda` with the one of `SETTINGS` that tells people apart best (AUC) whom it was not fitted to."""
    scored: dict[Setting, _Scored] = {setting: [] for setting in SETTINGS}
    for test in _folds(people, _INNER_FOLDS, seed + 1):
        basis = principal(features[~test])
        for setting in SETTINGS:
            score = fit_plda(features[~test], people[~test], basis, setting)
            scored[setting].append((score(features[test]), people[test]))
    best = max(SETTINGS, key=lambda setting: area_under_curve(*_pairs(scored[setting])[:2]))
    return fit_plda(features, people, principal(features), best)


def principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA of (N, D): the mean (D,), K standard deviations times root N, largest first, and K axes (K, D)."""
    return features.mean(0), *np.linalg.svd(features - features.mean(0), full_matrices=False)[1:]


def fit_plda(
    features: np.ndarray, people: np.ndarray, basis: tuple[np.ndarray, np.ndarray, np.ndarray], setting: Setting
) -> Callable[[np.ndarray], np.ndarray]:
    """Learn to tell people apart.

    Args:
        features, people: (N, D) and N names; some must have two photos.
        basis: `principal` of the features.
        setting: see `Setting`.

    Returns:
        A function from other people's features (M, D) to the scores (M, M) of every two photos: log likelihood ratios.
    """
    whose, photos = np.unique(people, return_inverse=True, return_counts=True)[1:]
    mean, sizes, axes = basis
    kept = max(1, min(setting.directions, len(features) // 2, int((sizes > 1e-6 * sizes[0]).sum())))
    axes = axes[:kept].T / (np.maximum(sizes[:kept], 1e-30) if setting.whiten else max(sizes[0], 1e-30))
    points = (features - mean) @ axes
    centres = np.stack([np.bincount(whose, column) for column in points.T], 1) / photos[:, None]
    apart = points - centres[whose]
    within = apart.T @ apart / (len(people) - len(photos))
    between = points.T @ points / len(points) - within
    spread = max(np.trace(points.T @ points) / len(points) / kept, 1e-30)
    values, turn = np.linalg.eigh(_shrunk(within, setting.within, 1e-3 * spread))
    axes, turn = axes @ turn / values**0.5, turn / values**0.5  # variance within people is now 1 in every direction
    values, turn = np.linalg.eigh(turn.T @ _shrunk(between, setting.between, 1e-3 * spread) @ turn)
    axes, values = axes @ turn, np.maximum(values, 0)
    agree = values / (1 + 2 * values)
    norm = values**2 / (2 * (1 + values) * (1 + 2 * values))

    def score(others: np.ndarray) -> np.ndarray:
        placed = (others - mean) @ axes
        far = placed**2 @ norm
        return (placed * agree) @ placed.T - far[:, None] - far[None]

    return score


def attribute_tokens(adapter: AttributeAdapter, features: torch.Tensor) -> np.ndarray:
    """The tokens that tell the generator of faces' attributes, without looks, which tell of nobody.

    Args:
        adapter: the pipeline's.
        features: (B, N, D), what the choices let through, as ``generation.read_attributes`` gives it.

    Returns:
        (B, N * W) float32.
    """
    regions = adapter.region_embedding
    return adapter(features.to(regions)).detach().flatten(1).float().cpu().numpy()


def _folds(people: np.ndarray, folds: int, seed: int) -> Iterator[np.ndarray]:
    """(N,) bool masks of the photos of each part of the people; those with two photos or more are spread evenly."""
    everyone, photos = np.unique(people, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(everyone))
    order = order[np.argsort(photos[order] == 1, kind="stable")]
    for k in range(folds):
        yield np.isin(people, everyone[order[k::folds]])


def _shrunk(covariance: np.ndarray, share: float, least: float) -> np.ndarray:
    """(K, K), a share of it replaced by a sphere of the same mean variance, or of the least there can be."""
    size = max(float(np.trace(covariance)) / len(covariance), least)
    return (1 - share) * covariance + share * size * np.eye(len(covariance))


def _cosine(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, N) cosines; 0 with a row of zeros."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    return units @ units.T


def _pairs(scored: _Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of genuine (K,) and impostor pairs (L,) within folds, and whose the genuine ones are (K,)."""
    pairs = [(scores, names, *genuine_pairs(names)) for scores, names in scored]
    same = [scores[first, second] for scores, _, first, second in pairs]
    different = [impostor_scores(scores, names) for scores, names in scored]
    whose = [names[first] for _, names, first, _ in pairs]
    return np.concatenate(same), np.concatenate(different), np.concatenate(whose)


def _tell(scored: _Scored, seed: int) -> Telling:
    """The figures of all folds together."""
    same, different, whose = _pairs(scored)
    hits, probes, chance = (np.concatenate(t) for t in zip(*(rank_trials(*one) for one in scored), strict=True))

    often, seldom = (
        rate(same > threshold_at(different, fmr), whose, fmr, seed=seed) if enough(len(different), fmr) else None
        for fmr in (1e-2, 1e-3)
    )
    found = rate(hits, probes, float(chance.mean()), seed=seed)
    return Telling(area_under_curve(same, different), often, seldom, found)
