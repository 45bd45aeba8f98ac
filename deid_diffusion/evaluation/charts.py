"""Plots as inline SVG, drawn by hand: no script, no font, no address in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np


@dataclass(frozen=True)
class Bar:
    """A row of `bars`: a share with its interval."""

    name: str
    value: float
    interval: tuple[float, float] | None
    trials: int


def bars(rows: Sequence[Bar], title: str, colour: str, chance: float | None = None) -> str:
    """Shares of groups below each other, with their intervals; a dotted line at chance."""
    row, left, right, top = 24, 118, 404, 26
    height = top + row * len(rows) + 8
    parts = [f'<text x="0" y="14" fill="{INK}" font-weight="600">{escape(title)}</text>']

    def across(share: float) -> float:
        return left + float(np.clip(share, 0, 1)) * (right - left)

    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{top - 4}" x2="{x:.1f}" y2="{height - 6}" stroke="{GRID}"/>')
    for k, bar in enumerate(rows):
        y = top + row * k + row / 2
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" fill="{INK}" text-anchor="end">{escape(bar.name[:18])}</text>'
        )
        parts.append(
            f'<rect x="{left}" y="{y - 7:.1f}" width="{max(across(bar.value) - left, 1):.1f}" height="14" rx="2" '
            f'fill="{colour}" fill-opacity="0.75"><title>{escape(bar.name)}: {bar.trials} trials</title></rect>'
        )
        if bar.interval:
            low, high = (across(bound) for bound in bar.interval)
            parts.append(f'<path d="M{low:.1f} {y - 4:.1f}v8m0-4H{high:.1f}m0-4v8" stroke="{INK}" fill="none"/>')
        parts.append(f'<text x="{right + 8}" y="{y + 4:.1f}" fill="{MUTED}">{100 * bar.value:.0f} %</text>')
    if chance is not None:
        x = across(chance)
        parts.append(f'<path d="M{x:.1f} {top - 4}V{height - 6}" stroke="{MUTED}" stroke-dasharray="2 3"/>')
    return (
        f'<svg viewBox="0 0 460 {height}" role="img" aria-label="{escape(title)}" font-size="12">{"".join(parts)}</svg>'
    )


def strip(value: float, interval: tuple[float, float] | None, chance: float | None) -> str:
    """A share as a small bar beside its number: the dot, its interval, and a tick at chance."""
    x = 2 + 96 * float(np.clip(value, 0, 1))
    parts = ['<path d="M2 8H98" stroke="#d3dbe3" stroke-width="3" stroke-linecap="round"/>']
    if interval:
        low, high = (2 + 96 * float(np.clip(bound, 0, 1)) for bound in interval)
        parts.append(
            f'<path d="M{low:.1f} 8H{max(high, low + 0.5):.1f}" stroke="{COLOURS[0]}" stroke-opacity="0.4" '
            'stroke-width="9"/>'
        )
    if chance is not None:
        at = 2 + 96 * float(np.clip(chance, 0, 1))
        parts.append(f'<path d="M{at:.1f} 2V14" stroke="{MUTED}" stroke-dasharray="2 2"/>')
    parts.append(f'<circle cx="{x:.1f}" cy="8" r="3" fill="{COLOURS[0]}"/>')
    return f'<svg class="strip" viewBox="0 0 100 16" aria-hidden="true">{"".join(parts)}</svg>'


COLOURS = ("#0f766e", "#b45309", "#4338ca", "#be185d", "#64748b")
"""Of curves, in order: told apart in print by their dashes, too."""

_DASHES = ("", "7 4", "2 3", "9 3 2 3", "1 3")
INK, MUTED, GRID = "#1c2733", "#5b6b7a", "#e3e8ee"
_LETTER, _LINE = 7.2, 15.0  # width of a letter and height of a line of names, in pixels, generously


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        title: words beside it.
        low, high: what its ends stand for; both over 0 on a logarithmic axis.
        ticks: values that are labelled.
        label: tick to text.
        log: logarithmic.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    label: Callable[[float], str]
    log: bool = False

    def place(self, value: float) -> float:
        """0 to 1 along the axis; values beyond an end are put on it."""
        if self.log:
            share = np.log(max(value, self.low) / self.low) / np.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return float(np.clip(share, 0, 1))


@dataclass(frozen=True)
class Dot:
    """A point of `trade_off`: shares of people re-identified (x) and attributes kept (y), with their intervals."""

    name: str
    x: float
    y: float
    colour: str
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    large: bool = True


class Canvas:
    """An SVG of two axes, filled step by step."""

    def __init__(self, x: Axis, y: Axis, width: int = 460, height: int = 340) -> None:
        self.x, self.y = x, y
        self._width, self._height = width, height
        self._left, self._right, self._top, self._bottom = 58, width - 22, 14, height - 48
        self._parts: list[str] = []
        for tick in x.ticks:
            across = self.across(tick)
            self.line((across, self._top), (across, self._bottom), GRID)
            self.text(across, self._bottom + 17, x.label(tick), "middle")
        for tick in y.ticks:
            down = self.down(tick)
            self.line((self._left, down), (self._right, down), GRID)
            self.text(self._left - 7, down + 4, y.label(tick), "end")
        self.text((self._left + self._right) / 2, height - 8, x.title, "middle", INK)
        middle = (self._top + self._bottom) / 2
        self._parts.append(
            f'<text x="14" y="{middle:.1f}" fill="{INK}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle:.1f})">{escape(y.title)}</text>'
        )

    def across(self, value: float) -> float:
        return self._left + self.x.place(value) * (self._right - self._left)

    def down(self, value: float) -> float:
        return self._bottom - self.y.place(value) * (self._bottom - self._top)

    def line(
        self, start: tuple[float, float], end: tuple[float, float], colour: str, dash: str = "", width: float = 1
    ) -> None:
        """A straight line between two places of the picture, in its pixels."""
        self._parts.append(
            f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"{_dashed(dash)}/>'
        )

    def path(self, xs: Sequence[float], ys: Sequence[float], colour: str, dash: str = "") -> None:
        """A line through values."""
        points = " ".join(f"{self.across(a):.1f},{self.down(b):.1f}" for a, b in zip(xs, ys, strict=True))
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{_dashed(dash)}/>'
        )

    def dot(self, x: float, y: float, colour: str, radius: float, opacity: float = 1.0, title: str = "") -> None:
        """A disc at a value; its title shows under the mouse."""
        inner = f"<title>{escape(title)}</title>" if title else ""
        self._parts.append(
            f'<circle cx="{self.across(x):.1f}" cy="{self.down(y):.1f}" r="{radius}" fill="{colour}" '
            f'fill-opacity="{opacity}">{inner}</circle>'
        )

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", colour: str = MUTED, weight: str = "400"
    ) -> None:
        """Words at a place of the picture, in its pixels."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>"
        )

    def svg(self, alt: str) -> str:
        return (
            f'<svg viewBox="0 0 {self._width} {self._height}" role="img" aria-label="{escape(alt)}" '
            f'font-size="12">{"".join(self._parts)}</svg>'
        )


