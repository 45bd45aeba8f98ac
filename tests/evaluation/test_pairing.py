import re
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.pairing import match_folders, match_table, nearest, read_labels, with_people
from deid_diffusion.faces.boxes import Detection

IN, OUT, TABLE = Path("in"), Path("out"), Path("table.csv")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(IN, "ada_0.jpg", "ada_1.jpg", "bob_0.jpg", "notes.txt", ".hidden.jpg")
    touch(OUT, "ada_0.png", "ada_1.png", "bob_0.png", "more.png")


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def summary(matching) -> list[tuple[str, str, str]]:
    return [(pair.name, pair.person, pair.result.name) for pair in matching.pairs]


def people(matching, expression: str | None = None, labels=None) -> list[str]:
    return [pair.person for pair in with_people(matching, expression, labels).pairs]


def test_folders_are_matched_by_name():
    touch(IN, "lost.jpg")
    matching = match_folders(IN, OUT)
    assert summary(matching) == [(name, name, f"{name}.png") for name in ("ada_0", "ada_1", "bob_0")]
    assert (matching.without_result, matching.without_original) == (("lost",), ("more",))
    assert not matching.people_known


def test_table_matches_other_names():
    TABLE.write_text("original,result,person\nada_0.jpg,more.png,ada\nbob_0.jpg,bob_0.png,bob\n")
    matching = match_table(TABLE, IN, OUT)
    assert summary(matching) == [("ada_0", "ada", "more.png"), ("bob_0", "bob", "bob_0.png")]
    assert matching.people_known
    assert (matching.without_result, matching.without_original) == (("ada_1",), ("ada_0", "ada_1"))
    assert with_people(matching, None, None) == matching
    assert people(matching, "^(.)") == ["a", "b"]


def test_people():
    matching = match_folders(IN, OUT)
    assert people(matching) == ["ada", "ada", "bob"]
    assert people(matching, r"_(\d)") == ["0", "1", "0"]
    TABLE.write_text("photo,person,age\nada_0.jpg,x,1\nada_1.jpg,y,2\nbob_0.jpg,x,2\n")
    labels = read_labels(TABLE, ["ada_0", "ada_1", "bob_0"])
    assert read_labels(TABLE, ["ada_0", "ada_1"]).columns == labels.columns == ("age",)
    assert people(matching, labels=labels) == ["x", "y", "x"]
    (IN / "bob_0.jpg").unlink()
    matching = match_folders(IN, OUT)
    assert people(matching) == ["ada_0", "ada_1"]  # a single person's names are ignored
    assert not with_people(matching, None, None).people_known


def test_label_columns():
    rows = [f"p/ada_{k}.jpg,{'fm'[k % 2]},{k},x\n" for k in range(30)]
    TABLE.write_text("\ufefffile,sex,file id,same\n" + "".join(rows))
    labels = read_labels(TABLE, [f"ada_{k}" for k in range(30)])
    assert labels.columns == ("sex",)
    assert labels.rows["ada_3"]["sex"] == "m"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sex,age\nf,3\n", "has no column file with the photo's name (columns: sex, age)"),
        ("file\nada_0\n", "has only the column file"),
        ("file,sex\nnobody.jpg,f\n", "column file lists none of the photos (first entry: nobody.jpg)"),
        ("file,sex\n", "has no rows below the header"),
        ("", "has no rows below the header"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
        (None, "cannot be read as CSV"),
    ],
)
def test_unusable_labels(text, message):
    if text is not None:
        TABLE.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=re.escape(f"table.csv: {message}")):
        read_labels(TABLE, ["ada_0", "ada_1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("original,outcome\na,b\n", "lacks the column result (columns: original, outcome)"),
        ("original,result\nada_0.jpg,\n", "line 2: original or result is empty"),
        ("original,result\nada_0.jpg,no.png\n", "line 2: out/no.png does not exist"),
        ("original,result\nada_0.jpg,ada_0.png\nada_0.jpg,ada_1.png\n", "lists ada_0 twice"),
        ("original,result\nada_0.jpg,ada_0.png\n", "the only photo with a result: at least 2 are needed"),
    ],
)
def test_unusable_pairs(text, message):
    TABLE.write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        match_table(TABLE, IN, OUT)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "results: not a readable folder (No such file"),
        ([], "results: contains no photos"),
        (["x.png"], "in and results: no file names in common"),
        (["ada_0.png"], "ada_0.jpg: the only photo with a result"),
        (["ada_0.png", "ada_0.jpg"], "results/ada_0.jpg and ada_0.png: two photos of one name"),
    ],
)
def test_unusable_folders(names, message):
    if names is not None:
        touch(Path("results"), *names)
    with pytest.raises(UsageError, match=re.escape(message)):
        match_folders(IN, Path("results"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [("(", "not a regular expression"), (".*", "has 0 groups"), ("(x)", "does not match the name ada_0")],
)
def test_unusable_expressions(expression, message):
    with pytest.raises(UsageError, match=re.escape(f"--people {expression}: {message}")):
        people(match_folders(IN, OUT), expression)


def test_nearest_face():
    faces = [Detection((x, 0, x + 10, 10), 0.9, "", None) for x in (0, 20)]
    assert nearest(faces, np.array((21.0, 0, 31, 10))) is faces[1]
    assert nearest(faces, np.array((8.0, 0, 18, 10))) is None
    assert nearest([], np.array((8.0, 0, 18, 10))) is None
