"""Several tools on the same photos: one table, one plot, and how far each tool is from the ideal corner.

The rule. Privacy is the worst, for the people in the photos, of three attacks: a result compared with another original
of the person (TPR at FMR 1e-3), searched among originals (naive rank-1), and searched among results of the same tool
(parrot rank-1). Utility is the share of attributes kept, as `kept` has it. Both go from 0 to 1. A tool's distance is
that from the corner where nobody is re-identified and every attribute is kept; where nothing is done to the photos it
is about 1, where nothing is left of the faces it is 1 or a little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot

from deid_diffusion.evaluation.attacks import NAIVE, ORIGINALS, PARROT
from deid_diffusion.evaluation.charts import COLOURS, Dot, trade_off
from deid_diffusion.evaluation.evaluate import Evaluation
from deid_diffusion.evaluation.statistics import SHARE, Figure, number

ATTACKS = ("naive, TPR at FMR 1e-3", "naive, rank-1", "parrot, rank-1")
"""Columns of the attacks that the rule takes the worst of."""

EXPRESSION = ("smile error", "mouth open error", "eyes open error")
"""Figures of an evaluation that say how far the expression is off."""


@dataclass(frozen=True)
class Compared:
    """What is known of one tool.

    Attributes:
        name: of the tool and its settings.
        attacks: in the order of `ATTACKS`; empty for a tool of which only the speed was measured.
        kept: the share of attributes kept; None likewise.
        details: further columns of the table, the same for all tools.
        seconds: a face, or None.
    """

    name: str
    attacks: tuple[Figure, ...] = ()
    kept: Figure | None = None
    details: tuple[Figure, ...] = ()
    seconds: float | None = None


def compare(
    name: str, identity: Evaluation, attributes: Evaluation, seconds: float | None, more: Sequence[Figure] = ()
) -> Compared:
    """Bring together what two evaluations of a tool's results say.

    Args:
        name: of the tool.
        identity: of photos of people of whom there are two or more.
        attributes: of photos of which attributes were read.
        seconds: a face.
        more: further columns, put before those of the attributes.

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
        *(_find(attributes, one) for one in ("sex agrees, adults", "age error", *EXPRESSION)),
    )
    return Compared(name, attacks, _find(attributes, "attributes kept"), details, seconds)


def untouched(identity: Evaluation) -> Compared:
    """What the judges say of originals that nothing was done to: the attacks alone."""
    tpr, rank = (_find(identity, ORIGINALS, column) for column in (_tpr(identity), "rank-1"))
    return Compared("nothing done", (tpr, rank, rank), Figure("attributes kept", 1.0))


def worst_attack(tool: Compared) -> float | None:
    """The largest share of people that one of `ATTACKS` re-identifies; None where none was measured."""
    return max((one.value for one in tool.attacks if one.value is not None), default=None)


def corner_distance(tool: Compared) -> float | None:
    """How far the tool is from the ideal corner, 0 to the root of 2, by the rule above; None if it was not judged."""
    found = worst_attack(tool)
    if found is None or tool.kept is None or tool.kept.value is None:
        return None
    return hypot(found, 1 - tool.kept.value)


def as_near(tools: Sequence[Compared], ours: Compared) -> list[str]:
    """Names of the other tools that are as near to the ideal corner as ours, or nearer.

    Raises:
        ValueError: ours was not judged.
    """
    own = corner_distance(ours)
    if own is None:
        raise ValueError(f"{ours.name}: was not judged")
    away = [(one.name, corner_distance(one)) for one in tools if one.name != ours.name]
    return [name for name, distance in away if distance is not None and distance <= own]


def markdown(tools: Sequence[Compared]) -> str:
    """A Markdown table, one row a tool, with 95 % intervals where a share has one."""
    columns = [_title(one) for one in max((tool.details for tool in tools), key=len)]
    head = ["", *ATTACKS, "attributes kept", "distance", *columns, "s a face"]
    lines = [head, ["---"] * len(head)]
    for tool in tools:
        away = corner_distance(tool)
        attacks = tool.attacks or (None,) * len(ATTACKS)
        details = tool.details or (None,) * len(columns)
        cells = [_cell(one) for one in (*attacks, tool.kept)]
        cells.append("" if away is None else f"{away:.3f}")
        cells += [_cell(one) for one in details]
        lines.append([tool.name, *cells, "" if tool.seconds is None else number(tool.seconds, "s")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def frontier(tools: Sequence[Compared], ours: Compared) -> str:
    """The plot of privacy against utility as an SVG file of its own."""
    dots = []
    for tool in tools:
        found = worst_attack(tool)
        if found is not None and tool.kept is not None and tool.kept.value is not None:
            worst = max(tool.attacks, key=lambda one: one.value or 0.0)
            colour = COLOURS[0] if tool.name == ours.name else COLOURS[4]
            dots.append(Dot(tool.name, found, tool.kept.value, colour, worst.interval, tool.kept.interval))
    chance = ours.attacks[-1].chance or 0.0
    style = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" style="background:#fff"'
    return trade_off(dots, chance).replace("<svg ", f"<svg {style} ", 1) + "\n"


def _tpr(identity: Evaluation) -> str:
    """The column of the verification figures at FMR 1e-3, whether its threshold is the photos' or given."""
    columns = dict.fromkeys(one.column for section in identity.sections for one in section.figures)
    return next((one for one in columns if one.startswith("TPR at FMR 1e-3")), "")


def _find(found: Evaluation, name: str, column: str = "") -> Figure:
    """A figure by name and column, of the recogniser that comes first."""
    every = (one for section in found.sections for one in section.figures)
    figure = next((one for one in every if one.name == name and one.column == column), None)
    if figure is None:
        raise ValueError(f"{name}, {column}: was not measured")
    return figure


def _coverage(*found: Evaluation) -> Figure:
    """Faces left as they were, of all that were found in the originals of some evaluations."""
    left, faces = (
        sum(_find(one, name).value or 0.0 for one in found)
        for name in ("faces left as they were", "faces found in originals")
    )
    return Figure(f"faces left, of {faces:,.0f}", left / max(faces, 1.0))


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
