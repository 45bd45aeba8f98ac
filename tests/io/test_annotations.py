"""COCO files: what a file says of a photo, what it must not say, and the way there and back."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.errors import DeidError, ImageError, UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.io.annotations import (
    DETECTOR,
    Boxes,
    FaceOverride,
    match_overrides,
    read_boxes,
    read_overrides,
    write_boxes,
)
from deid_diffusion.results import FaceRecord, ImageRecord

IMAGES = [
    {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40},
    {"id": 7, "file_name": "cam1/b.jpg"},
    {"id": "x", "file_name": "cam1/c.jpg"},
    {"id": 8, "file_name": "cam2/c.jpg"},
]
ENTRY = {"image_id": 1, "bbox": [10, 5, 20, 30]}
RESULT = {"file_name": "a.jpg", "bbox": [10, 5, 20, 30]}
POINTS = [15, 12, 25, 12, 20, 20, 16, 28, 24, 28]  # x, y of right eye, left eye, nose, mouth corners


def _file(folder: Path, content: object) -> Path:
    path = folder / "faces.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _read(folder: Path, *entries: dict, images: object = IMAGES, **more: object) -> Boxes:
    return read_boxes(_file(folder, {"images": images, "annotations": list(entries), **more}))


def test_boxes_of_a_photo_are_clipped_to_it(tmp_path):
    boxes = _read(tmp_path, ENTRY, {"image_id": 1, "bbox": [-5.5, 30, 100, 100], "score": 0.25})
    first, second = boxes.of("a.jpg", (40, 60)) or ()
    assert (first.box, first.score, first.detector, first.points) == ((10, 5, 30, 35), 1, DETECTOR, None)
    assert (second.box, second.score) == ((0, 30, 60, 40), 0.25)


def test_a_photo_without_faces_is_not_a_photo_that_is_missing(tmp_path):
    boxes = _read(tmp_path, ENTRY)
    assert boxes.of("cam1/b.jpg", (9, 9)) == []
    assert boxes.of("d.jpg", (9, 9)) is None
    assert boxes.missing(["a.jpg", "d.jpg", "cam3/b.jpg"]) == ["d.jpg", "cam3/b.jpg"]


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "photos/a.jpg", "C:\\photos\\a.jpg", "/data/photos/a.jpg"])
def test_a_list_of_results_and_the_ways_to_write_a_path(tmp_path, name: str):
    assert [one.box for one in read_boxes(_file(tmp_path, [RESULT])).of(name, (40, 60)) or ()] == [(10, 5, 30, 35)]
    boxes = read_boxes(_file(tmp_path, [{**RESULT, "file_name": name}]))
    assert boxes.of("a.jpg", (40, 60))
    assert boxes.of("photos/a.jpg", (40, 60))
    assert boxes.of("aa.jpg", (40, 60)) is None


def test_letters_with_marks_may_be_composed_or_not(tmp_path):
    boxes = read_boxes(_file(tmp_path, [{**RESULT, "file_name": "M\u00fcller.jpg"}]))
    assert boxes.of("Mu\u0308ller.jpg", (40, 60))


def test_a_base_name_is_enough_only_where_it_is_the_only_one(tmp_path):
    boxes = _read(tmp_path)
    assert boxes.of("b.jpg", (9, 9)) == []
    assert boxes.of("cam2/b.jpg", (9, 9)) is None
    assert boxes.of("in/cam2/c.jpg", (9, 9)) == []
    with pytest.raises(ImageError, match=r"faces\.json: c\.jpg could be cam1/c\.jpg or cam2/c\.jpg"):
        boxes.of("c.jpg", (9, 9))
    with pytest.raises(UsageError, match=r"a\.jpg could be x/a\.jpg or y/a\.jpg"):
        boxes.missing(["x/a.jpg", "y/a.jpg"])


def test_points_are_read_with_and_without_visibility(tmp_path):
    with_visibility = np.insert(np.array(POINTS).reshape(5, 2), 2, 2, axis=1)
    unlabelled = with_visibility.copy()
    unlabelled[2] = 0
    lists = (POINTS, with_visibility.ravel().tolist(), unlabelled.ravel().tolist(), [])
    faces = _read(tmp_path, *({**ENTRY, "keypoints": values} for values in lists)).of("a.jpg", (40, 60))
    assert faces is not None
    for face in faces[:2]:
        assert face.points is not None
        assert face.points.dtype == np.float32
        assert face.points.ravel().tolist() == POINTS
    assert faces[2].points is None
    assert faces[3].points is None


def test_of_several_categories_only_faces_count(tmp_path):
    categories = [{"id": 3, "name": "plate"}, {"id": 4, "name": "Face"}]
    entries = [{**ENTRY, "category_id": 3}, {**ENTRY, "category_id": 4}, ENTRY]
    assert len(_read(tmp_path, *entries, categories=categories).of("a.jpg", (40, 60)) or ()) == 2
    assert len(_read(tmp_path, *entries, categories=[{"id": 3, "name": "head"}]).of("a.jpg", (40, 60)) or ()) == 3
    with pytest.raises(UsageError, match="0 of 2 are called face"):
        _read(tmp_path, categories=[{"id": 3, "name": "plate"}, {"id": 4, "name": "person"}])


@pytest.mark.parametrize(
    ("shape", "entry", "message"),
    [
        ((60, 40), ENTRY, r"a\.jpg is 60 x 40 there, the upright photo 40 x 60"),
        ((80, 120), ENTRY, r"a\.jpg is 60 x 40 there, the upright photo 120 x 80"),
        (
            (40, 60),
            {"image_id": 1, "bbox": [60, 5, 9, 9]},
            r"annotations\[1\]: the box lies outside a\.jpg \(60 x 40\)",
        ),
        ((40, 60), {"image_id": 1, "bbox": [5, -9, 9, 9]}, r"annotations\[1\]: the box lies outside"),
    ],
)
def test_boxes_of_another_picture_are_refused(tmp_path, shape, entry, message: str):
    boxes = _read(tmp_path, {**ENTRY, "image_id": 8}, entry)
    with pytest.raises(ImageError, match=message) as caught:
        boxes.of("a.jpg", shape)
    assert str(caught.value).startswith("faces.json: ")  # it goes into reports, which hold no absolute paths


BAD = [
    ("", "is not JSON"),
    ('{"images": [', "is not JSON"),
    ("\x00", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('"faces"', "images is no list"),
    ("{}", "images is no list"),
    ({"images": []}, "annotations is no list"),
    ({"images": {}, "annotations": []}, "images is no list"),
    ({"images": [3], "annotations": []}, r"images\[0\]: is 3, expected an object"),
    ({"images": [{"file_name": "a"}], "annotations": []}, r"images\[0\]: id is null"),
    ({"images": [{"id": True, "file_name": "a"}], "annotations": []}, r"images\[0\]: id is true"),
    ({"images": [{"id": 1}], "annotations": []}, r"images\[0\]: file_name is null"),
    ({"images": [*IMAGES, {"id": 7, "file_name": "n"}], "annotations": []}, r"images\[4\]: an image before it"),
    ({"images": [*IMAGES, {"id": 9, "file_name": "./a.jpg"}], "annotations": []}, r"images\[4\]: an image before it"),
    ({"images": [{"id": 1, "file_name": "a", "width": 9}], "annotations": []}, r"images\[0\]: width and height"),
    ({"images": [{"id": 1, "file_name": "a", "width": 0, "height": 9}], "annotations": []}, r"width and height"),
    ({"images": IMAGES, "annotations": [{"image_id": 99, "bbox": [1, 1, 1, 1]}]}, r"annotations\[0\]: image_id 99 is"),
    ([RESULT, "face"], r"\[1\]: is \"face\", expected an object"),
    ([RESULT, ENTRY], r"\[1\]: file_name is null"),
    ('[{"file_name": "a", "bbox": [NaN, 1, 2, 3]}]', r"\[0\]: bbox is \[NaN, 1, 2, 3\]: finite numbers expected, 4"),
    ('[{"file_name": "a", "bbox": [1e999, 1, 2, 3]}]', "finite numbers"),
    ('[{"file_name": "a", "bbox": [1' + "0" * 400 + ", 1, 2, 3]}]", "finite numbers"),
]
WRONG = [
    ({"bbox": [1, 1, 2]}, "finite numbers expected, 4"),
    ({"bbox": [1, 1, "2", 2]}, "finite numbers"),
    ({"bbox": [1, 1, True, 2]}, "finite numbers"),
    ({"bbox": None}, "bbox is null"),
    ({"bbox": [1, 1, -2, 2]}, "bbox is -2 wide and 2 high"),
    ({"bbox": [1, 1, 2, 0]}, "bbox is 2 wide and 0 high"),
    ({"score": 1.5}, "score is 1.5: expected 0 to 1"),
    ({"score": "high"}, "score is .*high"),
    ({"keypoints": [1, 2, 3]}, "keypoints is .* 15 of them"),
    ({"keypoints": [1] * 51}, "keypoints is .* 15 of them"),
    ({"keypoints": [*POINTS[2:4], *POINTS[:2], *POINTS[4:]]}, "left and right swapped"),
]


@pytest.mark.parametrize(("content", "message"), [*BAD, *(([RESULT, {**RESULT, **bad}], text) for bad, text in WRONG)])
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, content, message: str):
    path = _file(tmp_path, content)
    with pytest.raises(UsageError, match=message) as caught:
        read_boxes(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 220


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_boxes(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'[{"file_name": "\xfc.jpg"}]')
    with pytest.raises(UsageError, match="is not JSON"):
        read_boxes(tmp_path / "latin.json")


FACES = (
    FaceRecord((1.5, 2.0, 30.25, 40.0), "centerface", 0.98, "replaced", 7, True),
    FaceRecord((0.0, 0.0, 3.0, 4.0), "mediapipe", 0.4, "covered", None, False, "no mesh"),
)
DONE = ImageRecord("in/\u00e4\udcff.jpg", "out/a.png", "done", width=60, height=40, faces=FACES)
REPORTS = (
    DONE,
    ImageRecord("in/unread.jpg", None, "failed"),
    replace(DONE, input="in/empty.jpg", faces=(), status="no_face"),
)


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "found.json"
    write_boxes(path, REPORTS)
    boxes = read_boxes(path)
    found = boxes.of("\u00e4\udcff.jpg", (40, 60)) or []
    assert [(one.box, one.score) for one in found] == [(one.box, one.score) for one in FACES]
    assert boxes.of("in/empty.jpg", (40, 60)) == []
    assert boxes.of("in/unread.jpg", (40, 60)) is None
    written = json.loads(path.read_text())
    assert written["categories"] == [{"id": 1, "name": "face"}]
    assert [one["id"] for one in written["annotations"]] == [1, 2]
    assert [one["action"] for one in written["annotations"]] == ["replaced", "covered"]
    assert written["annotations"][1]["area"] == 12


def test_an_export_replaces_nothing_unasked(tmp_path):
    path = tmp_path / "found.json"
    write_boxes(path, REPORTS)
    before = path.read_bytes()
    with pytest.raises(DeidError, match="exists already"):
        write_boxes(path, ())
    assert path.read_bytes() == before
    write_boxes(path, (), overwrite=True)
    assert read_boxes(path).of("in/empty.jpg", (40, 60)) is None


def test_a_large_file_is_no_slower_for_names_that_are_alike(tmp_path):
    names = [f"train/{number:06d}/front.jpg" for number in range(4_000)]
    path = tmp_path / "large.json"
    write_boxes(path, (replace(DONE, input=name) for name in names))
    began = time.perf_counter()
    boxes = read_boxes(path)
    assert boxes.missing(name.removeprefix("train/") for name in names) == []
    assert len(boxes.of("003999/front.jpg", (40, 60)) or ()) == 2
    assert time.perf_counter() - began < 8  # comparing all with all would take minutes


BOX = [10, 20, 30, 40]
FACE = Detection((12.0, 22.0, 42.0, 62.0), 0.9, "given")
FAR = Detection((200.0, 200.0, 220.0, 230.0), 0.9, "given")


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
    wishes = read_overrides(write(tmp_path, entries), None, {})
    first, second = wishes.of("in/a.png", (200, 300))
    assert first.place.box == (10, 20, 40, 60)
    assert (first.choice, second.choice) == (make_selection(["age"]), make_selection([]))
    (other,) = wishes.of("in/b.png", (200, 300))
    assert other.choice.change == {"age": "elderly"}
    assert wishes.of("c.png", (200, 300)) == ()
    assert len(wishes.all()) == 3
    wishes.check(["in/a.png", "in/b.png", "in/c.png"])


def test_what_an_object_leaves_open_is_the_runs_own(tmp_path: Path) -> None:
    entries = [{"image": "a.png", "box": BOX, "change": {"age": "70"}}, {"image": "a.png", "box": BOX, "keep": ["age"]}]
    first, second = read_overrides(write(tmp_path, entries), ("gender",), {"skin": "dark skin"}).all()
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
        ([{"image": "a.png", "box": BOX, "keep": [3]}], "not an attribute"),
        ([{"image": "a.png", "box": BOX, "keep": ["age"], "change": {"age": 3}}], "kept and changed"),
        ([{"image": "a.png", "box": BOX, "keep": ["skin"]}], "kept and changed"),
    ],
)
def test_bad_files_are_one_line_with_the_place(tmp_path: Path, entries: object, words: str) -> None:
    path = write(tmp_path, entries)
    with pytest.raises(UsageError) as caught:
        read_overrides(path, None, {"skin": "dark skin"})
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_photo_that_is_not_there_and_a_box_outside(tmp_path: Path) -> None:
    wishes = read_overrides(write(tmp_path, [{"image": "a.png", "box": BOX, "keep": []}]), None, {})
    with pytest.raises(UsageError, match=r"a\.png is none of the photos"):
        wishes.check(["in/b.png"])
    with pytest.raises(ImageError, match="outside"):
        wishes.of("a.png", (10, 10))


def test_a_wish_goes_to_the_face_at_its_place() -> None:
    wish = FaceOverride(Detection((10.0, 20.0, 40.0, 60.0), 1.0, "boxes"), make_selection(["age"]))
    assert match_overrides([FAR, FACE], [wish], make_selection()) == [make_selection(), make_selection(["age"])]
    assert match_overrides([FAR], [], make_selection()) == [make_selection()]
    with pytest.raises(UsageError, match=r"no face is at \[10, 20, 30, 40\]"):
        match_overrides([FAR], [wish], make_selection())
