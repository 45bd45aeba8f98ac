"""Several tools in one table: the rule's closed-form cases, and figures taken from real evaluations."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from xml.etree import ElementTree

import numpy as np
import pytest
from comparison import (
    ATTACKS,
    Compared,
    as_near,
    compare,
    corner_distance,
    frontier,
    markdown,
    untouched,
    worst_attack,
)

from deid_diffusion.evaluation import evaluate
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Matching
from deid_diffusion.evaluation.statistics import Figure, missing
from tests.evaluation.looks import errors, face, judges, photo


class Named:
    name, threshold = "planted", 0.9


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
def test_distance_is_from_the_worst_attack_and_what_is_lost(attacks, kept, distance):
    assert worst_attack(tool("a", *attacks)) == max(attacks)
    assert corner_distance(tool("a", *attacks, kept=kept)) == pytest.approx(distance)


def test_what_was_not_judged_has_no_distance_and_is_no_rival():
    unknown = replace(tool("b", 0, 0, 0), kept=missing("attributes kept", "share", "no face"))
    assert corner_distance(SPEED) is None
    assert corner_distance(unknown) is None
    ours = tool("ours", 0.1, 0.1, 0.1, kept=0.9)
    assert as_near([SPEED, unknown, ours], ours) == []
    with pytest.raises(ValueError, match="fast: was not judged"):
        as_near([ours], SPEED)


def test_a_tool_as_near_as_ours_is_named():
    ours = tool("ours", 0.2, 0, 0, kept=1)
    tools = [ours, tool("tie", 0, 0.2, 0, kept=1), tool("farther", 0.3, 0, 0, kept=1), tool("nearer", 0, 0, 0.1)]
    assert as_near(tools, ours) == ["tie", "nearer"]


def test_table_has_a_row_a_tool_and_a_cell_a_column():
    lines = markdown([tool("a", 0.01, 0.5, 0.25, kept=0.8), SPEED]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[0].endswith("| distance | age error, years | s a face |")
    assert lines[2] == (
        "| a | 1.0 % (0.0 to 100.0) | 50.0 % (0.0 to 100.0) | 25.0 % (0.0 to 100.0) | 80.0 % | 0.539 | 5.25 | 0.50 |"
    )
    assert lines[3] == "| fast |  |  |  |  |  |  | 0.10 |"


def test_plot_is_a_file_of_its_own_with_every_judged_tool():
    ours = tool("ours & co", 0.02, 0.04, 0.03, kept=0.8)
    svg = frontier([tool("box", 0, 0, 0, kept=0), tool("blur", 0, 0.01, 0, kept=0), ours, SPEED], ours)
    drawing = ElementTree.fromstring(svg)
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    words = {one.text: float(one.get("y")) for one in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"ours & co", "box", "blur"} <= words.keys()
    assert "fast" not in words
    assert abs(words["box"] - words["blur"]) >= 12  # names of dots in one place can both be read
    dots = [(one.get("cx"), one.get("cy")) for one in drawing.iter("{http://www.w3.org/2000/svg}circle")]
    ties = [one for one in drawing.iter("{http://www.w3.org/2000/svg}line") if (one.get("x1"), one.get("y1")) in dots]
    assert {float(one.get("y2")) + 4 for one in ties} & {words["box"], words["blur"]}  # the one that was moved


def evaluated(people: int, each: int):
    """Photos of people whose results look like their originals' neighbours; the first face was left."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(people, 3, 16))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    looks = [
        photo(
            f"p{p}_{k}",
            f"p{p}",
            face(
                rows[p, 0],
                rows[p, 1 + k],
                mesh=errors(smile=0.05),
                readings=(Reading(30, 0.9), Reading(33, 0.8)),
                left=p == k == 0,
            ),
        )
        for p in range(people)
        for k in range(each)
    ]
    jury = replace(judges(Named()), reader=Named())
    matching = Matching(tuple(one.pair for one in looks), (), (), True)
    identity = evaluate.reidentify(looks, 0, Named())
    return evaluate._sum_up(looks, [identity], jury, matching, {}, None, {}, [])


def test_figures_are_those_of_the_evaluations():
    identity, attributes = evaluated(80, 2), evaluated(12, 1)
    found = compare("a", identity, attributes, 0.3, [Figure("yaw error", 4.0, "degrees")])
    section = next(one for one in identity.sections if one.title == "Re-identification by planted")
    at = {(one.name, one.column): one for one in section.figures}
    tpr = next(column for _, column in at if column.startswith("TPR at FMR 1e-3"))
    assert found.attacks == (at["naive", tpr], at["naive", "rank-1"], at["parrot", "rank-1"])
    assert found.kept.value == 1
    values = {one.name: one.value for one in found.details}
    assert values["faces left, of 172"] == pytest.approx(2 / 172)
    assert (values["yaw error"], values["age error"], values["sex agrees, adults"]) == (4, 3, 1)
    assert values["smile error"] == pytest.approx(0.05)
    whole = untouched(identity)
    assert [one.value for one in whole.attacks] == [at["originals", c].value for c in (tpr, "rank-1", "rank-1")]
    assert corner_distance(whole) == max(one.value for one in whole.attacks)


def test_people_of_one_photo_cannot_be_compared():
    alone = evaluated(12, 1)
    with pytest.raises(ValueError, match="was not measured"):
        compare("a", alone, alone, None)
