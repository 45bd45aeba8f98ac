"""Names, tables and people are matched, and what does not fit is said in one line."""

from pathlib import Path

import pytest

from deid_diffusion.errors import UsageError
from deid_diffusion.evaluation.pairing import match_folders, match_people, match_table, read_labels, with_people


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch("in", "ada_0.jpg", "ada_1.jpg", "bob_0.jpg", "notes.txt", ".hidden.jpg")
    touch("out", "ada_0.png", "ada_1.png", "bob_0.png", "more.png")


def touch(folder: str, *names: str) -> None:
    Path(folder).mkdir()
    for name in names:
        (Path(folder) / name).touch()


def table(text: str, name: str = "table.csv") -> Path:
    Path(name).write_text(text)
    return Path(name)


def matched():
    return match_folders(Path("in"), Path("out"))


def test_folders_are_matched_by_name():
    (Path("in") / "lost.jpg").touch()
    found = matched()
    assert [(p.name, p.person, p.result.name) for p in found.pairs] == [
        ("ada_0", "ada_0", "ada_0.png"),
        ("ada_1", "ada_1", "ada_1.png"),
        ("bob_0", "bob_0", "bob_0.png"),
    ]
    assert (found.without_result, found.without_original, found.people_known) == (("lost",), ("more",), False)


def test_a_table_matches_other_names():
    rows = "original,result,person\nada_0.jpg,more.png,ada\nbob_0.jpg,bob_0.png,bob\n"
    found = match_table(table(rows), Path("in"), Path("out"))
    assert [(p.name, p.person, p.result.name) for p in found.pairs] == [
        ("ada_0", "ada", "more.png"),
        ("bob_0", "bob", "bob_0.png"),
    ]
    assert found.people_known
    assert found.without_result == ("ada_1",)
    assert found.without_original == ("ada_0", "ada_1")
    assert with_people(found, None, None) == found
    assert [p.person for p in with_people(found, "^(.)", None).pairs] == ["a", "b"]


def test_people_by_name_expression_or_label():
    assert [p.person for p in with_people(matched(), None, None).pairs] == ["ada", "ada", "bob"]
    assert [p.person for p in with_people(matched(), r"_(\d)", None).pairs] == ["0", "1", "0"]
    labels = read_labels(table("photo,person,age\nada_0.jpg,x,1\nada_1.jpg,y,2\nbob_0.jpg,x,2\n"), ["ada_0", "ada_1"])
    labels_of_all = read_labels(Path("table.csv"), ["ada_0", "ada_1", "bob_0"])
    assert labels.columns == labels_of_all.columns == ("age",)
    assert [p.person for p in with_people(matched(), None, labels_of_all).pairs] == ["x", "y", "x"]


def test_names_that_say_one_person_say_nothing():
    (Path("in") / "bob_0.jpg").unlink()
    found = with_people(matched(), None, None)
    assert [p.person for p in found.pairs] == ["ada_0", "ada_1"]
    assert not found.people_known


def test_figures_that_take_two_people_get_them_or_say_why_not():
    assert match_people(Path("in"), Path("out"), None) == with_people(matched(), None, None)
    assert match_people(Path("in"), Path("out"), r"_(\d)") == with_people(matched(), r"_(\d)", None)
    with pytest.raises(UsageError, match="in: all names say that the person is _: give --people"):
        match_people(Path("in"), Path("out"), "(_)")
    (Path("in") / "bob_0.jpg").unlink()
    with pytest.raises(UsageError, match="in: all names say that the person is ada: give --people"):
        match_people(Path("in"), Path("out"), None)


def test_labels_group_by_every_column_that_repeats():
    rows = "\ufefffile,sex,file id,same\n" + "".join(f"p/ada_{k}.jpg,{'fm'[k % 2]},{k},x\n" for k in range(30))
    names = [f"ada_{k}" for k in range(30)]
    labels = read_labels(table(rows), names)
    assert labels.columns == ("sex",)
    assert labels.rows["ada_3"]["sex"] == "m"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sex,age\nf,3\n", "no column names the photo: call it file (found: sex, age)"),
        ("file\nada_0\n", "has no column but file"),
        ("file,sex\nnobody.jpg,f\n", "column file names none of the photos (it says nobody.jpg, ...)"),
        ("file,sex\n", "has no line below the header"),
        ("", "has no line below the header"),
    ],
)
def test_labels_that_do_not_do(text, words):
    with pytest.raises(UsageError, match=r"table\.csv") as caught:
        read_labels(table(text), ["ada_0", "ada_1"])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("original,outcome\na,b\n", "lacks the column result (found: original, outcome)"),
        ("original,result\nada_0.jpg,\n", "line 2: a cell of original or result is empty"),
        ("original,result\nada_0.jpg,no.png\n", "line 2: out/no.png is not there"),
        ("original,result\nada_0.jpg,ada_0.png\nada_0.jpg,ada_1.png\n", "two lines are about ada_0"),
        ("original,result\nada_0.jpg,ada_0.png\n", "is the only photo with a result: rates take at least 2"),
    ],
)
def test_tables_that_do_not_do(text, words):
    with pytest.raises(UsageError) as caught:
        match_table(table(text), Path("in"), Path("out"))
    assert words in str(caught.value)


def test_files_that_are_no_table():
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read as a CSV table"):
        read_labels(Path("none.csv"), [])
    Path("binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.csv: cannot be read as a CSV table"):
        read_labels(Path("binary.csv"), [])


def test_folders_that_do_not_do():
    touch("empty")
    touch("other", "x.png")
    touch("one", "ada_0.png")
    touch("double", "ada_0.png", "ada_0.jpg")
    for folder, words in (
        ("none", "none: is no folder that can be read (No such file"),
        ("empty", "empty: holds no photo"),
        ("other", "in and other: no photo of one has the name"),
        ("one", "ada_0.jpg: is the only photo with a result"),
        ("double", "double/ada_0.jpg and ada_0.png: two photos of one name"),
    ):
        with pytest.raises(UsageError) as caught:
            match_folders(Path("in"), Path(folder))
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "words"),
    [("(", "is no regular expression"), (".*", "has 0 groups"), ("(x)", "finds nobody in the name ada_0")],
)
def test_expressions_that_do_not_do(expression, words):
    with pytest.raises(UsageError, match="--people") as caught:
        with_people(matched(), expression, None)
    assert words in str(caught.value)
