"""Sections from looks of known errors."""

import numpy as np
import pytest
from looks import errors, face, judges, photo

from deid_diffusion.evaluation.onnx_judges import Reading
from deid_diffusion.evaluation.pairing import Labels
from deid_diffusion.evaluation.utility_figures import (
    attribute_section,
    coverage_section,
    group_figures,
    group_values,
    mesh_section,
    quality_section,
)

NAMES = [f"p{k}" for k in range(10)]


class Named:
    name = "planted"


def values(section):
    return {one.name: one for one in section.figures}


def test_coverage_counts_every_face():
    looks = [photo(name, name, face(left=k < 2), faces=3) for k, name in enumerate(NAMES)]
    found = values(coverage_section([*looks, photo("none", "none", None, faces=0)]))
    assert found["faces found in originals"].value == 30
    assert found["faces left as they were"].value == 2
    assert found["faces left as they were"].note == "p0, p1"
    assert found["share of faces left"].value == pytest.approx(2 / 30)
    assert found["photos with a face left"].value == pytest.approx(2 / 11)
    assert found["photos without any face"].value == 1


def test_attributes_by_a_reader():
    readings = [(Reading(10.0 + 10 * k, 0.9), Reading(15.0 + 10 * k, 0.9 if k < 6 else 0.1)) for k in range(9)]
    faces = [face(readings=pair) for pair in readings] + [face(found=False)]
    labels = Labels(("gender",), {name: {"gender": "Female" if k < 8 else "Male"} for k, name in enumerate(NAMES)})
    found = values(attribute_section(faces, NAMES, NAMES, labels, "reader"))
    assert found["sex agrees, everybody"].value == pytest.approx(6 / 9)
    assert found["sex agrees, adults"].value == pytest.approx(5 / 8)
    assert (found["age error"].value, found["age drift"].value) == (5, 5)
    assert found["reader agrees with the labels, originals"].value == pytest.approx(8 / 9)
    assert found["face found again"].value == pytest.approx(0.9)
    assert "age 10 years" in found["attributes kept"].note


def test_attributes_without_a_reader_are_missing_and_say_so():
    found = values(attribute_section([face()], ["a"], ["a"], None, None))
    assert found["age error"].value is None
    assert "--attributes" in found["sex agrees"].note
    assert found["attributes kept"].value == 1


def test_mesh_errors_are_means():
    faces = [face(mesh=errors(yaw=2.0 * k, landmarks=0.05, gaze=None)) for k in range(3)] + [face(found=False)]
    found = values(mesh_section(faces, list("abcd")))
    assert (found["yaw error"].value, found["yaw error"].trials, found["yaw error"].unit) == (2, 3, "degrees")
    assert found["landmark error"].value == pytest.approx(5)
    assert found["gaze error"].value is None


def test_quality_and_the_stand_ins():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 2, 8))
    faces = [face(*row / np.linalg.norm(row, axis=1, keepdims=True)) for row in rows]
    people = [str(k) for k in range(40)]
    looks = [photo(who, who, one, outside=5.0 * (who == "3")) for who, one in zip(people, faces, strict=True)]
    found = values(quality_section(looks, faces, people, judges(Named())))
    assert found["sharpness ratio"].value == pytest.approx(2)
    assert (found["detector score ratio"].value, found["rim step"].value, found["SSIM of the face"].value) == (
        0.5,
        0.5,
        0.7,
    )
    assert found["photos unchanged outside faces"].value == pytest.approx(39 / 40)
    assert found["largest difference outside faces"].value == 5
    assert found["mean difference outside faces"].value == pytest.approx(0.5 / 40)
    assert (found["FID"].value, found["FID"].note) == (None, "not here")
    distance = found["Fréchet distance, planted"]
    assert distance.interval[0] <= distance.value <= distance.interval[1]
    assert "stands in for FID" in distance.note
    low, high = found["kernel distance, planted"].interval
    assert low < 0 < high
    few = values(quality_section(looks[:5], faces[:5], people[:5], judges(Named())))
    assert few["kernel distance, planted"].note == "takes 30 faces, there are 5"


def test_groups_are_in_the_order_of_their_numbers():
    ages = ["10-19", "3-9", "", "70+", "3-9"]
    labels = Labels(("age",), {name: {"age": age} for name, age in zip(NAMES, ages, strict=False)})
    groups = group_values(NAMES[:5], labels)
    assert [(column, value, mask.tolist().count(True)) for column, value, mask in groups] == [
        ("age", "3-9", 2),
        ("age", "10-19", 1),
        ("age", "70+", 1),
    ]
    figures = group_figures([face(), face(found=False)], ["a", "b"], read=True)
    assert [one.name for one in figures] == [
        "attributes kept",
        "face found again",
        "yaw error",
        "sex agrees",
        "age error",
    ]
    assert figures[1].value == 0.5
