"""Wishes for single faces: files, photos, boxes."""

import json
from pathlib import Path

import pytest

from deid_diffusion.attributes.choice import choose
from deid_diffusion.errors import ImageError, UsageError
from deid_diffusion.faces.detected_face import DetectedFace
from deid_diffusion.wishes import FaceWish, match_wishes, read_wishes

BOX = [10, 20, 30, 40]
FACE = DetectedFace((12.0, 22.0, 42.0, 62.0), 0.9, "given")
FAR = DetectedFace((200.0, 200.0, 220.0, 230.0), 0.9, "given")


def write(folder: Path, entries: object) -> Path:
    path = folder / "w.json"
    path.write_text(json.dumps(entries))
    return path


def test_wishes_for_two_faces_of_a_photo(tmp_path: Path) -> None:
    entries = [
        {"image": "a.png", "box": BOX, "keep": ["age"]},
        {"image": "b.png", "box": BOX, "change": {"age": 70}},
        {"image": "./a.png", "box": [100, 100, 10, 10], "keep": []},
    ]
    wishes = read_wishes(write(tmp_path, entries), None, {})
    first, second = wishes.of("in/a.png", (200, 300))
    assert first.place.box == (10, 20, 40, 60)
    assert (first.choice, second.choice) == (choose(["age"]), choose([]))
    (other,) = wishes.of("in/b.png", (200, 300))
    assert other.choice.change == {"age": "elderly"}
    assert wishes.of("c.png", (200, 300)) == ()
    assert len(wishes.all()) == 3
    wishes.check(["in/a.png", "in/b.png", "in/c.png"])


def test_what_an_object_leaves_open_is_the_runs_own(tmp_path: Path) -> None:
    entries = [{"image": "a.png", "box": BOX, "change": {"age": "70"}}, {"image": "a.png", "box": BOX, "keep": ["age"]}]
    first, second = read_wishes(write(tmp_path, entries), ("gender",), {"skin": "dark skin"}).all()
    assert (first.keep, first.change) == (("gender",), {"age": "elderly"})
    assert (second.keep, second.change) == (("age",), {"skin": "dark skin"})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "it is no list"),
        ([3], "expected an object"),
        ([{"image": "a.png", "box": BOX}], "wishes for nothing"),
        ([{"image": "a.png", "box": BOX, "keeps": []}], "no wish has a member 'keeps'"),
        ([{"box": BOX, "keep": []}], "image is null"),
        ([{"image": "a.png", "keep": []}], "box is null"),
        ([{"image": "a.png", "box": [1, 2], "keep": []}], "4 of them"),
        ([{"image": "a.png", "box": BOX, "keep": "age"}], "expected list"),
        ([{"image": "a.png", "box": BOX, "keep": ["gendr"]}], "did you mean gender"),
        ([{"image": "a.png", "box": BOX, "keep": [3]}], "no attribute"),
        ([{"image": "a.png", "box": BOX, "keep": ["age"], "change": {"age": 3}}], "kept and changed"),
        ([{"image": "a.png", "box": BOX, "keep": ["skin"]}], "kept and changed"),
    ],
)
def test_bad_files_are_one_line_with_the_place(tmp_path: Path, entries: object, words: str) -> None:
    path = write(tmp_path, entries)
    with pytest.raises(UsageError) as caught:
        read_wishes(path, None, {"skin": "dark skin"})
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_photo_that_is_not_there_and_a_box_outside(tmp_path: Path) -> None:
    wishes = read_wishes(write(tmp_path, [{"image": "a.png", "box": BOX, "keep": []}]), None, {})
    with pytest.raises(UsageError, match=r"a\.png is none of the photos"):
        wishes.check(["in/b.png"])
    with pytest.raises(ImageError, match="outside"):
        wishes.of("a.png", (10, 10))


def test_a_wish_goes_to_the_face_at_its_place() -> None:
    wish = FaceWish(DetectedFace((10.0, 20.0, 40.0, 60.0), 1.0, "boxes"), choose(["age"]))
    assert match_wishes([FAR, FACE], [wish], choose()) == [choose(), choose(["age"])]
    assert match_wishes([FAR], [], choose()) == [choose()]
    with pytest.raises(UsageError, match=r"no face is at \[10, 20, 30, 40\]"):
        match_wishes([FAR], [wish], choose())
