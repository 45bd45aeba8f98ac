from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.evaluate import collect_worst, evaluate, has_pseudonyms, read_records, record_section
from deid_diffusion.evaluation.measure import Evaluators
from deid_diffusion.evaluation.pairing import Labels, match_folders, with_people
from deid_diffusion.faces.semantic_map import mean_mesh
from deid_diffusion.results import FaceRecord, ImageRecord
from tests.colour_evaluators import PEOPLE, TWO_EACH, Colour, OneFace, write_photos
from tests.evaluation.measurements import NO_METER, errors, face, photo

EVALUATORS = Evaluators(OneFace(), lambda crop: mean_mesh(320, None).astype(np.float32), (Colour(),), None, NO_METER)


def record(name: str, *actions: str, seconds: float = 1.0, status: str = "done", pseudonym: str | None = None):
    faces = tuple(FaceRecord((10, 10, 30, 32), "d", 0.9, action, None, True, pseudonym=pseudonym) for action in actions)
    return ImageRecord(f"in/{name}.jpg", f"{name}.png", status, faces=faces, gate="dlib", seconds=seconds)


def test_record_section(tmp_path):
    records = [record("a", seconds=9), record("a", "replaced", "covered", seconds=3.0), record("b", "replaced")]
    records += [record("c", status="failed"), record("z")]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(item.to_json() + "\n" for item in records))
    selected = read_records(path, ["a", "b", "c"])
    assert sorted(selected) == ["a", "b", "c"]
    section = record_section(selected, {name: name for name in "abc"})
    counts = {"photos in the record": 3, "failed": 1, "faces replaced": 2, "faces covered": 1}
    times = {"time per photo": 2, "time per face": 1.25}
    assert {figure.name: figure.value for figure in section.figures} == counts | times
    assert section.summary == "From the run's report. Verified by: dlib."
    assert not has_pseudonyms(selected)
    assert has_pseudonyms({"a": record("a", "replaced", pseudonym="x")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (record("b").to_json(), "no record of these photos"),
        ('{"no": 1}\n', r"r\.jsonl, line 1: not a record of anonymize --report"),
        (None, "cannot be read"),
    ],
)
def test_unusable_records(tmp_path, text, message):
    path = tmp_path / "r.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_records(path, ["a"])


def test_order_of_worst_cases():
    photos = [
        photo("far", "a", face()),
        photo("blind", "b", face(mesh=errors(yaw=90.0))),
        photo("near", "c", face()),
        photo("unchanged", "d", face(unchanged=True)),
        photo("empty", "e", None),
    ]
    identity = SimpleNamespace(recogniser="colour", margins=np.array([-0.25, -np.inf, 0.125, np.inf, -np.inf]))
    assert [(case.name, case.reason) for case in collect_worst(photos, identity, with_reader=False)] == [
        ("unchanged", "unchanged"),
        ("near", "most similar by colour, 0.125 above the threshold: re-identified"),
        ("far", "most similar by colour, 0.250 below the threshold"),
        ("blind", "kept 83% of the attributes"),
    ]


@pytest.fixture
def folders(tmp_path):
    write_photos(tmp_path / "in", TWO_EACH)
    others = {"ada": PEOPLE["bob"], "bob": PEOPLE["eve"], "eve": (0, 0, 0)}
    write_photos(tmp_path / "out", {name: others[name[:3]] for name in TWO_EACH})
    return tmp_path


def matched(folder, results="out"):
    return with_people(match_folders(folder / "in", folder / results), None, None)


def headline(evaluation) -> dict[str, float]:
    return {figure.name: figure.value for figure in evaluation.headline}


NAMES = [name.removesuffix(".png") for name in TWO_EACH]
LABELS = Labels(("size",), {name: {"size": name[-1]} for name in NAMES})


def test_replaced_and_covered_faces(folders):
    steps = []
    records = {name: record(name, "replaced", seconds=2.0, pseudonym="p") for name in NAMES}
    options = {"labels": LABELS, "records": records, "notes": ["first"], "progress": lambda *step: steps.append(step)}
    evaluation = evaluate(matched(folders), EVALUATORS, {}, **options)
    assert steps == [(k, 6) for k in range(7)]
    assert (evaluation.photos, evaluation.people, evaluation.worst) == (6, 3, ())
    assert evaluation.notes[0] == "first"
    assert "generated with a key: pseudonymised, so parrot and linkability are high on purpose" in evaluation.notes
    privacy, two_thirds = {"share of unchanged faces": 0, "re-identified (naive)": 0}, pytest.approx(2 / 3)
    utility = {"attributes kept": two_thirds, "face detected in the result": two_thirds, "time per face": 2}
    assert headline(evaluation) == privacy | utility
    groups = [(group.column, group.value, group.photos) for group in evaluation.groups]
    assert groups == [("size", "0", 3), ("size", "1", 3)]
    assert [attribute.name for attribute in evaluation.scatters] == ["yaw", "pitch"]
    assert evaluation.ceiling == 1
    titles = [section.title for section in evaluation.sections]
    assert (titles[0], titles[-1]) == ("Coverage", "Record and speed")


def test_attacks_only(folders):
    complete, attacks = (
        evaluate(matched(folders), replace(EVALUATORS, meter=None), {}, labels=LABELS, attacks_only=attacks_only)
        for attacks_only in (False, True)
    )
    assert attacks.sections == complete.sections[:2]
    assert attacks.headline == complete.headline[:2]
    assert [group.figures for group in attacks.groups] == [group.figures[:1] for group in complete.groups]
    assert attacks.scatters == ()


def test_unchanged_photos(folders):
    evaluation = evaluate(matched(folders, "in"), EVALUATORS, {}, keep_crops=True)
    values = headline(evaluation)
    assert values["share of unchanged faces"] == values["re-identified (naive)"] == values["attributes kept"] == 1
    assert "unchanged faces: 6; they count as re-identified" in evaluation.notes
    assert [case.reason for case in evaluation.worst] == ["unchanged"] * 6


def test_two_people_are_needed(folders):
    with pytest.raises(UsageError, match="faces of 0 people detected, at least 2 are needed"):
        evaluate(matched(folders), replace(EVALUATORS, detector=lambda image: []), {})
