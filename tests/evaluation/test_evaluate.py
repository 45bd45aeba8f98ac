"""The record of the run: speed, actions, keys."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.evaluate import evaluate, keyed, read_reports, record_section, worst_of
from deid_diffusion.evaluation.measure import Evaluators, mesh_errors
from deid_diffusion.evaluation.pairing import Labels, match_folders, with_people
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.results import FaceRecord, ImageRecord
from tests.colour_judges import PEOPLE, TWO_EACH, Colour, OneFace, write_photos
from tests.evaluation.looks import NO_METER, errors, face, photo


def report(name: str, *actions: str, seconds: float = 1.0, status: str = "done", pseudonym: str | None = None):
    faces = tuple(FaceRecord((0, 0, 9, 9), "d", 0.9, action, None, True, pseudonym=pseudonym) for action in actions)
    return ImageRecord(f"in/{name}.jpg", f"{name}.png", status, faces=faces, gate="dlib", seconds=seconds)


def write(path, *reports):
    path.write_text("".join(one.to_json() + "\n" for one in reports))
    return path


def test_speed_and_actions(tmp_path):
    lines = [report("a", "replaced", "covered", seconds=3.0), report("b", "replaced"), report("c", status="failed")]
    found = read_reports(write(tmp_path / "r.jsonl", report("a", seconds=9), *lines, report("z")), ["a", "b", "c"])
    assert sorted(found) == ["a", "b", "c"]
    section = record_section(found, {name: name for name in "abc"})
    values = {one.name: one.value for one in section.figures}
    assert values == {
        "photos in the record": 3, "failed": 1, "faces replaced": 2, "faces covered": 1,
        "time a photo": 2, "time a face": 1.25,
    }  # fmt: skip
    assert section.summary == "By the report of the run. Gate: dlib."
    assert not keyed(found)
    assert keyed({"a": report("a", "replaced", pseudonym="x")})


def test_files_that_do_not_do(tmp_path):
    path = write(tmp_path / "r.jsonl", report("a"))
    with pytest.raises(UsageError, match="is about none of these photos"):
        read_reports(path, ["b"])
    path.write_text('{"no": 1}\n')
    with pytest.raises(UsageError, match=r"r\.jsonl, line 1: is no report of anonymize"):
        read_reports(path, ["a"])
    with pytest.raises(UsageError, match="cannot be read"):
        read_reports(tmp_path / "none", ["a"])


def test_the_likest_come_first_and_what_could_not_be_compared_is_no_likeness():
    looks = [
        photo("far", "a", face()),
        photo("blind", "b", face(mesh=errors(yaw=90.0))),
        photo("near", "c", face()),
        photo("left", "d", face(left=True)),
        photo("empty", "e", None),
    ]
    identity = SimpleNamespace(recogniser="colour", likeness=np.array([-0.25, -np.inf, 0.125, np.inf, -np.inf]))
    assert [(one.name, one.why) for one in worst_of(looks, identity, read=False)] == [
        ("left", "left as it was"),
        ("near", "likest by colour, 0.125 over the threshold: re-identified"),
        ("far", "likest by colour, 0.250 under the threshold"),
        ("blind", "kept 83% of the attributes"),
    ]


class Meter:
    missing = NO_METER.missing
    fid = kid = staticmethod(lambda: None)

    def add(self, first, second):
        return None


JUDGES = Evaluators(OneFace(), lambda crop: mean_mesh(320, None).astype(np.float32), (Colour(),), None, Meter())


@pytest.fixture
def folders(tmp_path):
    write_photos(tmp_path / "in", TWO_EACH)
    others = dict(zip(PEOPLE, [PEOPLE["bob"], PEOPLE["eve"], (0, 0, 0)], strict=True))
    write_photos(tmp_path / "out", {name: others[name[:3]] for name in TWO_EACH})
    return tmp_path


def matched(folder, results="out"):
    return with_people(match_folders(folder / "in", folder / results), None, None)


def test_other_faces_and_covered_ones(folders):
    steps = []
    face = FaceRecord((10, 10, 30, 32), "d", 1.0, "replaced", None, True, pseudonym="p")
    names = [f"{name}_{k}" for name in PEOPLE for k in (0, 1)]
    reports = {name: ImageRecord(f"{name}.png", "x", "done", faces=(face,), seconds=2.0) for name in names}
    labels = Labels(("size",), {f"{name}_{k}": {"size": str(k)} for name in PEOPLE for k in (0, 1)})
    found = evaluate(
        matched(folders), JUDGES, {}, labels=labels, reports=reports, notes=["first"],
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(k, 6) for k in range(7)]
    assert (found.photos, found.people, found.worst) == (6, 3, ())
    assert found.notes[0] == "first"
    assert "made with a key: pseudonymised, so parrot and linkability are high on purpose" in found.notes
    head = {one.name: one.value for one in found.headline}
    assert head == {
        "share of faces left": 0, "re-identified (naive)": 0, "attributes kept": pytest.approx(2 / 3),
        "face found again": pytest.approx(2 / 3), "time a face": 2,
    }  # fmt: skip
    assert [(one.column, one.value, one.photos) for one in found.groups] == [("size", "0", 3), ("size", "1", 3)]
    assert [one.name for one in found.scatters] == ["yaw", "pitch"]
    assert found.ceiling == 1
    titles = [section.title for section in found.sections]
    assert titles[0] == "Coverage"
    assert titles[-1] == "Record and speed"


def test_untouched_photos_are_re_identified(folders):
    found = evaluate(matched(folders, "in"), JUDGES, {}, keep_pictures=True)
    head = {one.name: one.value for one in found.headline}
    assert head["share of faces left"] == head["re-identified (naive)"] == head["attributes kept"] == 1
    assert "6 faces are left as they were, and count as re-identified" in found.notes
    assert [one.why for one in found.worst] == ["left as it was"] * 6


def test_what_cannot_be_evaluated_is_refused(folders):
    def blind(image):
        return []

    with pytest.raises(UsageError, match="faces of 0 people found, at least 2 are needed"):
        evaluate(matched(folders), replace(JUDGES, detector=blind), {})


def test_zero_errors_are_what_the_helper_says():
    mesh = mean_mesh(64, None)
    assert mesh_errors(mesh, mesh) == errors()
