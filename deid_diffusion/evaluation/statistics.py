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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Better = Literal["lower", "higher", "zero", ""]

SHARE = "share"
"""The unit of figures from 0 to 1, which people read as percentages."""


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Attributes:
        name: what it is, in a few words; with `column` unique within its section.
        value: None where it could not be measured; `note` says why.
        unit: `SHARE`, or words that follow the number.
        interval: lower and upper bound of 95 %; None for a count or an extreme, which has none.
        chance: what a guess reaches; None where there is no such thing.
        trials: how many faces, photos or pairs it rests on; None for a count.
        better: which direction is good; "" for neither.
        note: one line that belongs to it, or "".
        column: of a section that is a table of rows and columns; "" in one that is a list.
    """

    name: str
    value: float | None
    unit: str = SHARE
    interval: tuple[float, float] | None = None
    chance: float | None = None
    trials: int | None = None
    better: Better = ""
    note: str = ""
    column: str = ""


@dataclass(frozen=True)
class Section:
    """Figures that belong together.

    Attributes:
        title: of the section.
        summary: what it says, in a sentence.
        figures: in order.
    """

    title: str
    summary: str
    figures: tuple[Figure, ...]


def of_rate(name: str, rate: Rate, better: Better = "lower", column: str = "") -> Figure:
    """A `Rate` as a figure."""
    return Figure(name, rate.value, SHARE, rate.interval, rate.chance, rate.trials, better, column=column)


def mean_of(
    name: str,
    values: Sequence[float | None],
    people: Sequence[str],
    unit: str = SHARE,
    better: Better = "",
    note: str = "",
) -> Figure:
    """The mean of the values that are known, with its interval over people; a figure without value if none is.

    Args:
        name: of the figure.
        values: K numbers; None is left out.
        people: K names: whose they are.
        unit: as in `Figure`.
        better: likewise.
        note: likewise.
    """
    known = [(float(value), person) for value, person in zip(values, people, strict=True) if value is not None]
    if not known:
        return missing(name, unit, "no face to measure it on")
    numbers = np.array([value for value, _ in known])
    equal = numbers.min() == numbers.max() and unit != SHARE  # the exact interval of none and all is of shares only
    interval = (numbers[0], numbers[0]) if equal else bootstrap_interval(numbers, [person for _, person in known])
    return Figure(
        name, float(numbers.mean()), unit, (float(interval[0]), float(interval[1])), None, len(known), better, note
    )


def missing(name: str, unit: str, why: str, column: str = "") -> Figure:
    """A figure that could not be measured."""
    return Figure(name, None, unit, note=why, column=column)


def format_value(figure: Figure) -> str:
    """The number as people read it, with its unit: "1.9 %", "5.2 degrees", "not measured"."""
    if figure.value is None:
        return "not measured"
    unit = "" if figure.unit in (SHARE, "") else f" {figure.unit}"
    return number(figure.value, figure.unit) + unit


def format_interval(figure: Figure) -> str:
    """The interval likewise, without unit; "" without one."""
    if figure.interval is None:
        return ""
    return " to ".join(number(bound, figure.unit) for bound in figure.interval)


def number(value: float, unit: str) -> str:
    """A number in a unit, without it, but for the sign of percentages."""
    if unit == SHARE:
        percent = 100 * value
        if 0 < percent < 0.005:
            return "under 0.01 %"
        return f"{percent:.2f} %" if 0 < percent < 0.995 else f"{percent:.1f} %"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    size = abs(value)
    if size < 0.001:
        return f"{value:.1e}"
    return f"{value:,.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3f}"


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
