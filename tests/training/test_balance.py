"""Which faces a training sees how often."""

from collections import Counter

import numpy as np
import pytest

from deid_diffusion.faces.semantic_map import mean_faces, mean_mesh
from deid_diffusion.training.balance import Balance, by_sex_age_and_turn


def shares(balance: Balance, names: list[str], draws: int = 20_000) -> dict[str, float]:
    rng = np.random.default_rng(0)
    found = Counter(names[balance.draw(rng)] for _ in range(draws))
    return {name: count / draws for name, count in found.items()}


def frontal(count: int) -> np.ndarray:
    return np.repeat(mean_mesh(100)[None], count, 0)


def test_groups_are_drawn_equally_and_their_parts_by_the_roots_of_their_sizes() -> None:
    said = [{"person": "man", "age": "young"}] * 160 + [{"person": "boy", "age": "child"}] * 10
    said += [{"person": "woman", "age": "young"}] * 30
    found = shares(by_sex_age_and_turn(said, frontal(len(said))), [one["person"] for one in said])
    assert found["woman"] == pytest.approx(0.5, abs=0.02)
    assert found["man"] / found["boy"] == pytest.approx(4, rel=0.15)


def test_turned_heads_are_drawn_more_often_than_their_number_says() -> None:
    said, profile = [{"person": "man"}] * 100, 100 * mean_faces()[0]
    meshes = np.concatenate([frontal(96), np.repeat(profile[None], 4, 0)])
    found = shares(by_sex_age_and_turn(said, meshes), ["front"] * 96 + ["turned"] * 4)
    assert found["turned"] == pytest.approx(2 / (2 + 96**0.5), abs=0.02)


def test_faces_of_no_known_group_keep_their_share() -> None:
    said = [{"person": "man"}] * 60 + [{}] * 20 + [{"person": "woman"}] * 20
    found = shares(by_sex_age_and_turn(said, frontal(len(said))), ["m"] * 60 + ["?"] * 20 + ["w"] * 20)
    assert found == pytest.approx({"m": 0.4, "w": 0.4, "?": 0.2}, abs=0.02)


def test_without_groups_all_are_drawn_equally() -> None:
    found = shares(Balance([None] * 4, [""] * 4), list("abcd"))
    assert found == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.02)
