"""Biometric statistics on embeddings: thresholds, true positive rates, rank-k, confidence intervals.

Terms follow ISO/IEC 19795-1 (biometric performance testing). A *genuine* pair shows one person, an *impostor* pair two.
The false match rate (FMR) is the share of impostor pairs above a threshold, the true positive rate (TPR, 1 - FNMR) that
of the genuine pairs. Rank-k is closed-set identification: how often the correct person is among the k most similar
entries of a gallery.

Conventions:

- A face that was not detected is a row of NaN, similar to nothing: its pairs do not match, its probe identifies nobody,
  and it answers no probe. It stays in the denominator. Report how many there are: a tool that destroys faces is hard to
  attack for that reason alone.
- A pair matches *above* a threshold, so a threshold never admits more false matches than stated.
- Thresholds are set on pairs of originals, and only if they rest on at least `MIN_FALSE_MATCHES`.
- Intervals resample people, not pairs: pairs of one person are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Better = Literal["lower", "higher", "zero", ""]

SHARE = "share"  # unit of figures from 0 to 1, shown as percentages
MIN_FALSE_MATCHES = 10  # false matches that a threshold has to rest on

_CONFIDENCE = 0.95  # level of all intervals
_RESAMPLES = 2000  # of the bootstrap, per interval
_JACKKNIFE_GROUPS = 20
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Rate:
    """Success rate from 0 to 1, with its 95 % interval over people and the chance level.

    `trials` counts pairs or probes, including those whose face was not detected, `people` the people in them.
    """

    value: float
    interval: tuple[float, float]
    chance: float
    trials: int
    people: int


@dataclass(frozen=True)
class Figure:
    """A metric of the report: name, value, confidence interval and unit.

    Attributes:
        name: unique within its section, together with `column`.
        value: None if it could not be measured; `note` has the reason.
        unit: `SHARE`, or the unit as printed after the number.
        interval: bounds of the 95 % interval; None for counts and extremes.
        chance: chance level; None where there is none.
        trials: number of faces, photos or pairs; None for counts.
        better: the desired direction; "" for neither.
        note: one-line remark, or "".
        column: column within a section that is a matrix; "" in a section that is a list.
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
    """A titled group of figures with a one-sentence summary."""

    title: str
    summary: str
    figures: tuple[Figure, ...]


def of_rate(name: str, rate: Rate, better: Better = "lower", column: str = "") -> Figure:
    """Convert a `Rate` to a figure."""
    return Figure(name, rate.value, SHARE, rate.interval, rate.chance, rate.trials, better, column=column)


def mean_of(
    name: str,
    values: Sequence[float | None],
    people: Sequence[str],
    unit: str = SHARE,
    better: Better = "",
    note: str = "",
) -> Figure:
    """Average K values, None left out, with an interval over K people's names; without a value if none is known."""
    known = [(float(value), person) for value, person in zip(values, people, strict=True) if value is not None]
    if not known:
        return missing(name, unit, "no face to measure it on")
    numbers = np.array([value for value, _ in known])
    constant = numbers.min() == numbers.max() and unit != SHARE  # the exact bound is defined for shares only
    interval = (numbers[0], numbers[0]) if constant else bootstrap_interval(numbers, [person for _, person in known])
    return Figure(
        name, float(numbers.mean()), unit, (float(interval[0]), float(interval[1])), None, len(known), better, note
    )


def missing(name: str, unit: str, reason: str, column: str = "") -> Figure:
    """Return a figure that could not be measured."""
    return Figure(name, None, unit, note=reason, column=column)


def format_value(figure: Figure) -> str:
    """Format the value with its unit: "1.9 %", "5.2 degrees", "not measured"."""
    if figure.value is None:
        return "not measured"
    unit = "" if figure.unit in (SHARE, "") else f" {figure.unit}"
    return number(figure.value, figure.unit) + unit


def format_interval(figure: Figure) -> str:
    """Format the interval without its unit; "" if there is none."""
    if figure.interval is None:
        return ""
    return " to ".join(number(bound, figure.unit) for bound in figure.interval)


