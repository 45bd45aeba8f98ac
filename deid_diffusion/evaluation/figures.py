"""A figure as the report shows it: a name, a number, how sure it is, and in which unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .verification import Rate, bootstrap_interval

Better = Literal["lower", "higher", "zero", ""]

SHARE = "share"
"""The unit of figures from 0 to 1, which people read as percentages."""


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Attributes:
        name: what it is, in a few words; with `column` unique within its section.
        value: None where it could not be measured; `note` says why.
        unit: `SHARE`, or words that follow the number.
        interval: lower and upper bound of 95 %; None for a count or an extreme, which has none.
        chance: what a guess reaches; None where there is no such thing.
        trials: how many faces, photos or pairs it rests on; None for a count.
        better: which direction is good; "" for neither.
        note: one line that belongs to it, or "".
        column: of a section that is a table of rows and columns; "" in one that is a list.
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
    """Figures that belong together.

    Attributes:
        title: of the section.
        summary: what it says, in a sentence.
        figures: in order.
    """

    title: str
    summary: str
    figures: tuple[Figure, ...]


def of_rate(name: str, rate: Rate, better: Better = "lower", column: str = "") -> Figure:
    """A `Rate` as a figure."""
    return Figure(name, rate.value, SHARE, rate.interval, rate.chance, rate.trials, better, column=column)


def mean_of(
    name: str,
    values: Sequence[float | None],
    people: Sequence[str],
    unit: str = SHARE,
    better: Better = "",
    note: str = "",
) -> Figure:
    """The mean of the values that are known, with its interval over people; a figure without value if none is.

    Args:
        name: of the figure.
        values: K numbers; None is left out.
        people: K names: whose they are.
        unit: as in `Figure`.
        better: likewise.
        note: likewise.
    """
    known = [(float(value), person) for value, person in zip(values, people, strict=True) if value is not None]
    if not known:
        return missing(name, unit, "no face to measure it on")
    numbers = np.array([value for value, _ in known])
    equal = numbers.min() == numbers.max() and unit != SHARE  # the exact interval of none and all is of shares only
    interval = (numbers[0], numbers[0]) if equal else bootstrap_interval(numbers, [person for _, person in known])
    return Figure(
        name, float(numbers.mean()), unit, (float(interval[0]), float(interval[1])), None, len(known), better, note
    )


def missing(name: str, unit: str, why: str, column: str = "") -> Figure:
    """A figure that could not be measured."""
    return Figure(name, None, unit, note=why, column=column)


def shown(figure: Figure) -> str:
    """The number as people read it, with its unit: "1.9 %", "5.2 degrees", "not measured"."""
    if figure.value is None:
        return "not measured"
    unit = "" if figure.unit in (SHARE, "") else f" {figure.unit}"
    return number(figure.value, figure.unit) + unit


def shown_interval(figure: Figure) -> str:
    """The interval likewise, without unit; "" without one."""
    if figure.interval is None:
        return ""
    return " to ".join(number(bound, figure.unit) for bound in figure.interval)


def number(value: float, unit: str) -> str:
    """A number in a unit, without it, but for the sign of percentages."""
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
