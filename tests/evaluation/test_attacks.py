import numpy as np
import pytest

from deid_diffusion.evaluation.attacks import LINKABILITY, NAIVE, ORIGINALS, PARROT, REVERSE, SAME, reidentify
from tests.evaluation.measurements import face, network, photo, unit_vectors

PEOPLE, DIMENSIONS = 80, 64


def two_each(seed: int) -> np.ndarray:
    """Return the (2 * PEOPLE, DIMENSIONS) embeddings of two similar photos of every person."""
    centres = np.repeat(unit_vectors(PEOPLE, DIMENSIONS, seed=seed), 2, axis=0)
    vectors = centres + 0.3 * unit_vectors(2 * PEOPLE, DIMENSIONS, seed=seed + 100)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


ORIGINAL, CONSISTENT, INDEPENDENT = two_each(0), two_each(7), unit_vectors(2 * PEOPLE, DIMENSIONS, seed=1)


def photos(results: np.ndarray, *, unchanged=(), absent=()) -> list:
    """Return photos, two per person, `unchanged` ones among them; `absent` ones have no embedding of the result."""
    faces = [
        face(ORIGINAL[k], None if k in absent else vector, unchanged=k in unchanged) for k, vector in enumerate(results)
    ]
    return [photo(f"p{k // 2}_{k % 2}", f"p{k // 2}", measurement) for k, measurement in enumerate(faces)]


def column(identity, name: str) -> dict:
    return {figure.name: figure for figure in identity.section.figures if figure.column == name}


def attack(photos: list) -> tuple:
    """Return TPR at FMR 1e-3 and rank-1, by attack, and the complete result."""
    identity = reidentify(photos, 0, network())
    return column(identity, "TPR at FMR 1e-3"), column(identity, "rank-1"), identity


def test_copies():
    tpr, rank1, identity = attack(photos(ORIGINAL))
    assert list(rank1) == [ORIGINALS, SAME, NAIVE, REVERSE, PARROT]
    assert {(figure.value, figure.interval[1]) for figure in (*tpr.values(), *rank1.values())} == {(1, 1)}
    assert [figure.trials for figure in tpr.values()] == [80, 160, 160, 80]
    assert (rank1[NAIVE].trials, rank1[NAIVE].chance) == (160, pytest.approx(1 / 80))
    assert tpr[ORIGINALS].chance <= 1e-3
    assert identity.section.summary.startswith("160 photos of 80 people; thresholds are set on 12,640 impostor pairs")
    assert (identity.headline.name, identity.headline.value) == ("re-identified (naive)", 1)
    assert identity.ceiling.value == 1
    assert len(identity.hits) == len(identity.photos) == 160
    strict = column(identity, "TPR at FMR 1e-4")[NAIVE]
    assert (strict.value, strict.note) == (None, "needs 100,000 impostor pairs, there are 12,640")


def test_independent_results():
    tpr, rank1, identity = attack(photos(INDEPENDENT))
    assert tpr[ORIGINALS].value == rank1[ORIGINALS].value == 1
    assert max(tpr[name].value for name in (SAME, NAIVE, LINKABILITY)) <= 0.02
    assert max(tpr[name].chance for name in (SAME, NAIVE, LINKABILITY)) < 5e-3
    for name in (NAIVE, REVERSE, PARROT):
        assert rank1[name].value < 0.06
        assert rank1[name].interval[0] <= rank1[name].chance
    assert identity.headline.value <= 0.02


def test_consistent_results():
    tpr, rank1, identity = attack(photos(CONSISTENT))
    assert max(rank1[NAIVE].value, rank1[REVERSE].value) < 0.06
    assert rank1[PARROT].value == tpr[LINKABILITY].value == 1
    assert tpr[LINKABILITY].chance < 5e-3
    assert [curve.name for curve in identity.curves] == [ORIGINALS, SAME, NAIVE, LINKABILITY]
    assert identity.curves[0].tprs[0] == 1
    assert column(identity, "rank-5")[NAIVE].chance == pytest.approx(5 / PEOPLE)


def test_identical_results():
    tpr, rank1, _ = attack(photos(np.tile(np.eye(DIMENSIONS)[0], (2 * PEOPLE, 1))))
    assert tpr[LINKABILITY].value == tpr[LINKABILITY].chance == 1
    assert rank1[PARROT].value == pytest.approx(1 / PEOPLE)


def test_missing_faces():
    measurements = photos(ORIGINAL, absent=range(10, 14))
    measurements[0] = photo("p0_0", "p0", None, faces=0)
    tpr, rank1, identity = attack(measurements)
    assert identity.section.summary.startswith("159 photos of 80 people")
    assert identity.margins[0] == -np.inf
    assert tpr[SAME].value == pytest.approx(155 / 159)
    assert tpr[NAIVE].value == rank1[NAIVE].value == rank1[REVERSE].value == pytest.approx(154 / 158)
    assert tpr[LINKABILITY].value == pytest.approx(77 / 79)


def test_unchanged_faces():
    tpr, rank1, identity = attack(photos(INDEPENDENT, unchanged=range(16)))
    assert all(0.1 <= tpr[name].value <= 0.13 for name in (NAIVE, SAME, LINKABILITY))
    assert all(0.1 <= rank1[name].value <= 0.15 for name in (SAME, NAIVE, REVERSE, PARROT))
    assert tpr[ORIGINALS].value == 1
    assert tpr[NAIVE].chance < 5e-3
    assert identity.margins[0] == np.inf
    assert identity.margins[20] < 0


def test_own_threshold():
    few = photos(ORIGINAL[:12:2].repeat(2, axis=0))
    own = reidentify(few, 0, network(0.5))
    assert own.headline.note == "planted, TPR at FMR 1e-3 (its own threshold)"
    assert own.curves == ()
    assert reidentify(few, 0, network(float("nan"))) is None
    with pytest.raises(ValueError, match="at least two people"):
        reidentify(few[:2], 0, network())


def test_single_photo_per_person():
    identity = reidentify([photo(f"q{k}", f"q{k}", face(row, row)) for k, row in enumerate(INDEPENDENT)], 0, network())
    assert (identity.headline.name, identity.headline.value) == ("re-identified (naive, same photo)", 1)
    assert identity.ceiling is None
    assert {figure.name for figure in identity.section.figures} == {SAME}
    assert "Nobody has two photos" in identity.section.summary
