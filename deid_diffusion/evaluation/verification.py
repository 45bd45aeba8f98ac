"""Biometric figures from embeddings: thresholds, true positive rates, rank-1 and how sure they are. Pure functions.

Words and definitions are those of ISO/IEC 19795-1 (biometric performance testing): a *genuine* pair shows one person,
an *impostor* pair two. FMR is the share of impostor pairs over a threshold (false match rate), TPR that of the genuine
pairs (true positive rate, 1 - FNMR). Rank-1 is closed-set identification: how often the most similar entry of a gallery
is the probe's person; rank-5, how often one of the five most similar is.

Conventions:

- A face that was not found is a row of NaN. It is similar to nothing: a pair with it does not match, a probe finds
  nobody and a gallery entry is nobody's answer. It stays in the denominator. How many there are belongs beside every
  figure, because a tool that destroys faces is hard to attack for that reason alone.
- A pair matches *over* a threshold, not at it, so a threshold never has more false matches than it promises.
- Thresholds come from pairs of originals. A threshold that would rest on fewer than `FEWEST` false matches is refused.
- Intervals come from resampling people, not pairs: the pairs of one person are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 10
"""False matches that a threshold must rest on at least."""

CONFIDENCE = 0.95
"""Of every interval."""

RESAMPLES = 2000
"""Times that people are drawn anew for an interval."""


@dataclass(frozen=True)
class Rate:
    """A share of trials that succeeded, and how it compares with luck.

    Attributes:
        value: 0 to 1.
        interval: lower and upper bound of 95 %, from resampling people.
        chance: what somebody reaches who knows nothing, 0 to 1.
        trials: pairs or probes that were tried, those with a face that was not found included.
        people: whose they are.
    """

    value: float
    interval: tuple[float, float]
    chance: float
    trials: int
    people: int


def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of every two embeddings.

    Args:
        first: (N, D) unit rows, NaN rows for faces that were not found.
        second: (M, D) likewise.

    Returns:
        (N, M) in -1..1; -inf where one of the two was not found.
    """
    cosines = first @ second.T
    return np.where(np.isnan(cosines), -np.inf, cosines)


