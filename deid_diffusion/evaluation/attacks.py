"""Re-identification attacks on results, with a face recogniser and other photos of the people.

The attacker knows that the photos were de-identified and has other photos of the people. Attacks:

- ``originals``: original against another original. Not an attack but the ceiling: the recogniser's own accuracy.
- ``naive, same photo``: result against its own original.
- ``naive``: result against another original of the person, 1:1 (TPR) and as a probe among all (rank-k).
- ``reverse``: an original is the probe, the gallery holds results of other photos.
- ``parrot``: a result is the probe, the gallery holds results of other photos: the attacker de-identified a gallery
  with the same tool and settings (Newton, Sweeney and Malin, "Preserving Privacy by De-identifying Face Images", 2005).
  Blur and other tools that keep the face fail here.
- ``linkability``: two results of one person, 1:1.

Thresholds are set on impostor pairs of *originals*. Chance is reported beside every figure, as the share of impostor
pairs of the same kind that match, so results that all look alike do not count as linked. Results made with a key are
pseudonymised: they are linkable, and succumb to the parrot attack, on purpose.

Faces that the detector misses in the originals are in none of the figures. If no face is detected in a result, the
recogniser reads it at the original's position, as an attacker would. Claims need an independent recogniser, one that
did not verify the results when they were generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..identity.recognition import FALSE_MATCH_RATE, Recogniser
from .measure import PairMeasurement
from .pairing import stack
from .statistics import (
    MIN_FALSE_MATCHES,
    SHARE,
    Figure,
    Rate,
    Section,
    enough,
    genuine_pairs,
    identification,
    impostor_scores,
    missing,
    of_rate,
    rank_hits,
    rate,
    similarities,
    threshold_at,
    true_positive_rates,
)

ORIGINALS, SAME, NAIVE, REVERSE, PARROT, LINKABILITY = (
    "originals", "naive, same photo", "naive", "reverse", "parrot", "linkability",
)  # fmt: skip
"""Names of the attacks."""

DESCRIPTIONS = {
    ORIGINALS: "original against another original: the recogniser's own accuracy",
    SAME: "result against its own original",
    NAIVE: "result against another original of the person",
    LINKABILITY: "result against another result of the person",
    REVERSE: "original as probe, gallery of results of other photos",
    PARROT: "result as probe, gallery of results of other photos",
}
"""Explanation of every attack, for the report."""

FMRS = (1e-2, 1e-3, 1e-4)  # false match rates of the verification figures
RANKS = (1, 5)  # ranks of the identification figures

_ROC_POINTS = 60


@dataclass(frozen=True, eq=False)
class Scores:
    """Cosine similarities between the F photos that show a face in the original.

    Attributes:
        detected: (N,) bool, selects these F among all N photos.
        people: (F,) names.
        originals: (F, F), originals with originals.
        cross: (F, F), results (rows) with originals (columns); +inf for pairs of one person whose result is unchanged.
        results: (F, F), results with results; +inf likewise.
    """

    detected: np.ndarray
    people: np.ndarray
    originals: np.ndarray
    cross: np.ndarray
    results: np.ndarray

    @property
    def repeated(self) -> bool:
        """Whether there are two photos of anybody."""
        return len(np.unique(self.people)) < len(self.people)


@dataclass(frozen=True)
class Curve:
    """An ROC curve, with thresholds set on impostor pairs of originals."""

    name: str
    fmrs: tuple[float, ...]
    tprs: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Reidentification:
    """Attacks with one recogniser on all photos.

    Attributes:
        recogniser: its name.
        section: all figures.
        curves: ROC curves; empty if there are too few originals.
        headline: share of comparisons that re-identify a person: `NAIVE` if there are two photos of anybody, otherwise
            `SAME`.
        ceiling: the same figure for originals against originals; None if nobody has two photos.
        hits: (K,) success of the headline's comparisons, 0 or 1.
        photos: (K,) index of the photo whose result was compared.
        margins: (N,) cosine of every result with its own original, minus the threshold; -inf without a face, +inf for
            unchanged faces.
    """

    recogniser: str
    section: Section
    curves: tuple[Curve, ...]
    headline: Figure
    ceiling: Figure | None
    hits: np.ndarray
    photos: np.ndarray
    margins: np.ndarray


def reidentify(measurements: Sequence[PairMeasurement], index: int, recogniser: Recogniser) -> Reidentification | None:
    """Run all attacks with one recogniser. Needs some 40 bytes of memory per pair of photos.

    Args:
        measurements: N photos; at least two people with a face in the original.
        index: of the recogniser's embeddings in the measurements.
        recogniser: supplies its name and, for small sets, its threshold.

    Returns:
        None if there are too few photos to set a threshold and the recogniser has none.

    Raises:
        ValueError: fewer than two people have a face in the originals.
    """
    scores = compute_scores(measurements, index)
    if len(np.unique(scores.people)) < 2:
        raise ValueError("measurements: expected faces of at least two people")
    impostors = impostor_scores(scores.originals, scores.people)
    feasible = [fmr for fmr in FMRS if enough(len(impostors), fmr)]
    strictest = min((fmr for fmr in feasible if fmr >= FALSE_MATCH_RATE), default=None)
    if strictest is None and not np.isfinite(recogniser.threshold):
        return None
    threshold = recogniser.threshold if strictest is None else threshold_at(impostors, strictest)
    figures: list[Figure] = []
    for fmr in FMRS:
        column = f"TPR at FMR {_power(fmr)}"
        if fmr in feasible:
            rates = verification_rates(scores, threshold_at(impostors, fmr))
        elif fmr == FALSE_MATCH_RATE and strictest is None:
            rates, column = verification_rates(scores, threshold), f"{column} (its own threshold)"
        else:
            reason = f"needs {MIN_FALSE_MATCHES / fmr:,.0f} impostor pairs, there are {len(impostors):,}"
            names = [ORIGINALS, SAME, NAIVE, LINKABILITY] if scores.repeated else [SAME]
            figures += [missing(name, SHARE, reason, column) for name in names]
            continue
        figures += _figures(rates, column)
    for rank in RANKS:
        figures += _figures(identification_rates(scores, rank), f"rank-{rank}")
    name = NAIVE if scores.repeated else SAME
    loosest = next(figure for figure in figures if figure.value is not None)
    column = loosest.column if strictest is None else f"TPR at FMR {_power(strictest)}"
    headlines = {figure.name: figure for figure in figures if figure.column == column}
    pairs, results = _naive_pairs(scores) if scores.repeated else (np.diag(scores.cross), np.arange(len(scores.people)))
    margins = np.full(len(scores.detected), -np.inf)
    margins[scores.detected] = np.diag(scores.cross) - threshold
    return Reidentification(
        recogniser=recogniser.name,
        section=Section(f"Re-identification by {recogniser.name}", _summary(scores, len(impostors)), tuple(figures)),
        curves=tuple(_curves(scores, impostors)),
        headline=replace(
            headlines[name], name=f"re-identified ({name})", note=f"{recogniser.name}, {column}", column=""
        ),
        ceiling=headlines.get(ORIGINALS),
        hits=(pairs > threshold).astype(float),
        photos=np.flatnonzero(scores.detected)[results],
        margins=margins,
    )


def compute_scores(measurements: Sequence[PairMeasurement], index: int) -> Scores:
    """Compare all embeddings of one recogniser. Unchanged faces match their person, regardless of the scores."""
    faces = [measurement.face for measurement in measurements]
    originals, results = stack([(None, None) if face is None else face.embeddings[index] for face in faces])
    detected = np.isfinite(originals).all(axis=1)
    people = np.array([measurement.pair.person for measurement in measurements])[detected]
    unchanged = np.array([face is not None and face.unchanged for face in faces])[detected]
    originals, results = originals[detected], results[detected]
    scores = Scores(
        detected,
        people,
        similarities(originals, originals),
        similarities(results, originals),
        similarities(results, results),
    )
    same = people[:, None] == people[None]
    scores.cross[same & unchanged[:, None]] = np.inf
    scores.results[same & (unchanged[:, None] | unchanged[None])] = np.inf
    return scores


def verification_rates(scores: Scores, threshold: float) -> dict[str, Rate]:
    """Compute the TPR of every 1:1 attack; chance is the share of impostor pairs of the same kind that match."""
    people = scores.people

    def chance(table: np.ndarray, symmetric: bool = True) -> float:
        return float(np.mean(impostor_scores(table, people, symmetric=symmetric) > threshold))

    cross_chance = chance(scores.cross, symmetric=False)
    same = rate(np.diag(scores.cross) > threshold, people, cross_chance)
    if not scores.repeated:
        return {SAME: same}
    first, second = genuine_pairs(people)
    pair_people = people[first]
    return {
        ORIGINALS: rate(scores.originals[first, second] > threshold, pair_people, chance(scores.originals)),
        SAME: same,
        NAIVE: rate(_naive_pairs(scores)[0] > threshold, np.tile(pair_people, 2), cross_chance),
        LINKABILITY: rate(scores.results[first, second] > threshold, pair_people, chance(scores.results)),
    }


def identification_rates(scores: Scores, rank: int) -> dict[str, Rate]:
    """Compute the rank-k rate of every attack that searches a gallery."""
    photos = np.arange(len(scores.people))
    other_photo = np.isposinf(scores.cross) & (photos[:, None] != photos)  # matches the person, but is another photo
    hits = rank_hits(np.where(other_photo, -np.inf, scores.cross), photos, photos, rank=rank)
    same = rate(hits, scores.people, min(1.0, rank / len(photos)))
    if not scores.repeated:
        return {SAME: same}
    identify = partial(identification, people=scores.people, rank=rank)
    return {
        ORIGINALS: identify(scores.originals),
        SAME: same,
        NAIVE: identify(scores.cross),
        REVERSE: identify(scores.cross.T),
        PARROT: identify(scores.results),
    }


def _figures(rates: dict[str, Rate], column: str) -> list[Figure]:
    return [of_rate(name, value, "" if name == ORIGINALS else "lower", column) for name, value in rates.items()]


def _power(fmr: float) -> str:
    return f"1e-{round(-np.log10(fmr))}"


def _naive_pairs(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of results with other originals of the person, (K,), and the index of the result, (K,)."""
    first, second = genuine_pairs(scores.people)
    results, originals = np.concatenate([first, second]), np.concatenate([second, first])
    return scores.cross[results, originals], results


