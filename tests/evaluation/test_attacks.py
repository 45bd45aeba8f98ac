"""Attacks on collections of which it is known what can be found."""

from __future__ import annotations

import numpy as np
import pytest

from deid_diffusion.evaluation.attacks import (
    FMRS,
    Attack,
    AttackReport,
    Collection,
    attack_collection,
    embed_pairs,
    nearest,
    reidentify,
)
from deid_diffusion.faces.boxes import Detection
from tests.evaluation.looks import face, judges, photo

PEOPLE, DIMENSIONS = 80, 64
NAMES = [f"person{k:03d}" for k in range(PEOPLE) for _ in range(2)]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def two_each(seed: int) -> np.ndarray:
    """(2 * PEOPLE, DIMENSIONS): two photos of each person, alike."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.normal(size=(PEOPLE, DIMENSIONS)), 2, axis=0)
    return unit(centres + 0.3 * generator.normal(size=centres.shape))


def strangers(seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(2 * PEOPLE, DIMENSIONS)))


def attacks(results: np.ndarray, **options) -> tuple[AttackReport, dict[str, Attack]]:
    report = attack_collection(Collection(NAMES, two_each(0), results), **options)
    return report, {one.name: one for one in report.attacks}


def test_copies_are_known_again():
    report, found = attacks(two_each(0))
    assert list(found) == ["originals", "naive, same photo", "naive", "reverse", "parrot", "linkability"]
    for one in found.values():
        for figure in (one.tpr, one.rank1):
            assert figure is None or (figure.value == 1 and figure.interval[1] == 1)
    assert found["reverse"].tpr is found["parrot"].tpr is found["linkability"].rank1 is None
    assert (report.photos, report.people, report.people_with_two) == (160, 80, 80)
    assert report.impostor_pairs == 160 * 158 // 2
    assert not report.threshold_given
    assert [found[name].tpr.trials for name in ("originals", "naive, same photo", "naive")] == [80, 160, 160]
    assert found["naive"].rank1.trials == 160
    assert found["naive"].rank1.chance == pytest.approx(1 / 80)
    assert found["originals"].tpr.chance <= report.fmr


def test_strangers_are_at_chance():
    _, found = attacks(strangers(1))
    assert found["originals"].tpr.value == found["originals"].rank1.value == 1
    for name in ("naive, same photo", "naive", "linkability"):
        assert found[name].tpr.value <= 0.02
        assert found[name].tpr.chance < 5e-3
    for name in ("naive", "reverse", "parrot"):
        assert found[name].rank1.value < 0.06
        assert found[name].rank1.interval[0] <= found[name].rank1.chance


def test_results_that_match_among_themselves_fall_to_the_parrot():
    _, found = attacks(two_each(7))
    assert found["naive"].rank1.value < 0.06
    assert found["reverse"].rank1.value < 0.06
    assert found["parrot"].rank1.value == 1
    assert found["linkability"].tpr.value == 1
    assert found["linkability"].tpr.chance < 5e-3
    assert "parrot" not in attacks(two_each(7), parrot=False)[1]


def test_results_that_all_look_alike_are_linked_by_nothing():
    _, found = attacks(np.tile(np.eye(DIMENSIONS)[0], (2 * PEOPLE, 1)))
    assert found["linkability"].tpr.value == found["linkability"].tpr.chance == 1
    assert found["parrot"].rank1.value == pytest.approx(1 / PEOPLE)


def test_faces_that_were_not_found_are_counted():
    originals, results = two_each(0), two_each(0)
    originals[0] = results[10:14] = np.nan
    report = attack_collection(Collection(NAMES, originals, results))
    found = {one.name: one for one in report.attacks}
    assert (report.photos, report.originals_not_found, report.results_not_found) == (159, 1, 4)
    assert (report.people, report.people_with_two) == (80, 79)
    assert found["naive, same photo"].tpr.value == pytest.approx(155 / 159)
    assert found["naive"].tpr.value == found["naive"].rank1.value == pytest.approx(154 / 158)
    assert found["reverse"].rank1.value == pytest.approx(154 / 158)
    assert found["linkability"].tpr.value == pytest.approx(77 / 79)


def test_one_photo_each_leaves_the_comparison_with_its_original():
    originals = two_each(0)[::2]
    report = attack_collection(Collection(NAMES[::2], originals, originals), threshold=0.9)
    assert [one.name for one in report.attacks] == ["naive, same photo"]
    assert report.attacks[0].tpr.value == 1
    assert report.threshold_given
    assert report.threshold == 0.9
    assert report.people_with_two == 0


def test_what_cannot_be_attacked_is_refused():
    few = two_each(0)[:8]
    with pytest.raises(ValueError, match="takes 10,000 impostor pairs, got 24"):
        attack_collection(Collection(NAMES[:8], few, few))
    with pytest.raises(ValueError, match="at least two people, got 1"):
        attack_collection(Collection(NAMES[:2], few[:2], few[:2]), threshold=0.5)
    with pytest.raises(ValueError, match=r"expected two arrays \(2, D\)"):
        Collection(NAMES[:2], few, few)


POINTS = np.array([(4, 4), (8, 4), (6, 6), (4, 8), (8, 8)], np.float32)


class MeanColour:
    """A recogniser that knows people by the colour around the nose."""

    name, threshold = "colour", 0.99

    def __call__(self, photo, points):
        x, y = points[2].round().astype(int)
        return photo[y, x] / np.linalg.norm(photo[y, x].astype(float))


def squares(image: np.ndarray) -> list[Detection]:
    """A face of 12 x 12 pixels wherever a tile of 12 pixels is coloured; another size for the first tile."""
    faces = []
    for y in range(0, image.shape[0], 12):
        for x in range(0, image.shape[1], 12):
            if image[y + 6, x + 6].any():
                size = 11 if (x, y) == (0, 0) else 12
                faces.append(Detection((x, y, x + size, y + size), 0.9, "tiles", POINTS + np.float32((x, y))))
    return faces


def picture(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.repeat(np.repeat(np.array([colours], np.uint8), 12, 0), 12, 1)


def test_the_largest_face_and_the_one_in_its_place():
    black, red, green, blue = (0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)
    pairs = [
        (picture(red, green), picture(red, blue)),
        (picture(black, black), picture(red, red)),
        (picture(black, red), picture(green, black)),
    ]
    found = embed_pairs(["a", "b", "c"], pairs, squares, MeanColour())
    assert (found.people, found.seen.tolist()) == (["a", "b", "c"], [True, False, False])
    np.testing.assert_array_equal(found.originals, [(0, 1, 0), (np.nan,) * 3, (1, 0, 0)])
    np.testing.assert_array_equal(found.results, [(0, 0, 1), (np.nan,) * 3, (np.nan,) * 3])
    nothing = embed_pairs(["b"], pairs[1:2], squares, MeanColour())
    assert nothing.originals.shape == nothing.results.shape == (1, 1)
    assert np.isnan([nothing.originals, nothing.results]).all()


def test_somebody_who_knows_the_place_looks_there():
    """The detector sees no face in the result, but the colours are still there."""

    def upper(image):
        return squares(image) if image.shape[0] == 12 else []

    small = picture((0, 0, 0), (9, 0, 0))
    big = np.repeat(np.repeat(picture((0, 0, 0), (0, 9, 0)), 2, 0), 2, 1)
    assert np.isnan(embed_pairs(["a"], [(small, big)], upper, MeanColour()).results).all()
    found = embed_pairs(["a"], [(small, big)], upper, MeanColour(), known_place=True)
    np.testing.assert_array_equal(found.results, [(0, 1, 0)])
    assert found.seen.tolist() == [False]
    unseen = np.arange(2 * PEOPLE) < 5
    report = attack_collection(Collection(NAMES, two_each(0), two_each(0), ~unseen))
    assert report.results_not_found == 5
    assert report.attacks[1].tpr.value == 1


def test_the_place_scales_with_the_result():
    faces = [Detection((x, 0, x + 10, 10), 0.9, "", None) for x in (0, 20)]
    assert nearest(faces, np.array((21.0, 0, 31, 10))) is faces[1]
    assert nearest(faces, np.array((8.0, 0, 18, 10))) is None
    assert nearest([], np.array((8.0, 0, 18, 10))) is None
    small = picture((0, 0, 0), (9, 0, 0))
    big = np.zeros((24, 48, 3), np.uint8)
    big[:, 24:] = 9

    def whole(image):
        return squares(image) if image.shape[0] == 12 else [Detection((24, 0, 48, 24), 1, "", 2 * POINTS + (24, 0))]

    assert np.isfinite(embed_pairs(["a"], [(small, big)], whole, MeanColour()).results).all()


def test_a_face_that_was_left_counts_as_recognised():
    left = np.arange(2 * PEOPLE) < 16
    report = attack_collection(Collection(NAMES, two_each(0), strangers(1), left=left))
    found = {one.name: one for one in report.attacks}
    for name in ("naive", "naive, same photo", "linkability"):
        assert 0.1 <= found[name].tpr.value <= 0.13
    for name in ("naive", "reverse", "parrot"):
        assert 0.1 <= found[name].rank1.value <= 0.15
    assert found["originals"].tpr.value == 1
    assert found["naive"].tpr.chance < 5e-3


CROWD, WIDTH = 40, 32


class Named:
    def __init__(self, threshold: float = 0.9) -> None:
        self.name, self.threshold = "planted", threshold


def people(seed: int, count: int = CROWD) -> np.ndarray:
    centres = np.random.default_rng(seed).normal(size=(count, WIDTH))
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
    assert at["naive", "rank-5"].chance == pytest.approx(5 / CROWD)
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