def trade_off(dots: Sequence[Dot], chance: float) -> str:
    """Privacy against utility: nearer the upper left corner is better."""
    canvas = Canvas(_shares("re-identified"), _shares("attributes kept"))
    if chance > 0.005:
        canvas.line((canvas.across(chance), canvas.down(0)), (canvas.across(chance), canvas.down(1)), MUTED, "4 4")
    canvas.text(canvas.across(0) + 8, canvas.down(1) + 18, "\N{NORTH WEST ARROW} better", "start", COLOURS[0], "600")
    discs = ((canvas.across(one.x), canvas.down(one.y)) for one in dots if one.large)
    names = [(x - 8, x + 8, y + 5) for x, y in discs]  # what no name may cover: left, right, baseline; then the names
    for dot in sorted(dots, key=lambda one: (one.large, min(one.y, 1 - one.y))):  # from the edges, where names pile up
        x, y = canvas.across(dot.x), canvas.down(dot.y)
        if dot.large and dot.x_interval:
            canvas.line(
                (canvas.across(dot.x_interval[0]), y), (canvas.across(dot.x_interval[1]), y), dot.colour, width=2
            )
        if dot.large and dot.y_interval:
            canvas.line((x, canvas.down(dot.y_interval[0])), (x, canvas.down(dot.y_interval[1])), dot.colour, width=2)
        canvas.dot(dot.x, dot.y, dot.colour, 6 if dot.large else 3.5, 1 if dot.large else 0.35, dot.name)
        if dot.large:
            right, below = dot.x > 0.6, dot.y > 0.5
            edge, beside = x - 10 if right else x + 10, y + 18 if below else y - 10
            width, down = _LETTER * len(dot.name), beside
            start, end = (edge - width, edge) if right else (edge, edge + width)
            while any(abs(down - line) < _LINE and start < last and first < end for first, last, line in names):
                down += _LINE if below else -_LINE
            names.append((start, end, down))
            if down != beside:  # further off, and tied to its dot
                edge += -16 if right else 16
                canvas.line((x, y), (edge + 2 if right else edge - 2, down - 4), MUTED)
            canvas.text(edge, down, dot.name, "end" if right else "start", INK, "600")
    return canvas.svg("Share of people re-identified against share of attributes kept")


