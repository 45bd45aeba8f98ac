"""Charts of the report and the benchmarks: deterministic SVG by matplotlib, without scripts and fonts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import needed_for, one_line
from .attacks import Curve
from .evaluate import Scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0f766e", "#b45309", "#4338ca", "#be185d", "#64748b")
"""Line colours; curves also differ by their dashes."""

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

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """Point of `trade_off`: share of people re-identified (x) and of attributes kept (y), with intervals."""

    name: str
    x: float
    y: float
    x_interval: Interval = None
    y_interval: Interval = None
    highlight: bool = False


@dataclass(frozen=True)
class Bar:
    """Row of `bars`: a share with its interval."""

    name: str
    value: float
    interval: Interval = None


def trade_off(points: Sequence[Point], chance: float, groups: Sequence[tuple[float, float]] = ()) -> str:
    """Plot privacy against utility; the upper left corner is ideal.

    Args:
        points: shown with a marker of their own and a legend entry.
        chance: chance level of re-identification, 0 to 1.
        groups: further x, y, shown as small dots.

    Returns:
        An SVG element, as all charts.
    """

    def draw(axes: Axes) -> None:
        _share_axes(axes, x="re-identified", y="attributes kept")
        axes.axvline(chance, color=_GREY, linestyle="--", label="chance")
        for x, y in groups:
            axes.plot(x, y, "o", color=COLOURS[0], alpha=0.35, markersize=4)
        for k, point in enumerate(points):
            axes.errorbar(
                point.x,
                point.y,
                xerr=_error(point.x, point.x_interval),
                yerr=_error(point.y, point.y_interval),
                fmt=_MARKERS[k % len(_MARKERS)],
                color=COLOURS[0] if point.highlight else COLOURS[4],
                markersize=7,
                label=one_line(point.name),
            )
        axes.text(0.5, 0.5, "\N{NORTH WEST ARROW} better", color=COLOURS[0], ha="center")
        _legend(axes)

    return _svg(draw, "Share of people re-identified against share of attributes kept")


def roc(curves: Sequence[Curve]) -> str:
    """Plot one or more ROC curves, the false match rate on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        axes.set(xscale="log", xlabel="false match rate")
        _share_axes(axes, y="true positive rate")
        for k, curve in enumerate(curves):
            colour, dashes = COLOURS[k % len(COLOURS)], _DASHES[k % len(_DASHES)]
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
        axes.plot(attribute.originals, attribute.results, "o", color=COLOURS[0], alpha=0.45, markersize=4)
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


def bars(rows: Sequence[Bar], title: str, colour: str, chance: float | None = None) -> str:
    """Plot shares of groups below each other, with intervals and the chance level."""

    def draw(axes: Axes) -> None:
        _share_axes(axes, x=title)
        places = range(len(rows))
        axes.barh(places, [row.value for row in rows], color=colour, alpha=0.75, height=0.6)
        for place, row in zip(places, rows, strict=True):
            axes.errorbar(row.value, place, xerr=_error(row.value, row.interval), color="#1c2733", capsize=3)
        axes.set_yticks(places, [one_line(row.name)[:24] for row in rows])
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


def _error(value: float, interval: Interval) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(value - interval[0], 0.0)], [max(interval[1] - value, 0.0)]]


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside lower center", ncols=2)
