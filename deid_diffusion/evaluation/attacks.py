"""Attacks on a collection of de-identified photos: can a face recogniser still tell who is in them?

The attacker knows the collection was de-identified and has other photos of the people. What is compared with what:

- ``originals``: original with original. No attack but the ceiling: what the recogniser does on these people's photos.
- ``naive, same photo``: each result with its own original.
- ``naive``: a result with another original photo of the person, one to one (TPR) and as a probe among all (rank-1).
- ``reverse``: an original photo is the probe, the gallery holds results of the other photos.
- ``parrot``: a result is the probe, the gallery holds results of the other photos: the attacker de-identified his
  gallery with the same tool and settings (Newton, Sweeney and Malin, "Preserving Privacy by De-identifying Face
  Images", 2005). Tools that keep the face and blur it fail here.
- ``linkability``: two results of one person, one to one.

Every threshold is fixed on pairs of *originals* of different people; chance is measured beside each figure as the share
of strangers' pairs of the same make that match, so faces that all look alike do not pass for linked people. Results
made with a key are pseudonymised: they are linkable, and fall to the parrot, on purpose.

Faces that the detector does not see in the originals are in none of these figures. A result in which no face is found
counts as not matched, and is counted: a tool that destroys faces, such as a strong blur, passes for that reason alone.
An attacker who knows where the face was still reads it (``known_place`` of `embed_pairs`). An independent recogniser,
one that did not judge the results when they were made, is needed for any claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..faces.boxes import FaceDetector
from ..faces.landmarks import Landmarker
from ..identity.recognition import FALSE_MATCH_RATE, Recogniser
from .measure import PairMeasurement
from .pairing import embed, face_points, largest, nearest, stack
from .statistics import (
    FEWEST,
    SHARE,
    Better,
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

FMR = 1e-3
"""False match rate of the verification figures."""

ORIGINALS, SAME, NAIVE, REVERSE, PARROT, LINKABILITY = (
    "originals", "naive, same photo", "naive", "reverse", "parrot", "linkability",
)  # fmt: skip
"""Names of the attacks that this module describes, in its order."""


@dataclass(frozen=True, eq=False)
class Collection:
    """Embeddings of N photos and of their results.

    Attributes:
        people: N names: whose photo it is.
        originals: (N, D) unit rows; NaN rows where no face was found.
        results: (N, D) likewise, of the same photos.
        seen: (N,) bool, where the result shows a face that can be found; None for all rows of results but NaN.
        left: (N,) bool, where the result still shows the original face. Such a photo counts as recognised in every
            attack on results, whatever the recogniser says of it. None for nowhere.

    Raises:
        ValueError: the shapes do not fit together.
    """

    people: Sequence[str]
    originals: np.ndarray
    results: np.ndarray
    seen: np.ndarray | None = None
    left: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = self.originals.shape, self.results.shape
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or len(self.people) != shapes[0][0]:
            raise ValueError(
                f"originals and results: expected two arrays ({len(self.people)}, D), one row a name, got {shapes}"
            )


@dataclass(frozen=True)
class Attack:
    """What one attack achieves.

    Attributes:
        name: as in this module's description.
        tpr: share of the genuine pairs over the threshold; its chance is that of strangers' pairs of the same make.
            None where the attack is no one-to-one comparison.
        rank1: share of the probes whose most similar gallery entry is the same person. None likewise.
    """

    name: str
    tpr: Rate | None = None
    rank1: Rate | None = None


@dataclass(frozen=True)
class AttackReport:
    """All attacks on one collection.

    Attributes:
        attacks: in the order of this module's description; without anybody who has two photos, the second alone.
        fmr: false match rate that the threshold promises among originals.
        threshold: cosine over which two faces count as one person.
        threshold_given: it was fixed on other photos; else on this collection's originals.
        impostor_pairs: pairs of originals of different people.
        photos: with a face in the original. All other counts are of these.
        people: in these photos.
        people_with_two: of whom there are two photos or more.
        originals_not_found: further photos, left out because no face was found in the original.
        results_not_found: photos with no face in the result, which count as not matched unless its place is known.
    """

    attacks: tuple[Attack, ...]
    fmr: float
    threshold: float
    threshold_given: bool
    impostor_pairs: int
    photos: int
    people: int
    people_with_two: int
    originals_not_found: int
    results_not_found: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Every similarity that attacks rest on, of the F photos with a face in the original.

    Attributes:
        found: (N,) bool: which photos of the collection these are.
        people: (F,) names.
        own: (F, F) of originals with originals.
        cross: (F, F) of results (rows) with originals. +inf where the result still shows the person, as for `among`.
        among: (F, F) of results with results.
    """

    found: np.ndarray
    people: np.ndarray
    own: np.ndarray
    cross: np.ndarray
    among: np.ndarray


