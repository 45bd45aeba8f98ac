"""Report of an evaluation: tables for the terminal, and one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import needed_for
from .attacks import DESCRIPTIONS
from .charts import COLOURS, Bar, Point, bars, roc, scatter, trade_off
from .evaluate import Evaluation
from .statistics import SHARE, Figure, Section, format_interval, format_value, number

if TYPE_CHECKING:
    from jinja2 import Template
    from rich.table import Table

TOO_FEW = "too few pairs"
_JPEG_QUALITY = 85
_EXPLANATIONS = {
    "share of unchanged faces": "faces that the result still shows",
    "attributes kept": "pose, gaze and expression within stated tolerances",
    "face detected in the result": "a face is detected where there was one",
    "time per face": "from reading the photo to writing the result",
}


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """Yield a rich table for every section, then one for the groups of every label."""
    for section in evaluation.sections:
        yield _matrix(section) if is_matrix(section) else _list(section)
    for column in dict.fromkeys(group.column for group in evaluation.groups):
        groups = [group for group in evaluation.groups if group.column == column]
        table = _table(f"By {column}", [column, "photos", *(figure.name for figure in groups[0].figures)])
        for group in groups:
            table.add_row(group.value, f"{group.photos:,}", *map(_cell, group.figures))
        yield table


def is_matrix(section: Section) -> bool:
    """Return whether a section is a matrix of rows and columns, not a list."""
    return any(figure.column for figure in section.figures)


def _list(section: Section) -> Table:
    table = _table(section.title, ["", "value", "95 % interval", "of", "remark"])
    for figure in section.figures:
        trials = f"{figure.trials:,}" if figure.trials else ""
        table.add_row(figure.name, format_value(figure), format_interval(figure), trials, figure.note)
    return table


def _matrix(section: Section) -> Table:
    columns = list(dict.fromkeys(figure.column for figure in section.figures))
    cells = {(figure.name, figure.column): figure for figure in section.figures}
    table = _table(section.title, ["", *columns])
    for name in dict.fromkeys(figure.name for figure in section.figures):
        table.add_row(name, *(_cell(cells.get((name, column))) for column in columns))
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
    if figure is None or (figure.value is None and not figure.column):
        return "-"
    if figure.value is None:
        return TOO_FEW
    chance = "" if figure.chance is None else f"; chance {number(figure.chance, figure.unit)}"
    return f"{format_value(figure)}\n({format_interval(figure)}{chance})"


def load_template() -> Template:
    """Load the page's template. Raises DeidError if the packages of the extra `report` are missing."""
    with needed_for("the report", "deid-diffusion[report]"):
        import matplotlib  # noqa: F401
        from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"value": format_value, "interval": format_interval, "jpeg": _data_url}
    environment.tests["matrix"] = is_matrix
    return environment.from_string(
        files("deid_diffusion.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )


def render(evaluation: Evaluation, title: str) -> str:
    """Render the page. It shows originals only if the evaluation kept crops of the worst cases.

    Args:
        evaluation: a complete one, not of attacks only.
        title: names the results.

    Raises:
        DeidError: matplotlib or Jinja2 is missing.
    """
    return load_template().render(
        title=title,
        evaluation=evaluation,
        created=evaluation.created.replace("T", " ").replace("+00:00", " UTC"),
        cards=[(figure, _explanation(figure)) for figure in evaluation.headline],
        charts=list(_charts(evaluation)),
        groups={column: _group_charts(evaluation, column) for column in _columns(evaluation)},
        meaning=DESCRIPTIONS,
        chance=lambda figure: "" if figure.chance is None else f"chance {number(figure.chance, figure.unit)}",
        share=SHARE,
        too_few=TOO_FEW,
    )


def _explanation(figure: Figure) -> str:
    if figure.name.startswith("re-identified"):
        return f"results that match a photo of the person; {figure.note}"
    return _EXPLANATIONS.get(figure.name, figure.note)


def _charts(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield title, SVG and caption of the charts above the tables."""
    groups = " Small dots are groups of the labels." if evaluation.groups else ""
    identity, kept = evaluation.headline[1:3]
    yield {
        "title": "Privacy against utility",
        "svg": _trade_off(evaluation),
        "caption": f"Re-identified: {identity.note}. Attributes kept {kept.note}. Bars are 95 % intervals.{groups} "
        "Originals and black box mark the extremes: nothing changed, no face left.",
    }
    for name, curves in evaluation.curves.items():
        if curves:
            yield {
                "title": f"Recognition by {name}",
                "svg": roc(curves),
                "caption": "Share of pairs of one person that match, by the share of impostor pairs that match, too. "
                "Curves of results should be close to chance, far below that of originals.",
            }
    for attribute in evaluation.scatters:
        yield {
            "title": attribute.name.capitalize(),
            "svg": scatter(attribute),
            "caption": "One point per face; on the dotted line, it equals the original.",
        }


def _trade_off(evaluation: Evaluation) -> str:
    identity, kept = evaluation.headline[1:3]
    chance = identity.chance or 0.0
    points = [Point("originals", evaluation.ceiling, 1.0), Point("black box (no face left)", chance, 0.0)]
    if identity.value is not None and kept.value is not None:
        points.append(Point("results", identity.value, kept.value, identity.interval, kept.interval, highlight=True))
    values = [(group.figures[0].value, group.figures[1].value) for group in evaluation.groups]
    return trade_off(points, chance, [(x, y) for x, y in values if x is not None and y is not None])


def _columns(evaluation: Evaluation) -> list[str]:
    return list(dict.fromkeys(group.column for group in evaluation.groups))


def _group_charts(evaluation: Evaluation, column: str) -> list[str]:
    """Draw a bar chart for every share of a label's groups."""
    groups = [group for group in evaluation.groups if group.column == column]
    charts = []
    for index, figure in enumerate(groups[0].figures):
        rows = [
            Bar(f"{group.value} ({group.photos})", value, group.figures[index].interval)
            for group in groups
            if (value := group.figures[index].value) is not None
        ]
        if rows and figure.unit == SHARE:
            colour, chance = (COLOURS[0], None) if index else (COLOURS[1], evaluation.headline[1].chance)
            charts.append(bars(rows, figure.name, colour, chance))
    return charts


def _data_url(crop: np.ndarray) -> str:
    """Encode a crop, (S, S, 3) uint8 RGB, as the data URL of a JPEG."""
    data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
