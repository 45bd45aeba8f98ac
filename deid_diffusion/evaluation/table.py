"""The report on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .evaluation import Evaluation
from .figures import Figure, Section, number, shown, shown_interval

if TYPE_CHECKING:
    from rich.table import Table

_TOO_FEW = "too few pairs"


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """A rich table for each section, coverage first, then one for the groups of each label."""
    for section in evaluation.sections:
        yield _matrix(section) if any(one.column for one in section.figures) else _list(section)
    for column in dict.fromkeys(one.column for one in evaluation.groups):
        groups = [one for one in evaluation.groups if one.column == column]
        names = [one.name for one in groups[0].figures]
        table = _table(f"By {column}", [column, "photos", *names])
        for one in groups:
            table.add_row(one.value, f"{one.photos:,}", *map(_cell, one.figures))
        yield table


def _list(section: Section) -> Table:
    table = _table(section.title, ["", "value", "95 % interval", "of", "remark"])
    for one in section.figures:
        table.add_row(one.name, shown(one), shown_interval(one), f"{one.trials:,}" if one.trials else "", one.note)
    return table


def _matrix(section: Section) -> Table:
    columns = list(dict.fromkeys(one.column for one in section.figures))
    at = {(one.name, one.column): one for one in section.figures}
    table = _table(section.title, ["", *columns])
    for name in dict.fromkeys(one.name for one in section.figures):
        table.add_row(name, *(_cell(at.get((name, column))) for column in columns))
    table.caption = section.summary
    table.caption_justify = "left"
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    if figure.value is None:
        return _TOO_FEW if figure.column else "-"
    chance = f", chance {number(figure.chance, figure.unit)}" if figure.chance is not None else ""
    return f"{shown(figure)}\n({shown_interval(figure)}{chance})"
