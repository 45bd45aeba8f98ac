"""Re-identification by one recogniser: `attacks` at several false match rates, with ranks and an ROC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..identity.recognition import FALSE_MATCH_RATE, Recogniser
from .attacks import (
    LINKABILITY,
    NAIVE,
    ORIGINALS,
    PARROT,
    REVERSE,
    SAME,
    Attack,
    Collection,
    Scores,
    attack_collection,
    score_collection,
)
from .figures import SHARE, Better, Figure, Section, missing, of_rate
from .look import PhotoLook
from .same_place import stack
from .verification import (
    FEWEST,
    enough,
    genuine_pairs,
    identification,
    impostor_scores,
    rank_hits,
    rate,
    threshold_at,
    true_positive_rates,
)

FMRS = (1e-2, 1e-3, 1e-4)
"""False match rates of the verification figures."""

RANKS = (1, 5)
"""Of the identification figures."""

MEANING = {
    ORIGINALS: "original against another original: what this recogniser can do",
    SAME: "result against the very photo it was made from",
    NAIVE: "result against another original of the person",
    LINKABILITY: "result against another result of the person",
    REVERSE: "original searched among results of other photos",
    PARROT: "result searched among results of other photos",
}
"""What each attack compares with what, for a reader who knows none of the names."""

_GRID = 60  # points of an ROC


@dataclass(frozen=True)
class Curve:
    """An ROC: true positive rates at thresholds that keep false match rates among originals."""

    name: str
    fmrs: tuple[float, ...]
    tprs: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Identity:
    """What one recogniser finds.

    Attributes:
        recogniser: its name.
        section: all figures.
        curves: for the ROC; empty where originals are too few.
        headline: the share of comparisons that re-identify somebody: `NAIVE` where people have two photos, else `SAME`.
        ceiling: the same figure for originals that nothing was done to; None without a second photo of anybody.
        hits: (K,) success of each comparison of the headline, 0 or 1.
        photos: (K,) index of the look whose result was compared.
        likeness: (N,) cosine of each look's result with its own original, over the threshold if positive; -inf where
            there is none, +inf for a face that was left.
    """

    recogniser: str
    section: Section
    curves: tuple[Curve, ...]
    headline: Figure
    ceiling: Figure | None
    hits: np.ndarray
    photos: np.ndarray
    likeness: np.ndarray


def reidentify(looks: Sequence[PhotoLook], which: int, recogniser: Recogniser) -> Identity | None:
    """All figures of one recogniser, or None where it has no threshold: too few photos, and none of its own.

    Args:
        looks: N photos; at least two people with a face in the original.
        which: index of the recogniser's embeddings in the looks.
        recogniser: whose they are.

    Raises:
        ValueError: faces of fewer than two people.
    """
    rows = [(None, None) if one.face is None else one.face.embeddings[which] for one in looks]
    left = np.array([one.face is not None and one.face.left for one in looks])
    collection = Collection([one.pair.person for one in looks], *stack(rows), left=left)
    scores = score_collection(collection)
    strangers = impostor_scores(scores.own, scores.people)
    possible = [fmr for fmr in FMRS if enough(len(strangers), fmr)]
    best = min((fmr for fmr in possible if fmr >= FALSE_MATCH_RATE), default=None)
    if best is None and not np.isfinite(recogniser.threshold):
        return None
    threshold = recogniser.threshold if best is None else threshold_at(strangers, best)
    figures: list[Figure] = []
    for fmr in FMRS:
        column = f"TPR at FMR {_power(fmr)}"
        given = fmr == FALSE_MATCH_RATE and best is None
        if given or fmr in possible:
            found = attack_collection(collection, threshold=recogniser.threshold if given else None, fmr=fmr).attacks
            column += " (its own threshold)" if given else ""
            figures += [of_rate(one.name, one.tpr, _better(one), column) for one in found if one.tpr is not None]
        else:
            why = f"takes {FEWEST / fmr:,.0f} pairs of strangers, there are {len(strangers):,}"
            names = [SAME] if _alone(scores) else [ORIGINALS, SAME, NAIVE, LINKABILITY]
            figures += [missing(name, SHARE, why, column) for name in names]
    figures += _ranks(scores)
    name = SAME if _alone(scores) else NAIVE
    at = next(one for one in figures if one.value is not None)  # of the loosest rate that could be measured
    column = at.column if best is None else f"TPR at FMR {_power(best)}"
    wanted = {one.name: one for one in figures if one.column == column}
    hits, photos = _hits(scores, threshold)
    return Identity(
        recogniser=recogniser.name,
        section=Section(f"Re-identification by {recogniser.name}", _summary(scores, len(strangers)), tuple(figures)),
        curves=tuple(_curves(scores, strangers)),
        headline=replace(wanted[name], name=f"re-identified ({name})", note=f"{recogniser.name}, {column}", column=""),
        ceiling=wanted.get(ORIGINALS),
        hits=hits,
        photos=photos,
        likeness=_likeness(scores, threshold),
    )


def _power(fmr: float) -> str:
    return f"1e-{round(-np.log10(fmr))}"


def _better(attack: Attack) -> Better:
    return "" if attack.name == ORIGINALS else "lower"


def _alone(scores: Scores) -> bool:
    """Whether nobody has two photos."""
    return len(np.unique(scores.people)) == len(scores.people)


def _ranks(scores: Scores) -> list[Figure]:
    """Rank-1 and rank-5 of every attack that identifies."""
    figures = []
    count = len(scores.people)
    photos = np.arange(count)
    known = np.isposinf(scores.cross) & (photos[:, None] != photos)  # known by another photo: here its own is sought
    to_own = np.where(known, -np.inf, scores.cross)
    for rank in RANKS:
        column = f"rank-{rank}"
        hits = rank_hits(to_own, photos, photos, rank=rank)
        same = rate(hits, scores.people, min(1.0, rank / count))
        trials = {SAME: same}
        if not _alone(scores):
            find = partial(identification, people=scores.people, rank=rank)
            trials = {
                ORIGINALS: find(scores.own),
                SAME: same,
                NAIVE: find(scores.cross),
                REVERSE: find(scores.cross.T),
                PARROT: find(scores.among),
            }
        figures += [of_rate(name, one, "" if name == ORIGINALS else "lower", column) for name, one in trials.items()]
    return figures


def _curves(scores: Scores, strangers: np.ndarray) -> list[Curve]:
    if not enough(len(strangers), 0.1):
        return []
    fmrs = np.logspace(np.log10(FEWEST / len(strangers)), 0, _GRID)
    first, second = genuine_pairs(scores.people)
    genuine = {SAME: np.diag(scores.cross)}
    if len(first):
        naive = np.concatenate([scores.cross[first, second], scores.cross[second, first]])
        genuine = {ORIGINALS: scores.own[first, second], **genuine, NAIVE: naive}
        genuine[LINKABILITY] = scores.among[first, second]
    return [
        Curve(name, tuple(fmrs.tolist()), tuple(true_positive_rates(pairs, strangers, fmrs.tolist()).tolist()))
        for name, pairs in genuine.items()
    ]


def _hits(scores: Scores, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Success of each comparison of the headline, and the index among all looks of the result."""
    first, second = genuine_pairs(scores.people)
    if not len(first):
        first = second = np.arange(len(scores.people))
        pairs = scores.cross[first, second]
        results = first
    else:
        pairs = np.concatenate([scores.cross[first, second], scores.cross[second, first]])
        results = np.concatenate([first, second])
    return (pairs > threshold).astype(float), np.flatnonzero(scores.found)[results]


def _likeness(scores: Scores, threshold: float) -> np.ndarray:
    likeness = np.full(len(scores.found), -np.inf)
    likeness[scores.found] = np.diag(scores.cross) - threshold
    return likeness


def _summary(scores: Scores, strangers: int) -> str:
    people = len(np.unique(scores.people))
    text = (
        f"{len(scores.people):,} photos of {people:,} people; thresholds are fixed on {strangers:,} pairs of originals "
        "of different people. "
    )
    if _alone(scores):
        return text + (
            f"Nobody has two photos, so a result can only be compared with its own original: rank-k searches all "
            f"{len(scores.people):,} originals. Attacks with another photo of the person take two photos each."
        )
    return text + (
        f"Rank-k searches a gallery of {people:,} people, with another photo of the person enrolled "
        f"(same photo: all {len(scores.people):,} originals)."
    )
