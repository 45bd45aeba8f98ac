"""Report of an evaluation: tables for the terminal, and one self-contained HTML page with SVG charts."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..errors import needed_for, one_line
from .attacks import DESCRIPTIONS, Curve
from .evaluate import Evaluation, Group, Scatter
from .statistics import SHARE, Figure, Section, format_interval, format_value, number

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes
    from rich.table import Table

TOO_FEW = "too few pairs"
_JPEG_QUALITY = 85
_COLOURS = ("#0f766e", "#b45309", "#4338ca", "#be185d", "#64748b")
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (1, 3)))
_MARKERS = "osD^vPX*<>"
_GREY = "#9aa7b4"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deid-diffusion",  # the same figures give the same file
    "text.parse_math": False,  # a dollar sign in a name is no formula
    "font.size": 9,
    "text.color": "#1c2733",
    "axes.labelcolor": "#1c2733",
    "axes.edgecolor": "#e3e8ee",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e8ee",
    "xtick.color": "#5b6b7a",
    "ytick.color": "#5b6b7a",
    "legend.frameon": False,
}
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
    for column, groups in _groups_by_column(evaluation).items():
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
    """Render the page of a complete evaluation, not of attacks only; `title` names the results.

    It shows originals only if the evaluation kept crops of the worst cases. Raises DeidError if matplotlib or Jinja2 is
    missing.
    """
    return load_template().render(
        title=title,
        evaluation=evaluation,
        created=evaluation.created.replace("T", " ").replace("+00:00", " UTC"),
        cards=[(figure, _explanation(figure)) for figure in evaluation.headline],
        charts=list(_charts(evaluation)),
        groups={
            column: _group_charts(groups, evaluation.headline[1].chance)
            for column, groups in _groups_by_column(evaluation).items()
        },
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


def _groups_by_column(evaluation: Evaluation) -> dict[str, list[Group]]:
    columns = dict.fromkeys(group.column for group in evaluation.groups)
    return {column: [group for group in evaluation.groups if group.column == column] for column in columns}


def _group_charts(groups: Sequence[Group], chance: float | None) -> list[str]:
    """Draw a bar chart for every share of a label's groups; the first is re-identification."""
    charts = []
    for index, figure in enumerate(groups[0].figures):
        rows = {f"{group.value} ({group.photos})": group.figures[index] for group in groups}
        rows = {name: row for name, row in rows.items() if row.value is not None}
        if rows and figure.unit == SHARE:
            charts.append(bars(rows, figure.name, _COLOURS[0 if index else 1], None if index else chance))
    return charts


def _data_url(crop: np.ndarray) -> str:
    """Encode a crop, (S, S, 3) uint8 RGB, as the data URL of a JPEG."""
    data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


_Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """Point of `trade_off`: share of people re-identified (x) and of attributes kept (y), with intervals."""

    name: str
    x: float
    y: float
    x_interval: _Interval = None
    y_interval: _Interval = None
    highlight: bool = False


def trade_off(points: Sequence[Point], chance: float, groups: Sequence[tuple[float, float]] = ()) -> str:
    """Plot privacy against utility as an SVG element; the upper left corner is ideal.

    Points have a marker of their own and a legend entry, groups are further x, y, shown as small dots. `chance` is the
    chance level of re-identification, 0 to 1.
    """

    def draw(axes: Axes) -> None:
        _share_axes(axes, x="re-identified", y="attributes kept")
        axes.axvline(chance, color=_GREY, linestyle="--", label="chance")
        for x, y in groups:
            axes.plot(x, y, "o", color=_COLOURS[0], alpha=0.35, markersize=4)
        for k, point in enumerate(points):
            axes.errorbar(
                point.x,
                point.y,
                xerr=_error(point.x, point.x_interval),
                yerr=_error(point.y, point.y_interval),
                fmt=_MARKERS[k % len(_MARKERS)],
                color=_COLOURS[0] if point.highlight else _COLOURS[4],
                markersize=7,
                label=one_line(point.name),
            )
        axes.text(0.5, 0.5, "\N{NORTH WEST ARROW} better", color=_COLOURS[0], ha="center")
        _legend(axes)

    return _svg(draw, "Share of people re-identified against share of attributes kept")


