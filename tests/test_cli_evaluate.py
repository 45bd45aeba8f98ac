"""`deid-diffusion evaluate` as a user meets it, with a detector and a recogniser that read colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deid_diffusion.report import FaceRecord, ImageReport

from .colour_judges import OTHERS, PEOPLE, TWO_EACH, replace_judges, write_photos


@pytest.fixture(autouse=True)
def _fakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEID_DEBUG", raising=False)
    replace_judges(monkeypatch)


def test_a_report_of_everything(call):
    write_photos("in", TWO_EACH)
    write_photos("out", OTHERS | {"more.png": (9, 9, 9)})
    Path("labels.csv").write_text("file,age\n" + "".join(f"{name},{name[4]}0-{name[4]}9\n" for name in TWO_EACH))
    face = FaceRecord((10, 10, 30, 32), "fake", 0.9, "replaced", 1, True)
    lines = (ImageReport(f"in/{name}", name, "done", faces=(face,), seconds=1.5).to_json() for name in TWO_EACH)
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
def test_bad_usage_is_one_line(call, arguments, words):
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