def roc(curves: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """True positive against false match rate, the latter logarithmic: name, FMRs and TPRs of each curve."""
    low = 10.0 ** np.floor(np.log10(min(fmrs[0] for _, fmrs, _ in curves)) + 1e-9)
    powers = [10.0**k for k in range(round(np.log10(low)), 1)]
    x = Axis("false match rate", low, 1, powers, lambda v: "1" if v == 1 else f"1e{round(np.log10(v))}", log=True)
    canvas = Canvas(x, _shares("true positive rate"))
    diagonal = np.logspace(np.log10(low), 0, 40)
    canvas.path(diagonal.tolist(), diagonal.tolist(), "#9aa7b4", "2 4")
    for k, (_, fmrs, tprs) in enumerate(curves):
        canvas.path(fmrs, tprs, COLOURS[k % len(COLOURS)], _DASHES[k % len(_DASHES)])
    names = [(name, COLOURS[k % len(COLOURS)], _DASHES[k % len(_DASHES)]) for k, (name, _, _) in enumerate(curves)]
    return canvas.svg("Receiver operating characteristic") + _legend([*names, ("chance", "#9aa7b4", "2 4")])


def scatter(name: str, unit: str, originals: Sequence[float], results: Sequence[float]) -> str:
    """A value of results against the same value of originals; on the diagonal it was kept."""
    both = np.array([*originals, *results])
    step = next((s for s in (5, 10, 20, 30, 50) if np.ptp(both) / s < 8), 100)
    low, high = float(np.floor(both.min() / step) * step), float(np.ceil(both.max() / step + 1e-9) * step)
    ticks = np.arange(low, high + step / 2, step).tolist()
    x, y = (Axis(f"{name} of the {what}, {unit}", low, high, ticks, "{:g}".format) for what in ("original", "result"))
    canvas = Canvas(x, y)
    canvas.path([low, high], [low, high], "#9aa7b4", "2 4")
    for a, b in zip(originals, results, strict=True):
        canvas.dot(a, b, COLOURS[0], 3.5, 0.45)
    return canvas.svg(f"{name} of results against originals")


def _shares(title: str) -> Axis:
    return Axis(title, 0, 1, (0, 0.25, 0.5, 0.75, 1), lambda v: f"{100 * v:.0f} %")


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _legend(names: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<span><svg viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" stroke="{colour}" stroke-width="2"'
        f"{_dashed(dash)}/></svg>{escape(name)}</span>"
        for name, colour, dash in names
    )
    return f'<p class="legend">{items}</p>'
