"""The whole evaluation, over photos on the disk and judges that read colours."""

from dataclasses import replace

import numpy as np
import pytest
from looks import NO_METER, errors

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.evaluation import evaluate
from deid_diffusion.evaluation.look import Judges
from deid_diffusion.evaluation.mesh_errors import mesh_errors
from deid_diffusion.evaluation.pairing import Labels, match_folders, with_people
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.report import FaceRecord, ImageReport
from tests.colour_judges import PEOPLE, TWO_EACH, Colour, OneFace, write_photos


class Meter:
    missing = NO_METER.missing
    fid = kid = staticmethod(lambda: None)

    def add(self, first, second):
        return None


JUDGES = Judges(OneFace(), lambda crop: mean_mesh(320, None).astype(np.float32), (Colour(),), None, Meter())


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
    reports = {name: ImageReport(f"{name}.png", "x", "done", faces=(face,), seconds=2.0) for name in names}
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
