"""Re-identification from looks with planted embeddings."""

import numpy as np
import pytest
from looks import face, judges, photo

from deid_diffusion.evaluation.identity_figures import FMRS, reidentify

PEOPLE, DIMENSIONS = 40, 32


class Named:
    def __init__(self, threshold: float = 0.9) -> None:
        self.name, self.threshold = "planted", threshold


def people(seed: int, count: int = PEOPLE) -> np.ndarray:
    centres = np.random.default_rng(seed).normal(size=(count, DIMENSIONS))
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def looks(results: np.ndarray, originals: np.ndarray, *, left: frozenset[int] = frozenset()):
    return [
        photo(f"p{k // 2}_{k % 2}", f"p{k // 2}", face(originals[k], results[k], left=k in left))
        for k in range(len(originals))
    ]


def test_copies_are_recognised_and_strangers_are_not():
    two_each = np.repeat(people(0), 2, axis=0)
    same = reidentify(looks(two_each, two_each), 0, Named())
    assert same.headline.name == "re-identified (naive)"
    assert (same.headline.value, same.ceiling.value) == (1, 1)
    others = reidentify(looks(np.repeat(people(9), 2, axis=0), two_each), 0, Named())
    at = {(one.name, one.column): one for one in others.section.figures}
    assert at["naive", "TPR at FMR 1e-2"].value < 0.05
    assert at["originals", "rank-1"].value == 1
    assert at["naive", "rank-5"].chance == pytest.approx(5 / PEOPLE)
    assert at["linkability", "TPR at FMR 1e-2"].value == 1
    assert at["parrot", "rank-1"].value == 1
    assert [curve.name for curve in others.curves] == ["originals", "naive, same photo", "naive", "linkability"]
    assert others.curves[0].tprs[0] == 1
    assert len(others.hits) == len(others.photos) == 80


def test_too_few_pairs_are_said():
    two_each = np.repeat(people(0), 2, axis=0)
    found = reidentify(looks(two_each, two_each), 0, Named())
    columns = {one.column: one for one in found.section.figures if one.name == "naive"}
    assert columns["TPR at FMR 1e-2"].value == 1
    assert columns["TPR at FMR 1e-4"].value is None
    assert columns["TPR at FMR 1e-4"].note == "takes 100,000 pairs of strangers, there are 3,120"
    assert len([column for column in columns if column.startswith("TPR")]) == len(FMRS)


def test_few_photos_take_the_recognisers_own_threshold():
    few = people(0, 6)
    found = reidentify(looks(few, few), 0, Named())
    at = {(one.name, one.column): one for one in found.section.figures}
    assert at["naive", "TPR at FMR 1e-3 (its own threshold)"].value == 0
    assert found.headline.note == "planted, TPR at FMR 1e-3 (its own threshold)"
    assert reidentify(looks(few, few), 0, Named(float("nan"))) is None


def test_one_photo_each_is_compared_with_itself():
    once = people(0, 60)
    alone = [photo(f"q{k}", f"q{k}", face(once[k], once[k])) for k in range(60)]
    found = reidentify(alone, 0, Named())
    assert found.headline.name == "re-identified (naive, same photo)"
    assert (found.headline.value, found.ceiling) == (1, None)
    assert {one.name for one in found.section.figures} == {"naive, same photo"}
    assert "Nobody has two photos" in found.section.summary


def test_a_face_that_was_left_is_recognised_whatever_the_recogniser_says():
    two_each, others = np.repeat(people(0), 2, axis=0), np.repeat(people(9), 2, axis=0)
    found = reidentify(looks(others, two_each, left=frozenset(range(0, 16))), 0, Named())
    assert found.headline.value == pytest.approx(0.2, abs=0.03)
    at = {(one.name, one.column): one.value for one in found.section.figures}
    for name in ("naive, same photo", "naive", "reverse", "parrot"):
        assert at[name, "rank-1"] >= 0.2
    assert found.likeness[0] == np.inf
    assert found.likeness[20] < 0


def test_photos_without_a_face_are_left_out():
    two_each = np.repeat(people(0), 2, axis=0)
    seen = [*looks(two_each, two_each), photo("none_0", "none", None, faces=0)]
    found = reidentify(seen, 0, Named())
    assert found.section.summary.startswith("80 photos of 40 people")
    assert found.likeness[-1] == -np.inf
    assert judges(Named()).recognisers[0].name == "planted"