def genuine_pairs(people: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every two different photos of one person, each pair once: indices (K,) and (K,), the first below the second."""
    names = np.asarray(people)
    pairs = []
    for photos in _photos_by_person(names):
        first, second = np.triu_indices(len(photos), 1)
        pairs.append(np.stack([photos[first], photos[second]]))
    both = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), int)
    return both[0], both[1]


def impostor_scores(scores: np.ndarray, people: Sequence[str] | np.ndarray, *, symmetric: bool = True) -> np.ndarray:
    """The scores of every two photos of different people.

    Args:
        scores: (N, N), from `similarities`.
        people: N names.
        symmetric: rows and columns are the same pictures, so each pair counts once; else rows and columns are
            different pictures of the same photos, and both orders count.

    Returns:
        (K,) scores.
    """
    codes = np.unique(np.asarray(people), return_inverse=True)[1]
    strangers = codes[:, None] != codes[None]
    return scores[np.triu(strangers) if symmetric else strangers]


def enough(pairs: int, fmr: float) -> bool:
    """Whether a threshold for `fmr` (0..1) rests on at least `FEWEST` of that many impostor pairs."""
    return pairs * fmr >= FEWEST - 1e-6


def threshold_at(scores: np.ndarray, fmr: float) -> float:
    """The lowest threshold over which at most a share of the impostor pairs lies.

    Args:
        scores: (K,) of impostor pairs, in practice of originals.
        fmr: false match rate, between 0 and 1.

    Raises:
        ValueError: for another rate, or fewer pairs than `enough` says.
    """
    if not 0 < fmr < 1:
        raise ValueError(f"fmr: expected a rate between 0 and 1, got {fmr}")
    if not enough(len(scores), fmr):
        least = int(np.ceil(FEWEST / fmr - 1e-6))
        raise ValueError(f"a threshold at FMR {fmr:g} takes {least:,} impostor pairs, got {len(scores):,}")
    allowed = int(fmr * len(scores) + 1e-6)
    return float(-np.partition(-np.asarray(scores, np.float64), allowed)[allowed])


def true_positive_rate(scores: np.ndarray, threshold: float) -> float:
    """Share of (K,) scores over a threshold; of genuine pairs that is TPR, of impostor pairs FMR."""
    return float(np.mean(np.asarray(scores) > threshold)) if len(scores) else 0.0


def area_under_curve(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """How often a genuine pair scores over an impostor pair, ties counting half: 0.5 is chance, 1 perfect.

    Args:
        genuine: (K,) scores.
        impostor: (L,) scores.
    """
    order = np.sort(impostor)
    below = np.searchsorted(order, genuine, "left") + np.searchsorted(order, genuine, "right")
    return float(below.mean() / 2 / len(order))


def enrolments(people: Sequence[str] | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two galleries that hold each person once, and their probes: all other photos of the same people.

    First each person's first photo is enrolled, then the last. People with one photo are in the gallery both times and
    never a probe.

    Yields:
        Indices of the gallery (G,) and of the probes (P,).
    """
    groups = _photos_by_person(np.asarray(people))
    for place in (0, -1):
        gallery = np.array([photos[place] for photos in groups])
        yield gallery, np.setdiff1d(np.concatenate(groups), gallery)


def true_positive_rates(genuine: np.ndarray, impostor: np.ndarray, fmrs: Sequence[float]) -> np.ndarray:
    """The ROC at some false match rates, each at the lowest threshold that keeps it, however few pairs that rests on.

    Args:
        genuine: (K,) scores.
        impostor: (L,) scores, at least one.
        fmrs: F rates, 0 to 1.

    Returns:
        (F,) shares of the genuine scores over the threshold.
    """
    order = np.append(np.sort(np.asarray(impostor, np.float64))[::-1], -np.inf)
    cuts = order[[int(fmr * len(impostor) + 1e-6) for fmr in fmrs]]
    return np.array([true_positive_rate(genuine, cut) for cut in cuts])


def rank_hits(scores: np.ndarray, probe_people: np.ndarray, gallery_people: np.ndarray, *, rank: int = 1) -> np.ndarray:
    """Whether each probe's person is among the most similar entries of a gallery.

    Args:
        scores: (P, G), from `similarities`; +inf for a pair that is known to match.
        probe_people: P names.
        gallery_people: G names, each person once.
        rank: number of entries that are looked at.

    Returns:
        (P,) 0 or 1; between them where entries tie for the last place that counts, so that equal pictures give chance
        and not the order of the names; 0 for a probe that was not found.
    """
    genuine = np.asarray(probe_people)[:, None] == np.asarray(gallery_people)[None]
    own = np.where(genuine, scores, -np.inf).max(axis=1, keepdims=True)
    before, tied = (scores > own).sum(1), (scores == own).sum(1)
    share = (genuine & (scores == own)).sum(1) / np.maximum(tied, 1)
    return np.where(own[:, 0] > -np.inf, np.clip((rank - before) * share, 0, 1), 0)


def rank_trials(
    scores: np.ndarray, people: Sequence[str] | np.ndarray, *, rank: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`rank_hits` of each photo's row among the columns of the other photos, over both galleries of `enrolments`.

    Args:
        scores: (N, N), from `similarities`: rows are probes, columns gallery entries.
        people: N names.
        rank: as in `rank_hits`.

    Returns:
        Of each probe, (K,): success, 0 to 1, its name, and the chance to succeed by guessing.
    """
    names = np.asarray(people)
    trials = []
    for gallery, probes in enrolments(names):
        hits = rank_hits(scores[np.ix_(probes, gallery)], names[probes], names[gallery], rank=rank)
        trials.append((hits, names[probes], np.full(len(probes), min(1.0, rank / len(gallery)))))
    hits, whose, chance = (np.concatenate(column) for column in zip(*trials, strict=True))
    return hits, whose, chance


def identification(scores: np.ndarray, people: Sequence[str] | np.ndarray, *, rank: int = 1, seed: int = 0) -> Rate:
    """`rank_trials` as a `Rate`, with `seed` for its interval. Raises ValueError if nobody has two photos."""
    hits, whose, chance = rank_trials(scores, people, rank=rank)
    return rate(hits, whose, float(chance.mean()) if len(chance) else 0.0, seed=seed)


def rate(successes: np.ndarray, people: Sequence[str] | np.ndarray, chance: float, *, seed: int = 0) -> Rate:
    """(K,) successes, 0 to 1, of K names as a `Rate`. Raises ValueError if there is none."""
    if not len(successes):
        raise ValueError("successes: expected at least one trial, got none")
    interval = bootstrap_interval(successes, people, seed=seed)
    return Rate(float(np.mean(successes)), interval, chance, len(successes), len(np.unique(np.asarray(people))))


def bootstrap_interval(
    successes: np.ndarray, people: Sequence[str] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The interval of 95 % around the mean of trials, by drawing people with replacement (percentile bootstrap).

    Where no trial succeeded, or all did, every draw is the same; the bound is then the exact one for as many
    independent trials as there are people (Clopper and Pearson, 1934). Threshold and gallery stay as they are.

    Args:
        successes: (K,) 0 to 1.
        people: K names: whose trial it is.
        resamples: number of draws.
        seed: of the draws.
    """
    values = np.asarray(successes, np.float64)
    whose = np.unique(np.asarray(people), return_inverse=True)[1]
    total, count = np.bincount(whose, values), np.bincount(whose)
    n, tail = len(total), (1 - CONFIDENCE) / 2
    if values.min() == values.max() and values[0] in (0, 1):
        reach = float(1 - tail ** (1 / n))
        return (0.0, reach) if values[0] == 0 else (1 - reach, 1.0)
    generator = np.random.default_rng(seed)
    draws = (generator.integers(n, size=n) for _ in range(resamples))
    low, high = np.quantile([total[drawn].sum() / count[drawn].sum() for drawn in draws], (tail, 1 - tail))
    return float(low), float(high)


def _photos_by_person(names: np.ndarray) -> list[np.ndarray]:
    """Indices of each person's photos, in order; people in the order of their names."""
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(names[order][1:] != names[order][:-1]) + 1
    return np.split(order, starts) if len(names) else []
