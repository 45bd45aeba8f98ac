"""`deid-diffusion attack` as a user meets it, with a detector and a recogniser that read colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deid_diffusion.results import FaceRecord, ImageRecord
from tests.colour_judges import OTHERS, PEOPLE, TWO_EACH, replace_judges, write_photos


@pytest.fixture(autouse=True)
def _fakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEID_DEBUG", raising=False)
    replace_judges(monkeypatch)


def table(out: list[str]) -> dict[str, list[str]]:
    """Name of each attack -> the words of its line."""
    start = next(k for k, line in enumerate(out) if line.startswith("attack "))
    rows = out[start + 1 : out.index("", start)]
    return {line[:18].strip(): line[18:].split() for line in rows}


def test_unchanged_photos_are_known_again(call):
    write_photos("in", TWO_EACH)
    write_photos("out", {name.replace(".png", ".webp"): colour for name, colour in TWO_EACH.items()})
    code, out, err = call("attack", "in", "out", "--parrot", "-o", "report.json")
    assert code == 0
    assert err[-1] == "6/6 photos"
    assert out[:3] == [
        "6 photos of 3 people, 3 of them with two or more",
        "no face found in 0 originals (left out) and 0 results (not matched)",
        "colour, threshold 0.9900, its own, for a false match rate of 0.10% (12 pairs of different people)",
    ]
    found = table(out)
    assert list(found) == ["originals", "naive, same photo", "naive", "reverse", "parrot", "linkability"]
    assert found["naive"][0] == found["reverse"][1] == found["parrot"][1] == found["linkability"][0] == "100.0%"
    assert "colour also guards the gate" in out[-3]
    assert "deid_diffusion.evaluation.attacks" in out[-2]
    assert out[-1] == "report.json"
    report = json.loads(Path("report.json").read_text())
    assert (report["recogniser"], report["people"], report["threshold_given"]) == ("colour", 3, True)
    assert [one["name"] for one in report["attacks"]] == list(found)
    assert report["attacks"][2]["rank1"]["value"] == 1
    assert report["attacks"][2]["rank1"]["chance"] == pytest.approx(1 / 3)


def test_exchanged_faces_are_not(call):
    write_photos("in", TWO_EACH)
    write_photos("out", OTHERS)
    code, out, _ = call("attack", "in", "out", "--no-parrot")
    assert code == 0
    found = table(out)
    assert "parrot" not in found
    assert found["naive"][0] == found["reverse"][1] == "0.0%"
    assert found["linkability"][0] == "100.0%"


def test_nobody_with_two_photos(call):
    write_photos("in", {f"{name}.png": colour for name, colour in PEOPLE.items()})
    write_photos(
        "out", {"ada.png": PEOPLE["ada"], "bob.png": PEOPLE["eve"], "eve.png": (0, 0, 0), "more.png": (1, 1, 1)}
    )
    code, out, _ = call("attack", "in", "out")
    assert code == 0
    assert out[0] == "1 photo is in one folder only, and left out"
    assert "no face found in 0 originals (left out) and 1 results (not matched)" in out
    assert "a face that no detector finds is not safe for that: --known-place attacks it, too" in out
    assert "nobody has two photos: a result can only be compared with its own original" in out
    assert {name: words[0] for name, words in table(out).items()} == {"naive, same photo": "33.3%"}
    out = call("attack", "in", "out", "--known-place")[1]
    assert "no face found in 0 originals (left out) and 1 results (judged at the place of the original)" in out


def test_people_by_an_expression(call):
    write_photos("in", {"1-ada-x.png": PEOPLE["ada"], "2-ada-y.png": PEOPLE["ada"], "3-bob-z.png": PEOPLE["bob"]})
    code, out, _ = call("attack", "in", "in", "--people", r"-(\w+)-")
    assert code == 0
    assert out[0] == "3 photos of 2 people, 1 of them with two or more"
    assert table(out)["naive"][0] == "100.0%"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none", "in"], "none: is no folder that can be read (No such file"),
        (["empty", "in"], "empty: holds no photo"),
        (["in", "other"], "in and other: no photo of one has the name"),
        (["in", "in", "--people", "("], "--people (: is no regular expression"),
        (["in", "in", "--people", ".*"], "--people .*: has 0 groups"),
        (["in", "in", "--people", "(x)"], "--people (x): finds nobody in the name ada_0"),
        (["in", "in", "--people", "(_)"], "in: all names say that the person is _: give --people"),
        (["in", "double"], "ada_0.png: two photos of one name"),
        (["black", "black"], "originals: faces of 0 people found"),
        (["in", "in", "-o", "there.json"], "there.json: exists already"),
        (["in", "in", "-o", "no/report.json"], "no/report.json: its folder does not exist"),
    ],
)
def test_bad_usage_is_one_line(call, arguments, words):
    write_photos("in", TWO_EACH)
    write_photos("other", {"a_0.png": (9, 9, 9)})
    write_photos("double", {"ada_0.jpg": (9, 9, 9), "ada_0.png": (9, 9, 9)})
    write_photos("black", dict.fromkeys(TWO_EACH, (0, 0, 0)))
    Path("empty").mkdir()
    Path("there.json").touch()
    code, out, err = call("attack", *arguments)
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ")
    assert words in err[-1]
    assert all("photos" in line for line in err[:-1])  # progress


def test_a_report_of_everything(call):
    write_photos("in", TWO_EACH)
    write_photos("out", OTHERS | {"more.png": (9, 9, 9)})
    Path("labels.csv").write_text("file,age\n" + "".join(f"{name},{name[4]}0-{name[4]}9\n" for name in TWO_EACH))
    face = FaceRecord((10, 10, 30, 32), "fake", 0.9, "replaced", 1, True)
    lines = (ImageRecord(f"in/{name}", name, "done", faces=(face,), seconds=1.5).to_json() for name in TWO_EACH)
    Path("run.jsonl").write_text("\n".join(lines))
    code, out, err = call("evaluate", "in", "out", "--labels", "labels.csv", "--reports", "run.jsonl", "-o", "report")
    assert (code, err[-1]) == (0, "6/6 photos")
    assert out[-1] == "report.html and report.json"
    text = "\n".join(out)
    assert text.index("Coverage") < text.index("Re-identification by colour") < text.index("By age")
    assert any(line.startswith("note: colour also guards the gate") and "--recogniser" in line for line in out)
    assert "note: 1 result without original, left out: more" in out
    figures = json.loads(Path("report.json").read_text())
    assert "worst" not in figures
    head = {one["name"]: one["value"] for one in figures["headline"]}
    assert (head["share of faces left"], head["re-identified (naive)"], head["time a face"]) == (0, 0, 1.5)
    assert [(one["column"], one["value"]) for one in figures["groups"]] == [("age", "00-09"), ("age", "10-19")]
    page = Path("report.html").read_text()
    assert "Worst cases" not in page
    assert "out against in" in page


def test_originals_on_demand_and_photos_that_nothing_was_done_to(call):
    write_photos("in", TWO_EACH)
    code, out, _ = call("evaluate", "in", "in", "--show-originals", "-o", "report.html")
    assert code == 0
    assert "note: 6 faces are left as they were, and count as re-identified" in out
    assert "left as it was" in Path("report.html").read_text()


def test_pairs_by_a_table_and_one_photo_each(call):
    write_photos("in", {"a.png": PEOPLE["ada"], "b.png": PEOPLE["bob"]})
    write_photos("out", {"x.png": PEOPLE["eve"], "y.png": PEOPLE["eve"]})
    Path("pairs.csv").write_text("original,result,person\na.png,x.png,p\nb.png,y.png,q\n")
    code, out, _ = call("evaluate", "in", "out", "--pairs", "pairs.csv", "-o", "report")
    assert code == 0
    assert "note: nobody has two photos: results are compared with their own originals only" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none", "in"], "none: is no folder"),
        (["in", "other"], "in and other: no photo of one has the name"),
        (["in", "one"], "ada_0.png: is the only photo with a result: rates take at least 2"),
        (["black", "black"], "originals: faces of 0 people found, at least 2 are needed"),
        (["in", "in", "--labels", "wrong.csv"], "wrong.csv: no column names the photo: call it file (found: a, b)"),
        (["in", "in", "--pairs", "wrong.csv"], "wrong.csv: lacks the column original and result (found: a, b)"),
        (["in", "in", "--reports", "wrong.csv"], "wrong.csv, line 1: is no report of anonymize"),
        (["in", "in", "--people", "("], "--people (: is no regular expression"),
        (["in", "in", "--recogniser", "no.onnx"], "no.onnx: is not there: name an ONNX file"),
        (["in", "in", "--attributes", "wrong.csv"], "wrong.csv: cannot be loaded"),
        (["in", "in", "-o", "there"], "there.html: exists already: choose another name with -o"),
        (["in", "in", "-o", "no/report"], "no/report: its folder does not exist"),
        (["in", "broken"], "broken/ada_0.png: is not a photo"),
    ],
)
def test_bad_usage_of_evaluate_is_one_line(call, arguments, words):
    write_photos("in", TWO_EACH)
    write_photos("other", {"x.png": (9, 9, 9)})
    write_photos("one", {"ada_0.png": (9, 9, 9)})
    write_photos("black", dict.fromkeys(TWO_EACH, (0, 0, 0)))
    Path("broken").mkdir()
    for name in TWO_EACH:
        (Path("broken") / name).write_bytes(b"no photo")
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("there.html").touch()
    code, out, err = call("evaluate", *arguments, *([] if "-o" in arguments else ["-o", "report"]))
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ")
    assert words in err[-1]
    assert all("photos" in line for line in err[:-1])  # progress
    assert not Path("report.html").exists()
