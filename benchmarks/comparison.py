"""Comparison of tools on the same photos: table, plot, and distance from the ideal corner.

Privacy is the strongest of three attacks: a result compared with another original of the person (TPR at FMR 1e-3),
searched among originals (naive rank-1), and searched among results of the same tool (parrot rank-1). Utility is the
share of attributes kept. Both are from 0 to 1. The distance is that from the corner where nobody is re-identified and
every attribute is kept: about 1 for untouched photos, 1 or slightly more if nothing is left of the faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from deid_diffusion.evaluation.attacks import NAIVE, ORIGINALS, PARROT
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.report import Point, trade_off
from deid_diffusion.evaluation.statistics import SHARE, Figure, number

ATTACKS = ("naive, TPR at FMR 1e-3", "naive, rank-1", "parrot, rank-1")
"""Attacks of which the strongest counts."""

EXPRESSION = ("smile error", "mouth open error", "eyes open error")
"""Figures of an evaluation about the expression."""


@dataclass(frozen=True)
class Compared:
    """Figures of one tool.

    Attributes:
        name: of the tool and its settings.
        attacks: in the order of `ATTACKS`; empty if not measured.
        kept: share of attributes kept; None if not measured.
        details: further columns of the table, the same for all tools.
        seconds: per face, or None.
    """

    name: str
    attacks: tuple[Figure, ...] = ()
    kept: Figure | None = None
    details: tuple[Figure, ...] = ()
    seconds: float | None = None


def compare(
    name: str, identity: Evaluation, attributes: Evaluation, seconds: float | None, more: Sequence[Figure] = ()
) -> Compared:
    """Combine two evaluations of a tool's results.

    Args:
        name: of the tool.
        identity: of photos of people with two or more photos.
        attributes: of photos whose attributes were read.
        seconds: per face.
        more: further columns, before those of the attributes.

    Raises:
        ValueError: nobody has two photos in `identity`.
    """
    columns = [_tpr(identity), "rank-1", "rank-1"]
    attacks = tuple(
        _find(identity, attack, column) for attack, column in zip((NAIVE, NAIVE, PARROT), columns, strict=True)
    )
    details = (
        _coverage(attributes, identity),
        *more,
        *(_find(attributes, figure) for figure in ("sex agrees, adults", "age error", *EXPRESSION)),
    )
    return Compared(name, attacks, _find(attributes, "attributes kept"), details, seconds)


def untouched(identity: Evaluation) -> Compared:
    """Return the attacks on untouched originals."""
    tpr, rank = (_find(identity, ORIGINALS, column) for column in (_tpr(identity), "rank-1"))
    return Compared("nothing done", (tpr, rank, rank), Figure("attributes kept", 1.0))


def worst_attack(tool: Compared) -> float | None:
    """Return the largest share of people re-identified by one of `ATTACKS`; None if none was measured."""
    return max((figure.value for figure in tool.attacks if figure.value is not None), default=None)


def corner_distance(tool: Compared) -> float | None:
    """Return the distance from the ideal corner, 0 to the root of 2; None if not measured."""
    share = worst_attack(tool)
    if share is None or tool.kept is None or tool.kept.value is None:
        return None
    return hypot(share, 1 - tool.kept.value)


def as_near(tools: Sequence[Compared], ours: Compared) -> list[str]:
    """Return the names of other tools that are as near to the ideal corner as ours, or nearer.

    Raises:
        ValueError: ours was not measured.
    """
    own = corner_distance(ours)
    if own is None:
        raise ValueError(f"{ours.name}: not measured")
    distances = [(tool.name, corner_distance(tool)) for tool in tools if tool.name != ours.name]
    return [name for name, distance in distances if distance is not None and distance <= own]


def markdown(tools: Sequence[Compared]) -> str:
    """Format a Markdown table, one row per tool, with 95 % intervals of shares."""
    columns = [_title(figure) for figure in max((tool.details for tool in tools), key=len)]
    head = ["", *ATTACKS, "attributes kept", "distance", *columns, "s per face"]
    lines = [head, ["---"] * len(head)]
    for tool in tools:
        distance = corner_distance(tool)
        attacks = tool.attacks or (None,) * len(ATTACKS)
        details = tool.details or (None,) * len(columns)
        cells = [_cell(figure) for figure in (*attacks, tool.kept)]
        cells.append("" if distance is None else f"{distance:.3f}")
        cells += [_cell(figure) for figure in details]
        lines.append([tool.name, *cells, "" if tool.seconds is None else number(tool.seconds, "s")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def frontier(tools: Sequence[Compared], ours: Compared) -> str:
    """Plot privacy against utility as an SVG file."""
    points = []
    for tool in tools:
        if corner_distance(tool) is not None and tool.kept is not None and tool.kept.value is not None:
            worst = max(tool.attacks, key=lambda figure: figure.value or 0.0)
            intervals = worst.interval, tool.kept.interval
            points.append(Point(tool.name, worst.value or 0.0, tool.kept.value, *intervals, tool.name == ours.name))
    return trade_off(points, ours.attacks[-1].chance or 0.0) + "\n"


def _tpr(identity: Evaluation) -> str:
    """Return the column of the TPR at FMR 1e-3, on the photos' threshold or the recogniser's own."""
    columns = dict.fromkeys(figure.column for section in identity.sections for figure in section.figures)
    return next((column for column in columns if column.startswith("TPR at FMR 1e-3")), "")


def _find(evaluation: Evaluation, name: str, column: str = "") -> Figure:
    """Return a figure by name and column, of the first recogniser."""
    figures = (figure for section in evaluation.sections for figure in section.figures)
    match = next((figure for figure in figures if (figure.name, figure.column) == (name, column)), None)
    if match is None:
        raise ValueError(f"{name}, {column}: not measured")
    return match


def _coverage(*evaluations: Evaluation) -> Figure:
    """Return the share of unchanged faces over several evaluations."""
    unchanged, faces = (
        sum(_find(evaluation, name).value or 0.0 for evaluation in evaluations)
        for name in ("unchanged faces", "faces in originals")
    )
    return Figure(f"unchanged faces, of {faces:,.0f}", unchanged / max(faces, 1.0))


def _title(figure: Figure) -> str:
    return figure.name if figure.unit == SHARE else f"{figure.name}, {figure.unit}"


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.value is None:
        return "-"
    text = number(figure.value, figure.unit)
    if figure.interval is None or figure.unit != SHARE:
        return text
    return f"{text} ({' to '.join(number(bound, figure.unit).removesuffix(' %') for bound in figure.interval)})"
