"""Shares as bars, in inline SVG like `charts`: of groups below each other, and one beside its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from .charts import COLOURS, GRID, INK, MUTED


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
