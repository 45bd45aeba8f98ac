"""Identity leakage of the conditioning (attribute tokens, semantic map), without the generator.

The generator's inputs bound what a result can reveal: how well can people be told apart by the conditioning alone, by
an attacker trained on the conditioning of other people? The attacker is two-covariance PLDA (Ioffe, "Probabilistic
Linear Discriminant Analysis", 2006; Brümmer and de Villiers, "The speaker partitioning problem", 2010): the log
likelihood ratio of "same person" to "different people", with Gaussians between and within people, whose shrinkage is
selected on the training people. A figure at chance means that *this* attacker learns nothing from so many people; a
larger network with more people may. People are split into folds, and every fold is attacked by a model trained on the
others. For comparison, the untrained attacker scores by cosine after subtracting the mean of all photos. With few
people to train on it can be stronger; quote the larger figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from deid_diffusion.evaluation.statistics import (
    Rate,
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


_Scored = list[tuple[np.ndarray, np.ndarray]]  # (M, M) scores and M names of every fold
_INNER_FOLDS = 3  # for the selection among `SETTINGS`


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of PLDA.

    Attributes:
        directions: maximal number of PCA components.
        whiten: scale components to unit variance.
        within, between: shrinkage of the covariances within and between people towards a sphere, 0 to 1.
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
class Discrimination:
    """How well a score tells people apart.

    Attributes:
        auc: area under the ROC curve of pairs within folds; 0.5 is chance.
        tpr_at_1e2: TPR at a false match rate of 1e-2 among the folds' own impostor pairs; None if they are too few.
        tpr_at_1e3: likewise at 1e-3.
        rank1: identification within a fold.
    """

    auc: float
    tpr_at_1e2: Rate | None
    tpr_at_1e3: Rate | None
    rank1: Rate


@dataclass(frozen=True)
class Leakage:
    """Leakage of one kind of conditioning.

    Attributes:
        name: of the conditioning.
        trained: by PLDA trained on other people.
        untrained: by the plain cosine.
        photos, people, dimensions: of the features.
    """

    name: str
    trained: Discrimination
    untrained: Discrimination
    photos: int
    people: int
    dimensions: int


def measure_leakage(
    name: str, features: np.ndarray, people: Sequence[str] | np.ndarray, *, folds: int = 5, seed: int = 0
) -> Leakage:
    """Cross-validate the attackers on one kind of conditioning.

    Args:
        name: of the conditioning.
        features: (N, D) finite numbers, one row per photo.
        people: N names. People with a single photo are impostors only.
        folds: number of folds, at least 2.
        seed: of the split and of the intervals.

    Raises:
        ValueError: shapes do not match, numbers are not finite, or too few people have two photos.
    """
    names, features = np.asarray(people), np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != len(names) or not np.isfinite(features).all():
        raise ValueError(f"features: expected ({len(names)}, D) finite numbers, got {features.shape}")
    everyone, photos = np.unique(names, return_counts=True)
    required, repeated = max(2 * folds, 4 * _INNER_FOLDS), int((photos > 1).sum())
    if folds < 2 or repeated < required:
        raise ValueError(f"people: expected {required} or more with two photos for {folds} folds, got {repeated}")
    points = features - features.mean(0)
    if points.shape[1] > len(points):  # the same distances in fewer dimensions
        left, sizes, _ = np.linalg.svd(points, full_matrices=False)
        points = left * sizes
    trained, untrained = [], []
    for test in _folds(names, folds, seed):
        score = train_attacker(points[~test], names[~test], seed=seed)
        trained.append((score(points[test]), names[test]))
        untrained.append((_cosine(points[test]), names[test]))
    sizes = len(names), len(everyone), features.shape[1]
    return Leakage(name, _discrimination(trained, seed), _discrimination(untrained, seed), *sizes)


def train_attacker(features: np.ndarray, people: np.ndarray, *, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Fit PLDA with the `SETTINGS` of highest cross-validated AUC."""
    scored: dict[Setting, _Scored] = {setting: [] for setting in SETTINGS}
    for test in _folds(people, _INNER_FOLDS, seed + 1):
        basis = principal(features[~test])
        for setting in SETTINGS:
            score = fit_plda(features[~test], people[~test], basis, setting)
            scored[setting].append((score(features[test]), people[test]))
    best = max(SETTINGS, key=lambda setting: _auc(*_pairs(scored[setting])[:2]))
    return fit_plda(features, people, principal(features), best)


def principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the PCA of (N, D): mean (D,), K standard deviations times root N, largest first, and axes (K, D)."""
    return features.mean(0), *np.linalg.svd(features - features.mean(0), full_matrices=False)[1:]


def fit_plda(
    features: np.ndarray, people: np.ndarray, basis: tuple[np.ndarray, np.ndarray, np.ndarray], setting: Setting
) -> Callable[[np.ndarray], np.ndarray]:
    """Fit PLDA.

    Args:
        features, people: (N, D) and N names; some must have two photos.
        basis: `principal` of the features.
        setting: see `Setting`.

    Returns:
        A function from other people's features (M, D) to log likelihood ratios of all pairs, (M, M).
    """
    codes, photos = np.unique(people, return_inverse=True, return_counts=True)[1:]
    mean, sizes, axes = basis
    kept = max(1, min(setting.directions, len(features) // 2, int((sizes > 1e-6 * sizes[0]).sum())))
    axes = axes[:kept].T / (np.maximum(sizes[:kept], 1e-30) if setting.whiten else max(sizes[0], 1e-30))
    points = (features - mean) @ axes
    centres = np.stack([np.bincount(codes, column) for column in points.T], 1) / photos[:, None]
    residuals = points - centres[codes]
    within = residuals.T @ residuals / (len(people) - len(photos))
    between = points.T @ points / len(points) - within
    spread = max(np.trace(points.T @ points) / len(points) / kept, 1e-30)
    values, turn = np.linalg.eigh(_shrunk(within, setting.within, 1e-3 * spread))
    axes, turn = axes @ turn / values**0.5, turn / values**0.5  # unit variance within people
    values, turn = np.linalg.eigh(turn.T @ _shrunk(between, setting.between, 1e-3 * spread) @ turn)
    axes, values = axes @ turn, np.maximum(values, 0)
    agree = values / (1 + 2 * values)
    norm = values**2 / (2 * (1 + values) * (1 + 2 * values))

    def score(others: np.ndarray) -> np.ndarray:
        projected = (others - mean) @ axes
        norms = projected**2 @ norm
        return (projected * agree) @ projected.T - norms[:, None] - norms[None]

    return score


def attribute_tokens(adapter: AttributeAdapter, features: torch.Tensor) -> np.ndarray:
    """Compute the attribute tokens that condition the generator.

    Args:
        adapter: of the pipeline.
        features: (B, N, D), filtered by the selections.

    Returns:
        (B, N * W) float32.
    """
    regions = adapter.region_embedding
    return adapter(features.to(regions)).detach().flatten(1).float().cpu().numpy()


def _folds(people: np.ndarray, folds: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (N,) bool masks of the photos of a fold; people with two or more photos are spread evenly."""
    everyone, photos = np.unique(people, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(everyone))
    order = order[np.argsort(photos[order] == 1, kind="stable")]
    for k in range(folds):
        yield np.isin(people, everyone[order[k::folds]])


def _shrunk(covariance: np.ndarray, share: float, least: float) -> np.ndarray:
    """Shrink a covariance, (K, K), by a share towards a sphere of the same mean variance, at least `least`."""
    size = max(float(np.trace(covariance)) / len(covariance), least)
    return (1 - share) * covariance + share * size * np.eye(len(covariance))


def _cosine(features: np.ndarray) -> np.ndarray:
    """Compute cosines, (N, D) to (N, N); 0 with a row of zeros."""
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    return units @ units.T


def _pairs(scored: _Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores of genuine (K,) and impostor pairs (L,) within folds, and the people of the former (K,)."""
    pairs = [(scores, names, *genuine_pairs(names)) for scores, names in scored]
    same = [scores[first, second] for scores, _, first, second in pairs]
    different = [impostor_scores(scores, names) for scores, names in scored]
    people = [names[first] for _, names, first, _ in pairs]
    return np.concatenate(same), np.concatenate(different), np.concatenate(people)


def _auc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    labels = np.repeat([1, 0], (len(genuine), len(impostor)))
    return float(roc_auc_score(labels, np.concatenate([genuine, impostor])))


def _discrimination(scored: _Scored, seed: int) -> Discrimination:
    """Summarise all folds."""
    same, different, people = _pairs(scored)
    hits, probes, chance = (np.concatenate(t) for t in zip(*(rank_trials(*fold) for fold in scored), strict=True))
    at_1e2, at_1e3 = (
        rate(same > threshold_at(different, fmr), people, fmr, seed=seed) if enough(len(different), fmr) else None
        for fmr in (1e-2, 1e-3)
    )
    rank1 = rate(hits, probes, float(chance.mean()), seed=seed)
    return Discrimination(_auc(same, different), at_1e2, at_1e3, rank1)