def number(value: float, unit: str) -> str:
    """Format a number for its unit: shares as percentages, other numbers without the unit."""
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


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Fréchet distance of Gaussians fitted to features, (N, D) and (M, D); with Inception features, FID.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017. In squared
    units of the features, and biased upwards for small sets: compare only sets of equal size.
    """
    mean = first.mean(0) - second.mean(0)
    covariance, other = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (first, second))
    values, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other @ root), 0)).sum()
    return float(max(mean @ mean + np.trace(covariance) + np.trace(other) - 2 * cross, 0.0))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the unbiased squared MMD of (N, D) and (M, D) features with the kernel (x y / D + 1) ** 3; KID.

    Binkowski et al., "Demystifying MMD GANs", 2018. 0 in expectation for sets from the same distribution, of any size;
    single values can be negative.
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
    """Compute the 95 % interval of a distance between paired sets, leaving out groups of people (delete-d jackknife).

    A bootstrap repeats images, which these distances take for a difference of the distributions. The sets are (N, D)
    features of the same photos, with N people's names; None for fewer than three people.
    """
    names = np.unique(np.asarray(people), return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(names.max() + 1)
    if len(order) < 3:
        return None
    count = min(_JACKKNIFE_GROUPS, len(order))
    group = order[names] % count
    estimate = statistic(first, second)
    leave_out = np.array([statistic(first[group != k], second[group != k]) for k in range(count)])
    margin = _NORMAL_95 * float(np.sqrt((count - 1) * leave_out.var()))
    return estimate - margin, estimate + margin


def similarities(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute the cosines, (N, M) in -1..1, of (N, D) and (M, D) unit rows; -inf for undetected faces, rows of NaN."""
    cosines = first @ second.T
    return np.where(np.isnan(cosines), -np.inf, cosines)