def _curves(scores: Scores, impostors: np.ndarray) -> list[Curve]:
    if not enough(len(impostors), 0.1):
        return []
    fmrs = np.logspace(np.log10(MIN_FALSE_MATCHES / len(impostors)), 0, _ROC_POINTS).tolist()
    genuine = {SAME: np.diag(scores.cross)}
    if scores.repeated:
        first, second = genuine_pairs(scores.people)
        genuine = {ORIGINALS: scores.originals[first, second], **genuine, NAIVE: _naive_pairs(scores)[0]}
        genuine[LINKABILITY] = scores.results[first, second]
    return [
        Curve(name, tuple(fmrs), tuple(true_positive_rates(pairs, impostors, fmrs).tolist()))
        for name, pairs in genuine.items()
    ]


def _summary(scores: Scores, impostors: int) -> str:
    people = len(np.unique(scores.people))
    text = (
        f"{len(scores.people):,} photos of {people:,} people; thresholds are set on {impostors:,} impostor pairs of "
        "originals. "
    )
    if not scores.repeated:
        return text + (
            "Nobody has two photos, so results are compared with their own originals only: rank-k searches all "
            f"{len(scores.people):,} originals. The other attacks need two photos of a person."
        )
    return text + (
        f"Rank-k searches a gallery of {people:,} people, with another photo of the person enrolled "
        f"(same photo: all {len(scores.people):,} originals)."
    )
