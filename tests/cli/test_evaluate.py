"""`deid-diffusion evaluate`, with a detector and a recogniser that read colours."""

import json
import sys
from pathlib import Path

import pytest

from deid_diffusion.results import FaceRecord, ImageRecord
from tests.colour_evaluators import OTHERS, PEOPLE, TWO_EACH, patch_evaluators, write_photos


@pytest.fixture(autouse=True)
def _fakes(workdir, monkeypatch):
    patch_evaluators(monkeypatch)
    write_photos("in", TWO_EACH)


def headline() -> dict[str, float]:
    return {figure["name"]: figure["value"] for figure in json.loads(Path("report.json").read_text())["headline"]}


def test_complete_report(call):
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
    assert any(line.startswith("note: colour also verifies") and "--recogniser" in line for line in out)
    assert "note: 1 result without original, left out: more" in out
    figures = json.loads(Path("report.json").read_text())
    assert "worst" not in figures
    values = headline()
    assert (values["share of unchanged faces"], values["re-identified (naive)"], values["time per face"]) == (0, 0, 1.5)
    assert [(group["column"], group["value"]) for group in figures["groups"]] == [("age", "00-09"), ("age", "10-19")]
    page = Path("report.html").read_text()
    assert "Worst cases" not in page
    assert "out against in" in page


def test_originals_on_demand(call):
    code, out, _ = call("evaluate", "in", "in", "--show-originals", "-o", "report.html")
    assert code == 0
    assert "note: unchanged faces: 6; they count as re-identified" in out
    assert "Worst cases" in Path("report.html").read_text()


def test_pairs_of_single_photos(call):
    write_photos("out", {"x.png": PEOPLE["eve"], "y.png": PEOPLE["eve"]})
    Path("pairs.csv").write_text("original,result,person\nada_0.png,x.png,p\nbob_0.png,y.png,q\n")
    code, out, _ = call("evaluate", "in", "out", "--pairs", "pairs.csv", "-o", "report")
    assert code == 0
    assert "note: nobody has two photos: results are compared with their own originals only" in out


@pytest.mark.parametrize("command", [("evaluate", "--attacks-only"), ("attack", "--no-parrot", "--known-place")])
@pytest.mark.parametrize(("results", "share"), [("in", 1), ("out", 0)])
def test_attacks_only(call, command, results, share):
    write_photos("out", OTHERS)
    code, out, err = call(command[0], "in", results, *command[1:], "-o", "report.json")
    assert (code, err[-1], out[-1]) == (0, "6/6 photos", "report.json")
    assert (err[0] == "attack is now evaluate --attacks-only") == (command[0] == "attack")
    assert headline() == {"share of unchanged faces": share, "re-identified (naive)": share}
    text = "\n".join(out)
    for word in ("originals", "naive", "reverse", "parrot", "linkability"):
        assert word in text
    assert "Attributes" not in text
    assert not Path("report.html").exists()


def test_attacks_only_without_report_packages(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    files = sorted(Path().iterdir())
    code, out, _ = call("evaluate", "in", "in", "--attacks-only", "--people", r"^(\w+)_")
    assert code == 0
    assert any("Re-identification by colour" in line for line in out)
    assert sorted(Path().iterdir()) == files
    code, out, err = call("evaluate", "in", "in", "-o", "report")
    assert (code, out) == (2, [])
    assert "deid-diffusion[report]" in err[-1]


def test_attack_is_hidden(call):
    assert not any(line.split()[1:2] == ["attack"] for line in call("--help")[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "in"], "none: not a readable folder (No such file"),
        (["empty", "in"], "empty: contains no photos"),
        (["in", "other"], "in and other: no file names in common"),
        (["in", "single"], "ada_0.png: the only photo with a result: at least 2 are needed"),
        (["in", "double"], "ada_0.png: two photos of one name"),
        (["black", "black"], "originals: faces of 0 people detected, at least 2 are needed"),
        (["in", "in", "--labels", "wrong.csv"], "wrong.csv: has no column file with the photo's name (columns: a, b)"),
        (["in", "in", "--pairs", "wrong.csv"], "wrong.csv: lacks the column original and result (columns: a, b)"),
        (["in", "in", "--reports", "wrong.csv"], "wrong.csv, line 1: not a record of anonymize"),
        (["in", "in", "--people", "("], "--people (: not a regular expression"),
        (["in", "in", "--recogniser", "no.onnx"], "no.onnx: does not exist: name an ONNX file"),
        (["in", "in", "--attributes", "wrong.csv"], "wrong.csv: cannot be loaded"),
        (["in", "in", "-o", "there"], "there.html: exists already: choose another name with -o"),
        (["in", "in", "-o", "no/report"], "no/report: its folder does not exist"),
        (["in", "broken"], "broken/ada_0.png: is not"),
        (["in", "in", "--attacks-only", "--show-originals"], "--show-originals: has no effect with --attacks-only"),
        (["in", "in", "--attacks-only", "--attributes", "a.onnx"], "--attributes: has no effect with --attacks-only"),
        (["in", "in", "-o", ""], "-o: missing: name the report, or pass --attacks-only"),
    ],
)
def test_bad_usage_is_one_line(call, arguments, message):
    write_photos("other", {"x.png": (9, 9, 9)})
    write_photos("single", {"ada_0.png": (9, 9, 9)})
    write_photos("double", {"ada_0.jpg": (9, 9, 9), "ada_0.png": (9, 9, 9)})
    write_photos("black", dict.fromkeys(TWO_EACH, (0, 0, 0)))
    Path("empty").mkdir()
    Path("broken").mkdir()
    for name in TWO_EACH:
        (Path("broken") / name).write_bytes(b"no photo")
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("there.html").touch()
    output = [] if "-o" in arguments else ["-o", "report"]
    arguments = arguments[:-2] if arguments[-1] == "" else arguments
    code, out, err = call("evaluate", *arguments, *output)
    assert (code, out) == (2, [])
    assert err[-1].startswith("error: ")
    assert message in err[-1]
    assert all("photos" in line for line in err[:-1])  # progress
    assert not Path("report.html").exists()