def genuine_pairs(people: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of photos of one person, as indices (K,) and (K,), the first below the second."""
    codes = np.unique(np.asarray(people), return_inverse=True)[1]
    first, second = np.nonzero(np.triu(codes[:, None] == codes[None], 1))
    return first, second


def impostor_scores(scores: np.ndarray, people: Sequence[str] | np.ndarray, *, symmetric: bool = True) -> np.ndarray:
    """Select the (K,) scores of all pairs of photos of different people from (N, N) scores, given N names.

    If `symmetric`, rows and columns are the same images, so a pair counts once; otherwise both orders count.
    """
    codes = np.unique(np.asarray(people), return_inverse=True)[1]
    impostor = codes[:, None] != codes[None]
    return scores[np.triu(impostor) if symmetric else impostor]


def enough(pairs: int, fmr: float) -> bool:
    """Return whether a threshold for `fmr` (0..1) on this many impostor pairs rests on `MIN_FALSE_MATCHES`."""
    return pairs * fmr >= MIN_FALSE_MATCHES - 1e-6


def threshold_at(scores: np.ndarray, fmr: float) -> float:
    """Return the lowest threshold on (K,) impostor scores that keeps a false match rate between 0 and 1.

    Raises ValueError for a rate out of range, or too few pairs for it (see `enough`).
    """
    if not 0 < fmr < 1:
        raise ValueError(f"fmr: expected a rate between 0 and 1, got {fmr}")
    if not enough(len(scores), fmr):
        required = int(np.ceil(MIN_FALSE_MATCHES / fmr - 1e-6))
        raise ValueError(f"a threshold at FMR {fmr:g} needs {required:,} impostor pairs, got {len(scores):,}")
    allowed = int(fmr * len(scores) + 1e-6)
    return float(-np.partition(-np.asarray(scores, np.float64), allowed)[allowed])


def true_positive_rate(scores: np.ndarray, threshold: float) -> float:
    """Return the share of (K,) scores above a threshold: the TPR of genuine pairs, the FMR of impostor pairs."""
    return float(np.mean(np.asarray(scores) > threshold)) if len(scores) else 0.0


def enrolments(people: Sequence[str] | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield indices of a gallery with one photo per person, (G,), and of the probes, all other photos, (P,); twice.

    The first gallery enrols the first photo of every person, the second the last. People with a single photo are in
    both galleries and never a probe.
    """
    names = np.asarray(people)
    first = np.unique(names, return_index=True)[1]
    last = len(names) - 1 - np.unique(names[::-1], return_index=True)[1]
    for gallery in (first, last):
        yield gallery, np.setdiff1d(np.arange(len(names)), gallery)


def true_positive_rates(genuine: np.ndarray, impostor: np.ndarray, fmrs: Sequence[float]) -> np.ndarray:
    """Compute the ROC, (F,), of (K,) genuine and (L,) impostor scores at F false match rates.

    Each rate is taken at the lowest threshold that keeps it.
    """
    order = np.append(np.sort(np.asarray(impostor, np.float64))[::-1], -np.inf)
    cuts = order[[int(fmr * len(impostor) + 1e-6) for fmr in fmrs]]
    return np.array([true_positive_rate(genuine, cut) for cut in cuts])


def rank_hits(scores: np.ndarray, probe_people: np.ndarray, gallery_people: np.ndarray, *, rank: int = 1) -> np.ndarray:
    """Return for P probes whether the correct person is among the `rank` most similar of G gallery entries.

    Args:
        scores: (P, G), from `similarities`; +inf for a pair that is known to match.
        probe_people: P names.
        gallery_people: G distinct names.
        rank: number of gallery entries considered.

    Returns:
        (P,) 0 to 1. Ties for the last rank are split, so that identical images score at chance level. 0 for a probe
        without a face.
    """
    genuine = np.asarray(probe_people)[:, None] == np.asarray(gallery_people)[None]
    own = np.where(genuine, scores, -np.inf).max(axis=1, keepdims=True)
    higher, tied = (scores > own).sum(1), (scores == own).sum(1)
    share = (genuine & (scores == own)).sum(1) / np.maximum(tied, 1)
    return np.where(own[:, 0] > -np.inf, np.clip((rank - higher) * share, 0, 1), 0)


def rank_trials(
    scores: np.ndarray, people: Sequence[str] | np.ndarray, *, rank: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `rank_hits` over both galleries of `enrolments`, on (N, N) scores: probes by gallery entries.

    Returns:
        Success (0 to 1), name and chance level of all K probes, (K,) each.
    """
    names = np.asarray(people)
    trials = []
    for gallery, probes in enrolments(names):
        hits = rank_hits(scores[np.ix_(probes, gallery)], names[probes], names[gallery], rank=rank)
        trials.append((hits, names[probes], np.full(len(probes), min(1.0, rank / len(gallery)))))
    hits, probe_people, chance = (np.concatenate(column) for column in zip(*trials, strict=True))
    return hits, probe_people, chance


def identification(scores: np.ndarray, people: Sequence[str] | np.ndarray, *, rank: int = 1) -> Rate:
    """Compute the rank-k identification rate. Raises ValueError if nobody has two photos."""
    hits, probe_people, chance = rank_trials(scores, people, rank=rank)
    return rate(hits, probe_people, float(chance.mean()) if len(chance) else 0.0)


def rate(successes: np.ndarray, people: Sequence[str] | np.ndarray, chance: float, *, seed: int = 0) -> Rate:
    """Summarise (K,) successes, 0 to 1, of trials with K people's names. Raises ValueError without trials."""
    if not len(successes):
        raise ValueError("successes: expected at least one trial, got none")
    interval = bootstrap_interval(successes, people, seed=seed)
    return Rate(float(np.mean(successes)), interval, chance, len(successes), len(np.unique(np.asarray(people))))


def bootstrap_interval(
    successes: np.ndarray, people: Sequence[str] | np.ndarray, *, seed: int = 0
) -> tuple[float, float]:
    """Compute the 95 % interval of the mean of (K,) values by resampling K people (percentile cluster bootstrap).

    If no trial or every trial succeeded, all resamples are equal; the bound is then the exact one for as many
    independent trials as there are people (Clopper and Pearson, 1934). Thresholds and galleries are not resampled.
    """
    values = np.asarray(successes, np.float64)
    codes = np.unique(np.asarray(people), return_inverse=True)[1]
    total, count = np.bincount(codes, values), np.bincount(codes)
    n, tail = len(total), (1 - _CONFIDENCE) / 2
    if values.min() == values.max() and values[0] in (0, 1):
        bound = float(1 - tail ** (1 / n))
        return (0.0, bound) if values[0] == 0 else (1 - bound, 1.0)
    generator = np.random.default_rng(seed)
    samples = (generator.integers(n, size=n) for _ in range(_RESAMPLES))
    low, high = np.quantile([total[sample].sum() / count[sample].sum() for sample in samples], (tail, 1 - tail))
    return float(low), float(high)
