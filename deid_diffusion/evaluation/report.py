"""The report as one HTML page that needs nothing else: all is in it, and a policy forbids it to load anything."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .attacks import MEANING
from .charts import COLOURS, Bar, Dot, bars, roc, scatter, strip, trade_off
from .evaluate import Evaluation, WorstCase
from .statistics import SHARE, Figure, Section, format_interval, format_value, number

if TYPE_CHECKING:
    from rich.table import Table


_TOO_FEW = "too few pairs"


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """A rich table for each section, coverage first, then one for the groups of each label."""
    for section in evaluation.sections:
        yield _matrix_rows(section) if any(one.column for one in section.figures) else _list_cells(section)
    for column in dict.fromkeys(one.column for one in evaluation.groups):
        groups = [one for one in evaluation.groups if one.column == column]
        names = [one.name for one in groups[0].figures]
        table = _table(f"By {column}", [column, "photos", *names])
        for one in groups:
            table.add_row(one.value, f"{one.photos:,}", *map(_text_cell, one.figures))
        yield table


def _list_cells(section: Section) -> Table:
    table = _table(section.title, ["", "value", "95 % interval", "of", "remark"])
    for one in section.figures:
        table.add_row(
            one.name, format_value(one), format_interval(one), f"{one.trials:,}" if one.trials else "", one.note
        )
    return table


def _matrix_rows(section: Section) -> Table:
    columns = list(dict.fromkeys(one.column for one in section.figures))
    at = {(one.name, one.column): one for one in section.figures}
    table = _table(section.title, ["", *columns])
    for name in dict.fromkeys(one.name for one in section.figures):
        table.add_row(name, *(_text_cell(at.get((name, column))) for column in columns))
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


def _text_cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    if figure.value is None:
        return _TOO_FEW if figure.column else "-"
    chance = f", chance {number(figure.chance, figure.unit)}" if figure.chance is not None else ""
    return f"{format_value(figure)}\n({format_interval(figure)}{chance})"


_JPEG_QUALITY = 85
_READING = {
    "share of faces left": "faces that were not touched at all",
    "attributes kept": "pose, gaze and expression as before, within stated tolerances",
    "face found again": "a face is still seen where there was one",
    "time a face": "from reading the photo to writing the result",
}


def render(evaluation: Evaluation, title: str) -> str:
    """The whole page. It shows originals only where the evaluation kept the worst cases' pictures.

    Args:
        evaluation: what was found.
        title: what was evaluated, in words.
    """
    style = files("deid_diffusion.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    made = evaluation.made.replace("T", " ").replace("+00:00", " UTC")
    judges = " \N{MIDDLE DOT} ".join(f"{role}: <b>{escape(name)}</b>" for role, name in evaluation.judges.items())
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ",
        'img-src data:"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>",
        f"<header><h1>De-identification report</h1><p class=sub>{escape(title)}</p>",
        f"<p class=meta>{evaluation.photos:,} photos of {evaluation.people:,} people \N{MIDDLE DOT} {escape(made)} "
        f"\N{MIDDLE DOT} deid-diffusion {escape(evaluation.version)}<br>{judges}</p></header>",
        f"<div class=cards>{''.join(map(_card, evaluation.headline))}</div>",
        _notes(evaluation.notes),
        _plots(evaluation),
        *map(_section, evaluation.sections),
        *(_group_bars(evaluation, column) for column in dict.fromkeys(one.column for one in evaluation.groups)),
        _worst(evaluation.worst),
        "<footer>Intervals hold with 95 % confidence, by resampling people. Low re-identification by the recognisers "
        "named here does not make pictures anonymous in law: hair, clothes, place and company stay in them.</footer>",
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _card(figure: Figure) -> str:
    interval = f"95 %: {format_interval(figure)}" if figure.interval else ""
    chance = f"; chance {number(figure.chance, figure.unit)}" if figure.chance is not None else ""
    reading = _READING.get(figure.name, figure.note)
    if figure.name.startswith("re-identified"):
        reading = f"results that are matched with a photo of the person; {reading}"
    value = escape(format_value(figure))
    return (
        f"<div class=card><p class=name>{escape(figure.name)}</p><p class=value>{value}</p>"
        f"<p class=interval>{escape(interval + chance)}</p><p class=reading>{escape(reading)}</p></div>"
    )


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section class=notes><h2>Read this first</h2><ul>{items}</ul></section>"


def _plots(evaluation: Evaluation) -> str:
    plots = [_figure(_trade_off(evaluation), "Privacy against utility", _trade_off_caption(evaluation))]
    for name, curves in evaluation.curves.items():
        if curves:
            lines = [(one.name, one.fmrs, one.tprs) for one in curves]
            caption = (
                "How often two photos of one person match, at thresholds that let so many strangers match, too. Curves "
                "of results should stay near chance, far below that of originals."
            )
            plots.append(_figure(roc(lines), f"Recognition by {name}", caption))
    for one in evaluation.scatters:
        caption = "A point a face; on the dotted line it is as in the original."
        plots.append(_figure(scatter(one.name, one.unit, one.originals, one.results), one.name.capitalize(), caption))
    return f"<section class=plots>{''.join(plots)}</section>"


def _figure(svg: str, title: str, caption: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _trade_off(evaluation: Evaluation) -> str:
    identity, kept = evaluation.headline[1], evaluation.headline[2]
    chance = identity.chance or 0.0
    dots = [
        Dot("originals", evaluation.ceiling, 1.0, COLOURS[4]),
        Dot("black box (no face left)", chance, 0.0, COLOURS[4]),
    ]
    if identity.value is not None and kept.value is not None:
        dots.append(Dot("results", identity.value, kept.value, COLOURS[0], identity.interval, kept.interval))
    for group in evaluation.groups:
        x, y = group.figures[0].value, group.figures[1].value
        if x is not None and y is not None:
            dots.append(Dot(f"{group.column} {group.value}", x, y, COLOURS[0], large=False))
    return trade_off(dots, chance)


def _trade_off_caption(evaluation: Evaluation) -> str:
    dots = " Small dots are groups of the labels." if evaluation.groups else ""
    return (
        f"Re-identified: {evaluation.headline[1].note}. Attributes {evaluation.headline[2].note or 'kept'}. "
        f"Bars are 95 % intervals.{dots} Originals and black box are where doing nothing and leaving nothing lie."
    )


def _group_bars(evaluation: Evaluation, column: str) -> str:
    groups = [one for one in evaluation.groups if one.column == column]
    names = [one.name for one in groups[0].figures if one.unit == SHARE]
    plots = []
    for name in names:
        found = [(one, next(f for f in one.figures if f.name == name)) for one in groups]
        rows = [
            Bar(f"{one.value} ({one.photos})", f.value, f.interval, f.trials or 0)
            for one, f in found
            if f.value is not None
        ]
        if rows:
            first = name == names[0]
            chance = evaluation.headline[1].chance if first else None
            plots.append(f"<figure>{bars(rows, name, COLOURS[1] if first else COLOURS[0], chance)}</figure>")
    return f"<section><h2>By {escape(column.replace('_', ' '))}</h2><div class=plots>{''.join(plots)}</div></section>"


def _section(section: Section) -> str:
    table = _matrix(section.figures) if any(one.column for one in section.figures) else _list(section.figures)
    return f"<section><h2>{escape(section.title)}</h2><p class=summary>{escape(section.summary)}</p>{table}</section>"


def _list(figures: Sequence[Figure]) -> str:
    rows = []
    for one in figures:
        bar = strip(one.value, one.interval, one.chance) if one.unit == SHARE and one.value is not None else ""
        quiet = " class=quiet" if one.value is None else ""
        rows.append(
            f"<tr{quiet}><th scope=row>{escape(one.name)}</th><td class=number>{escape(format_value(one))}</td>"
            f"<td>{escape(format_interval(one))}</td><td>{bar}</td><td class=trials>{one.trials or ''}</td>"
            f"<td class=note>{escape(one.note)}</td></tr>"
        )
    head = "<tr><th></th><th>value</th><th>95 % interval</th><th></th><th>of</th><th></th></tr>"
    return f"<table class=list><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _matrix(figures: Sequence[Figure]) -> str:
    columns = list(dict.fromkeys(one.column for one in figures))
    names = list(dict.fromkeys(one.name for one in figures))
    at = {(one.name, one.column): one for one in figures}
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}<small>{escape(MEANING.get(name, ''))}</small></th>"
        f"{''.join(_cell(at.get((name, column))) for column in columns)}</tr>"
        for name in names
    )
    notes = dict.fromkeys(f"{one.column}: {one.note}" for one in figures if one.value is None)
    below = "".join(f"<p class=note>{escape(note)}.</p>" for note in notes)
    return f"<table class=matrix><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>{below}"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "<td>\N{EN DASH}</td>"
    if figure.value is None:
        return "<td class=quiet>too few pairs</td>"
    chance = f"<br>chance {number(figure.chance, figure.unit)}" if figure.chance is not None else ""
    return f"<td><b>{escape(format_value(figure))}</b><small>{escape(format_interval(figure))}{chance}</small></td>"


def _worst(cases: Sequence[WorstCase]) -> str:
    if not cases:
        return ""
    items = "".join(
        f"<figure><div><img alt=original src={_data(one.original)}><img alt=result src={_data(one.result)}></div>"
        f"<figcaption><b>{escape(one.name)}</b><br>{escape(one.why)}</figcaption></figure>"
        for one in cases
    )
    return (
        "<section class=sheet><h2>Worst cases</h2><p class=warning>This part shows original faces: treat the page as "
        f"you treat the originals.</p><div>{items}</div></section>"
    )


def _data(crop: np.ndarray) -> str:
    """A crop, (S, S, 3) uint8 RGB, as the address of a JPEG that it holds itself."""
    data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
