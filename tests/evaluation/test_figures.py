"""How figures are made and written."""

import pytest

from deid_diffusion.evaluation.figures import SHARE, Figure, mean_of, missing, number, of_rate, shown, shown_interval
from deid_diffusion.evaluation.verification import rate


def test_a_mean_leaves_out_what_is_not_known():
    found = mean_of("age error", [1.0, None, 3.0], ["a", "b", "c"], "years", "lower")
    assert (found.value, found.trials, found.unit) == (2, 2, "years")
    assert found.interval == (1, 3)
    nothing = mean_of("age error", [None], ["a"], "years")
    assert (nothing.value, nothing.note) == (None, "no face to measure it on")


def test_equal_values_are_sure_but_equal_shares_are_not():
    assert mean_of("x", [0.0] * 9, list("abcdefghi"), "levels").interval == (0, 0)
    assert mean_of("x", [0.0] * 9, list("abcdefghi")).interval == (0, pytest.approx(0.336, abs=1e-3))


def test_a_rate_is_a_figure():
    found = of_rate("naive", rate([1, 0, 1, 1], list("abcd"), 0.1), column="rank-1")
    assert (found.value, found.chance, found.trials, found.column) == (0.75, 0.1, 4, "rank-1")


def test_numbers_as_people_read_them():
    assert shown(Figure("a", 0.019, interval=(0.01, 0.031))) == "1.9 %"
    assert shown_interval(Figure("a", 0.019, interval=(0.01, 0.031))) == "1.0 % to 3.1 %"
    assert shown(Figure("a", 5.234, "degrees")) == "5.23 degrees"
    assert shown(Figure("a", 1299.0, "")) == "1,299"
    assert shown(missing("a", SHARE, "why")) == "not measured"
    assert shown_interval(missing("a", SHARE, "why")) == ""
    assert [number(v, SHARE) for v in (0, 1e-5, 1e-3, 1)] == ["0.0 %", "under 0.01 %", "0.10 %", "100.0 %"]
    assert [number(v, "s") for v in (123.4, 0.5, 0.0123, 0.00001)] == ["123.4", "0.50", "0.012", "1.0e-05"]