def roc(curves: Sequence[Curve]) -> str:
    """Plot one or more ROC curves, the false match rate on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        axes.set(xscale="log", xlabel="false match rate")
        _share_axes(axes, y="true positive rate")
        for k, curve in enumerate(curves):
            colour, dashes = _COLOURS[k % len(_COLOURS)], _DASHES[k % len(_DASHES)]
            axes.plot(curve.fmrs, curve.tprs, color=colour, linestyle=dashes, label=curve.name)
        rates = np.geomspace(min(curve.fmrs[0] for curve in curves), 1)
        axes.plot(rates, rates, color=_GREY, linestyle=":", label="chance")
        axes.set_xlim(rates[0], 1)
        axes.xaxis.set_major_formatter("{x:g}")
        _legend(axes)

    return _svg(draw, "Receiver operating characteristic")


def scatter(attribute: Scatter) -> str:
    """Plot an attribute of results against originals; it was kept on the diagonal."""

    def draw(axes: Axes) -> None:
        axes.plot(attribute.originals, attribute.results, "o", color=_COLOURS[0], alpha=0.45, markersize=4)
        values = [*attribute.originals, *attribute.results]
        margin = 0.05 * np.ptp(values) + 1e-6
        limits = min(values) - margin, max(values) + margin
        axes.plot(limits, limits, color=_GREY, linestyle=":")
        axes.set(
            xlim=limits,
            ylim=limits,
            xlabel=f"{attribute.name} of the original, {attribute.unit}",
            ylabel=f"{attribute.name} of the result, {attribute.unit}",
        )

    return _svg(draw, f"{attribute.name} of results against originals")


def bars(rows: Mapping[str, Figure], title: str, colour: str, chance: float | None = None) -> str:
    """Plot shares below each other, by their labels, with intervals and the chance level."""

    def draw(axes: Axes) -> None:
        _share_axes(axes, x=title)
        values = [figure.value or 0.0 for figure in rows.values()]
        axes.barh(range(len(rows)), values, color=colour, alpha=0.75, height=0.6)
        for place, (value, figure) in enumerate(zip(values, rows.values(), strict=True)):
            axes.errorbar(value, place, xerr=_error(value, figure.interval), color="#1c2733", capsize=3)
        axes.set_yticks(range(len(rows)), [one_line(name)[:24] for name in rows])
        axes.invert_yaxis()
        if chance is not None:
            axes.axvline(chance, color=_GREY, linestyle=":")

    return _svg(draw, title, height=0.8 + 0.3 * len(rows))


def _svg(draw: Callable[[Axes], None], title: str, height: float = 4.0) -> str:
    """Draw one chart, 5 inches wide, as an SVG element. Raises DeidError if matplotlib is missing."""
    with needed_for("the report", "deid-diffusion[report]"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    stream = StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks: the viewer's font has them
        figure = Figure(figsize=(5.0, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = stream.getvalue()
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg[svg.index("<svg") :])  # unreferenced, and not unique on a page
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(one_line(title))}" ', 1)


def _share_axes(axes: Axes, x: str | None = None, y: str | None = None) -> None:
    """Make axes of shares, 0 to 1, shown as percentages."""
    from matplotlib.ticker import PercentFormatter

    for axis, title, limits in ((axes.xaxis, x, axes.set_xlim), (axes.yaxis, y, axes.set_ylim)):
        if title is not None:
            axis.set_label_text(one_line(title))
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
            limits(-0.02, 1.02)


def _error(value: float, interval: _Interval) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside lower center", ncols=2)