def score_collection(collection: Collection) -> Scores:
    """Compare everything with everything."""
    found = np.isfinite(collection.originals).all(axis=1)
    people = np.asarray(collection.people)[found]
    originals, results = collection.originals[found], collection.results[found]
    own, cross = similarities(originals, originals), similarities(results, originals)
    among = similarities(results, results)
    if collection.left is not None:
        left, same = collection.left[found], people[:, None] == people[None]
        cross[same & left[:, None]] = np.inf
        among[same & (left[:, None] | left[None])] = np.inf
    return Scores(found, people, own, cross, among)


def attack_collection(
    collection: Collection, *, threshold: float | None = None, fmr: float = FMR, parrot: bool = True, seed: int = 0
) -> AttackReport:
    """Carry out every attack that the collection allows. Memory: some 40 bytes for each pair of photos.

    Args:
        collection: the photos.
        threshold: cosine for `fmr` from other originals and the same recogniser, for a collection with too few pairs
            for one of its own.
        fmr: false match rate.
        parrot: include the parrot attack.
        seed: of the intervals.

    Raises:
        ValueError: faces of fewer than two people, or no threshold and too few pairs.
    """
    scores = score_collection(collection)
    found, people, own, cross, among = scores.found, scores.people, scores.own, scores.cross, scores.among
    names, photos = np.unique(people, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"people: expected originals with a face of at least two people, got {len(names)}")
    results = collection.results[found]
    strangers = impostor_scores(own, people)
    seen = np.isfinite(results).all(axis=1) if collection.seen is None else collection.seen[found]
    cut = threshold_at(strangers, fmr) if threshold is None else threshold
    own_chance, cross_chance, among_chance = (
        float(np.mean(impostor_scores(table, people, symmetric=table is not cross) > cut))
        for table in (own, cross, among)
    )
    rank1 = partial(identification, people=people, seed=seed)

    same = Attack(SAME, rate(np.diag(cross) > cut, people, cross_chance, seed=seed))
    attacks = [same]
    first, second = genuine_pairs(people)
    if len(first):
        whose, twice = people[first], np.tile(people[first], 2)
        others = np.concatenate([cross[first, second], cross[second, first]])
        attacks = [
            Attack(ORIGINALS, rate(own[first, second] > cut, whose, own_chance, seed=seed), rank1(own)),
            same,
            Attack(NAIVE, rate(others > cut, twice, cross_chance, seed=seed), rank1(cross)),
            Attack(REVERSE, rank1=rank1(cross.T)),
            *([Attack(PARROT, rank1=rank1(among))] if parrot else []),
            Attack(LINKABILITY, rate(among[first, second] > cut, whose, among_chance, seed=seed)),
        ]
    return AttackReport(
        attacks=tuple(attacks),
        fmr=fmr,
        threshold=cut,
        threshold_given=threshold is not None,
        impostor_pairs=len(strangers),
        photos=len(people),
        people=len(names),
        people_with_two=int((photos > 1).sum()),
        originals_not_found=int((~found).sum()),
        results_not_found=int((~seen).sum()),
    )


def embed_pairs(
    people: Sequence[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    detector: FaceDetector,
    recogniser: Recogniser,
    landmarker: Landmarker | None = None,
    *,
    known_place: bool = False,
) -> Collection:
    """Embeddings of the largest face of each original, and of the result's face in its place.

    Args:
        people: N names: whose photo it is.
        pairs: N originals and their results, (H, W, 3) uint8 RGB each; a result may have another size.
        detector: finds faces, with five points unless the landmarker supplies them.
        recogniser: what the attacker uses.
        landmarker: points come from its mesh, where it finds one; None to take the detector's.
        known_place: where no face is found in a result, look at the original's points.
    """
    rows: list[tuple[np.ndarray | None, np.ndarray | None]] = []
    seen = []
    for photo, result in pairs:
        scale = np.array(result.shape[1::-1]) / photo.shape[1::-1]
        before, there = largest(detector(photo)), None
        points = None if before is None else face_points(photo, before, landmarker)
        if before is not None and points is not None:
            after = nearest(detector(result), np.array(before.box) * np.tile(scale, 2))
            there = None if after is None else face_points(result, after, landmarker)
        seen.append(there is not None)
        if there is None and points is not None and known_place:
            there = points * scale
        rows.append((embed(photo, points, recogniser), embed(result, there, recogniser)))
    return Collection(people, *stack(rows), np.array(seen, bool))


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


def reidentify(looks: Sequence[PairMeasurement], which: int, recogniser: Recogniser) -> Identity | None:
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
