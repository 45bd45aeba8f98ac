"""Comparison of tools: closed-form distances, table, plot, and figures of evaluations."""

from dataclasses import replace
from math import sqrt
from xml.etree import ElementTree

import pytest
from comparison import ATTACKS, Compared, as_near, compare, corner_distance, frontier, markdown, untouched, worst_attack

from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.statistics import Figure, missing
from tests.evaluation.measurements import errors, evaluation, face, photo, unit_vectors


def tool(name: str, *attacks: float, kept: float = 1.0) -> Compared:
    figures = tuple(Figure(title, value, interval=(0.0, 1.0)) for title, value in zip(ATTACKS, attacks, strict=True))
    return Compared(name, figures, Figure("attributes kept", kept), (Figure("age error", 5.25, "years"),), 0.5)


SPEED = Compared("fast", seconds=0.1)


@pytest.mark.parametrize(
    ("attacks", "kept", "distance"),
    [
        ((0, 0, 0), 1, 0),
        ((0, 0, 0), 0, 1),
        ((1, 1, 1), 1, 1),
        ((1, 1, 1), 0, sqrt(2)),
        ((0.1, 0.3, 0.2), 0.6, 0.5),
        ((0.1, 0.2, 0.3), 0.6, 0.5),
    ],
)
def test_corner_distance(attacks, kept, distance):
    assert worst_attack(tool("a", *attacks)) == max(attacks)
    assert corner_distance(tool("a", *attacks, kept=kept)) == pytest.approx(distance)


def test_unmeasured_tools_have_no_distance():
    unknown = replace(tool("b", 0, 0, 0), kept=missing("attributes kept", "share", "no face"))
    assert corner_distance(SPEED) is None
    assert corner_distance(unknown) is None
    ours = tool("ours", 0.1, 0.1, 0.1, kept=0.9)
    assert as_near([SPEED, unknown, ours], ours) == []
    with pytest.raises(ValueError, match="fast: not measured"):
        as_near([ours], SPEED)


def test_as_near():
    ours = tool("ours", 0.2, 0, 0, kept=1)
    tools = [ours, tool("tie", 0, 0.2, 0, kept=1), tool("farther", 0.3, 0, 0, kept=1), tool("nearer", 0, 0, 0.1)]
    assert as_near(tools, ours) == ["tie", "nearer"]


def test_markdown():
    lines = markdown([tool("a", 0.01, 0.5, 0.25, kept=0.8), SPEED]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[0].endswith("| distance | age error, years | s per face |")
    assert lines[2] == (
        "| a | 1.0 % (0.0 to 100.0) | 50.0 % (0.0 to 100.0) | 25.0 % (0.0 to 100.0) | 80.0 % | 0.539 | 5.25 | 0.50 |"
    )
    assert lines[3] == "| fast |  |  |  |  |  |  | 0.10 |"


def test_frontier_is_standalone_svg():
    ours = tool("ours & co", 0.02, 0.04, 0.03, kept=0.8)
    tools = [tool("box", 0, 0, 0, kept=0), tool("blur", 0, 0.01, 0, kept=0), ours, SPEED]
    svg = frontier(tools, ours)
    assert frontier(tools, ours) == svg
    drawing = ElementTree.fromstring(svg)
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    words = {text.text: text.get("transform") or text.get("y") for text in drawing.iter(f"{drawing.tag[:-3]}text")}
    assert {"ours & co", "box", "blur"} <= words.keys()
    assert "fast" not in words
    assert len({words[name] for name in ("ours & co", "box", "blur")}) == 3


def evaluated(people: int, photos_each: int):
    """Evaluate results whose embeddings are independent of the originals; the first face is unchanged."""
    vectors = unit_vectors(people, 3, 16)
    readings = Reading(30, 0.9), Reading(33, 0.8)
    return evaluation(
        [
            photo(
                f"p{p}_{k}",
                f"p{p}",
                face(*vectors[p, [0, 1 + k]], mesh=errors(smile=0.05), readings=readings, unchanged=p == k == 0),
            )
            for p in range(people)
            for k in range(photos_each)
        ]
    )


def test_compare_takes_figures_of_evaluations():
    identity, attributes = evaluated(80, 2), evaluated(12, 1)
    compared = compare("a", identity, attributes, 0.3, [Figure("yaw error", 4.0, "degrees")])
    section = next(section for section in identity.sections if section.title == "Re-identification by planted")
    figures = {(figure.name, figure.column): figure for figure in section.figures}
    tpr = next(column for _, column in figures if column.startswith("TPR at FMR 1e-3"))
    assert compared.attacks == (figures["naive", tpr], figures["naive", "rank-1"], figures["parrot", "rank-1"])
    assert compared.kept.value == 1
    values = {figure.name: figure.value for figure in compared.details}
    assert values["unchanged faces, of 172"] == pytest.approx(2 / 172)
    assert (values["yaw error"], values["age error"], values["sex agrees, adults"]) == (4, 3, 1)
    assert values["smile error"] == pytest.approx(0.05)
    ceiling = untouched(identity)
    assert [figure.value for figure in ceiling.attacks] == [
        figures["originals", column].value for column in (tpr, "rank-1", "rank-1")
    ]
    assert corner_distance(ceiling) == max(figure.value for figure in ceiling.attacks)


def test_compare_needs_two_photos_per_person():
    single = evaluated(12, 1)
    with pytest.raises(ValueError, match="not measured"):
        compare("a", single, single, None)
