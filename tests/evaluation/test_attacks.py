"""Attacks on embeddings with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.evaluation.attacks import LINKABILITY, NAIVE, ORIGINALS, PARROT, REVERSE, SAME, reidentify
from tests.evaluation.measurements import face, network, photo, unit_vectors

PEOPLE, DIMENSIONS = 80, 64
CONSTANT = np.tile(np.eye(DIMENSIONS)[0], (2 * PEOPLE, 1))


def two_each(seed: int) -> np.ndarray:
    """(2 * PEOPLE, DIMENSIONS): two similar photos of every person."""
    centres = np.repeat(unit_vectors(PEOPLE, DIMENSIONS, seed=seed), 2, axis=0)
    vectors = centres + 0.3 * unit_vectors(2 * PEOPLE, DIMENSIONS, seed=seed + 100)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def photos(results: np.ndarray, originals: np.ndarray | None = None, *, unchanged=(), absent=()) -> list:
    """Photos, two per person, `unchanged` ones among them; `absent` have no embedding of the result."""
    originals = two_each(0) if originals is None else originals
    return [
        photo(
            f"p{k // 2}_{k % 2}",
            f"p{k // 2}",
            face(originals[k], None if k in absent else results[k], unchanged=k in unchanged),
        )
        for k in range(len(results))
    ]


def attack(measured: list):
    """TPR at FMR 1e-3 and rank-1, by attack, and all of the result."""
    identity = reidentify(measured, 0, network())
    tpr, rank1 = (
        {figure.name: figure for figure in identity.section.figures if figure.column == column}
        for column in ("TPR at FMR 1e-3", "rank-1")
    )
    return tpr, rank1, identity


def test_copies_are_recognised():
    tpr, rank1, identity = attack(photos(two_each(0)))
    assert list(rank1) == [ORIGINALS, SAME, NAIVE, REVERSE, PARROT]
    for figure in (*tpr.values(), *rank1.values()):
        assert (figure.value, figure.interval[1]) == (1, 1)
    assert [figure.trials for figure in tpr.values()] == [80, 160, 160, 80]
    assert (rank1[NAIVE].trials, rank1[NAIVE].chance) == (160, pytest.approx(1 / 80))
    assert tpr[ORIGINALS].chance <= 1e-3
    assert identity.section.summary.startswith("160 photos of 80 people; thresholds are set on 12,640 impostor pairs")
    assert (identity.headline.name, identity.headline.value) == ("re-identified (naive)", 1)
    assert identity.ceiling.value == 1
    assert len(identity.hits) == len(identity.photos) == 160


def test_independent_results_are_at_chance():
    tpr, rank1, identity = attack(photos(unit_vectors(2 * PEOPLE, DIMENSIONS, seed=1)))
    assert tpr[ORIGINALS].value == rank1[ORIGINALS].value == 1
    for name in (SAME, NAIVE, LINKABILITY):
        assert tpr[name].value <= 0.02
        assert tpr[name].chance < 5e-3
    for name in (NAIVE, REVERSE, PARROT):
        assert rank1[name].value < 0.06
        assert rank1[name].interval[0] <= rank1[name].chance
    assert identity.headline.value <= 0.02


def test_consistent_results_succumb_to_parrot_and_linkability():
    tpr, rank1, _ = attack(photos(two_each(7)))
    assert max(rank1[NAIVE].value, rank1[REVERSE].value) < 0.06
    assert rank1[PARROT].value == tpr[LINKABILITY].value == 1
    assert tpr[LINKABILITY].chance < 5e-3


def test_identical_results_are_at_chance():
    tpr, rank1, _ = attack(photos(CONSTANT))
    assert tpr[LINKABILITY].value == tpr[LINKABILITY].chance == 1
    assert rank1[PARROT].value == pytest.approx(1 / PEOPLE)


def test_missing_faces_count_as_not_matched():
    measured = photos(two_each(0), absent=range(10, 14))
    measured[0] = photo("p0_0", "p0", None, faces=0)
    tpr, rank1, identity = attack(measured)
    assert identity.section.summary.startswith("159 photos of 80 people")
    assert identity.margins[0] == -np.inf
    assert tpr[SAME].value == pytest.approx(155 / 159)
    assert tpr[NAIVE].value == rank1[NAIVE].value == rank1[REVERSE].value == pytest.approx(154 / 158)
    assert tpr[LINKABILITY].value == pytest.approx(77 / 79)


def test_unchanged_faces_count_as_recognised():
    tpr, rank1, identity = attack(photos(unit_vectors(2 * PEOPLE, DIMENSIONS, seed=1), unchanged=range(16)))
    for name in (NAIVE, SAME, LINKABILITY):
        assert 0.1 <= tpr[name].value <= 0.13
    for name in (SAME, NAIVE, REVERSE, PARROT):
        assert 0.1 <= rank1[name].value <= 0.15
    assert tpr[ORIGINALS].value == 1
    assert tpr[NAIVE].chance < 5e-3
    assert identity.margins[0] == np.inf
    assert identity.margins[20] < 0


def test_curves_and_ranks():
    identity = reidentify(photos(two_each(7)), 0, network())
    assert [curve.name for curve in identity.curves] == [ORIGINALS, SAME, NAIVE, LINKABILITY]
    assert identity.curves[0].tprs[0] == 1
    rank5 = {figure.name: figure for figure in identity.section.figures if figure.column == "rank-5"}
    assert rank5[NAIVE].chance == pytest.approx(5 / PEOPLE)


def test_too_few_impostor_pairs():
    vectors = two_each(0)
    identity = reidentify(photos(vectors), 0, network())
    strict = next(figure for figure in identity.section.figures if figure.column == "TPR at FMR 1e-4")
    assert (strict.value, strict.note) == (None, "needs 100,000 impostor pairs, there are 12,640")
    few = photos(vectors[:12:2].repeat(2, axis=0))
    own = reidentify(few, 0, network(0.5))
    assert own.headline.note == "planted, TPR at FMR 1e-3 (its own threshold)"
    assert own.curves == ()
    assert reidentify(few, 0, network(float("nan"))) is None
    with pytest.raises(ValueError, match="at least two people"):
        reidentify(few[:2], 0, network())


def test_single_photos_are_compared_with_themselves():
    vectors = unit_vectors(60, 32)
    measured = [photo(f"q{k}", f"q{k}", face(vector, vector)) for k, vector in enumerate(vectors)]
    identity = reidentify(measured, 0, network())
    assert (identity.headline.name, identity.headline.value) == ("re-identified (naive, same photo)", 1)
    assert identity.ceiling is None
    assert {figure.name for figure in identity.section.figures} == {SAME}
    assert "Nobody has two photos" in identity.section.summary
