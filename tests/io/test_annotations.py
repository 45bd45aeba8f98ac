import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deid_diffusion.attributes.selection import make_selection
from deid_diffusion.errors import DeidError, ImageError, UsageError
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.selection import select_faces
from deid_diffusion.io.annotations import (
    DETECTOR,
    Annotations,
    Boxes,
    FaceOverride,
    match_overrides,
    read_annotations,
    read_boxes,
    read_overrides,
    write_annotations,
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
SHAPE = (40, 60)
BOX = [10, 20, 30, 40]
OVERRIDE = {"image": "a.jpg", "box": BOX}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        path = tmp_path / "faces.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def read(write) -> Callable[..., Boxes]:
    """Read a file of `IMAGES` and some annotations."""
    return lambda *entries, **members: read_boxes(write({"images": IMAGES, "annotations": entries, **members}))


@pytest.fixture
def annotate(write) -> Callable[..., Annotations]:
    """The same with `keep`, `change` and `ignore`, for a run that keeps the gender."""
    run = ("gender",), {"skin": "dark skin"}
    return lambda *entries: read_annotations(write({"images": IMAGES, "annotations": entries}), *run)


def test_boxes(read):
    boxes = read(ENTRY, {"image_id": 1, "bbox": [-5.5, 30, 100, 100], "score": 0.25})
    first, second = boxes.of("a.jpg", SHAPE) or ()
    assert (first.box, first.score, first.detector, first.points) == ((10, 5, 30, 35), 1, DETECTOR, None)
    assert (second.box, second.score) == ((0, 30, 60, 40), 0.25)  # clipped
    assert boxes.of("cam1/b.jpg", (9, 9)) == []
    assert boxes.of("d.jpg", (9, 9)) is None
    assert boxes.missing(["a.jpg", "d.jpg", "cam3/b.jpg"]) == ["d.jpg", "cam3/b.jpg"]


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "photos/a.jpg", "C:\\photos\\a.jpg", "/data/photos/a.jpg"])
def test_spellings_of_path(write, name):
    assert [face.box for face in read_boxes(write([RESULT])).of(name, SHAPE) or ()] == [(10, 5, 30, 35)]
    boxes = read_boxes(write([{**RESULT, "file_name": name}]))
    assert boxes.of("a.jpg", SHAPE)
    assert boxes.of("photos/a.jpg", SHAPE)
    assert boxes.of("aa.jpg", SHAPE) is None
    composed = read_boxes(write([{**RESULT, "file_name": "M\u00fcller.jpg"}]))
    assert composed.of("Mu\u0308ller.jpg", SHAPE)


def test_ambiguous_names(read):
    boxes = read()
    assert boxes.of("b.jpg", (9, 9)) == []
    assert boxes.of("cam2/b.jpg", (9, 9)) is None
    assert boxes.of("in/cam2/c.jpg", (9, 9)) == []
    with pytest.raises(ImageError, match=r"faces\.json: c\.jpg could be cam1/c\.jpg or cam2/c\.jpg"):
        boxes.of("c.jpg", (9, 9))
    with pytest.raises(UsageError, match=r"a\.jpg could be x/a\.jpg or y/a\.jpg"):
        boxes.missing(["x/a.jpg", "y/a.jpg"])


def test_keypoints(read):
    with_visibility = np.insert(np.array(POINTS).reshape(5, 2), 2, 2, axis=1)
    unlabelled = with_visibility * np.array([1, 1, 0, 1, 1])[:, None]
    lists = (POINTS, with_visibility.ravel().tolist(), unlabelled.ravel().tolist(), [])
    faces = read(*({**ENTRY, "keypoints": values} for values in lists)).of("a.jpg", SHAPE)
    assert [face.points is None for face in faces] == [False, False, True, True]
    for face in faces[:2]:
        assert (face.points.dtype, face.points.ravel().tolist()) == (np.float32, POINTS)


def test_categories(read):
    categories = [{"id": 3, "name": "plate"}, {"id": 4, "name": "Face"}]
    entries = [{**ENTRY, "category_id": 3}, {**ENTRY, "category_id": 4}, ENTRY]
    assert len(read(*entries, categories=categories).of("a.jpg", SHAPE) or ()) == 2
    assert len(read(*entries, categories=[{"id": 3, "name": "head"}]).of("a.jpg", SHAPE) or ()) == 3
    with pytest.raises(UsageError, match="0 of 2 are called face"):
        read(categories=[{"id": 3, "name": "plate"}, {"id": 4, "name": "person"}])


@pytest.mark.parametrize(
    ("shape", "bbox", "message"),
    [
        ((60, 40), BOX, r"a\.jpg is 60 x 40 there, the upright photo 40 x 60"),
        ((80, 120), BOX, r"a\.jpg is 60 x 40 there, the upright photo 120 x 80"),
        (SHAPE, [60, 5, 9, 9], r"annotations\[1\]: the box lies outside a\.jpg \(60 x 40\)"),
        (SHAPE, [5, -9, 9, 9], r"annotations\[1\]: the box lies outside"),
    ],
)
def test_boxes_of_another_photo(read, shape, bbox, message):
    boxes = read({**ENTRY, "image_id": 8}, {"image_id": 1, "bbox": bbox})
    with pytest.raises(ImageError, match=message) as caught:
        boxes.of("a.jpg", shape)
    assert str(caught.value).startswith("faces.json: ")  # it goes into reports, which hold no absolute paths


def images(*entries: object) -> dict[str, object]:
    return {"images": list(entries), "annotations": []}


FILES = [
    ("", "is not JSON"),
    ('{"images": [', "is not JSON"),
    ("\x00", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ('"faces"', "should be an object with images"),
    ("{}", "images: is missing"),
    ({"images": []}, "annotations: is missing"),
    ({"images": {}, "annotations": []}, "images: should be a valid list"),
    (images(3), r"images\[0\]: should be an object"),
    (images({"file_name": "a"}), r"images\[0\].id: is missing"),
    (images({"id": True, "file_name": "a"}), r"images\[0\].id: should be an integer or a string, got True"),
    (images({"id": 1}), r"images\[0\].file_name: is missing"),
    (images(*IMAGES, {"id": 7, "file_name": "n"}), r"images\[4\]: an earlier image"),
    (images(*IMAGES, {"id": 9, "file_name": "./a.jpg"}), r"images\[4\]: an earlier image"),
    (images({"id": 1, "file_name": "a", "width": 9}), r"images\[0\]: width and height"),
    (images({"id": 1, "file_name": "a", "width": 0, "height": 9}), r"images\[0\].width: should be greater than 0"),
    ({"images": IMAGES, "annotations": [{"image_id": 99, "bbox": BOX}]}, r"annotations\[0\]: image_id 99 is"),
    ({"images": IMAGES, "annotations": [{"bbox": BOX}]}, r"annotations\[0\]: image_id is missing"),
    ({"images": IMAGES, "annotations": [{"image_id": True}]}, r"annotations\[0\].image_id: should be an integer or"),
    ([RESULT, "face"], r"\[1\]: should be an object"),
    ([RESULT, ENTRY], r"\[1\]: file_name is missing"),
    ('[{"file_name": "a", "bbox": [NaN, 1, 2, 3]}]', r"\[0\].bbox\[0\]: should be a finite number, got nan"),
    ('[{"file_name": "a", "bbox": [1e999, 1, 2, 3]}]', "finite number"),
    ('[{"file_name": "a", "bbox": [1' + "0" * 400 + ", 1, 2, 3]}]", r"bbox\[0\]: should be"),
]
ENTRIES = [
    ({"bbox": [1, 1, 2]}, r"\[1\].bbox: List should have at least 4 items"),
    ({"bbox": [1, 1, "2", 2]}, r"\[1\].bbox\[2\]: should be a valid number, got '2'"),
    ({"bbox": [1, 1, True, 2]}, "should be a valid number, got True"),
    ({"bbox": None}, r"bbox: should be a valid list"),
    ({"bbox": [1, 1, -2, 2]}, "bbox: is -2 wide and 2 high"),
    ({"bbox": [1, 1, 2, 0]}, "bbox: is 2 wide and 0 high"),
    ({"score": 1.5}, "score: should be at most 1, got 1.5"),
    ({"score": "high"}, "score: should be a valid number, got 'high'"),
    ({"keypoints": [1, 2, 3]}, "keypoints: should be 5 points, .* got 3 numbers"),
    ({"keypoints": [1] * 51}, "keypoints: should be 5 points"),
    ({"keypoints": [*POINTS[2:4], *POINTS[:2], *POINTS[4:]]}, "left and right swapped"),
]
SPECIAL = [
    ({"keep": "age"}, r"annotations\[0\].keep: should be a valid list"),
    ({"keep": ["gendr"]}, "did you mean gender"),
    ({"keep": [3]}, r"keep\[0\]: should be a valid string"),
    ({"keep": ["age"], "change": {"age": 3}}, "kept and changed"),
    ({"keep": ["skin"]}, "kept and changed"),
    ({"change": ["age"]}, "change: should be a valid dictionary"),
    ({"ignore": 1}, "ignore: should be true or false, got 1"),
    ({"ignore": "yes"}, "ignore: should be true or false"),
    ({"ignore": True, "keep": ["age"]}, "an ignored face keeps everything"),
    ({"keeps": []}, "unknown member 'keeps': did you mean keep"),
    ({"ignored": True}, "did you mean ignore"),
]
OVERRIDES = [
    ({}, "should be a list of objects"),
    ([3], r"\[0\]: should be an object"),
    ([OVERRIDE], "should have keep or change"),
    ([{**OVERRIDE, "keeps": []}], "unknown member 'keeps': did you mean keep"),
    ([{**OVERRIDE, "keep": [], "face": 1}], r"\[0\].face: is unknown"),
    ([{"box": BOX, "keep": []}], "image: is missing"),
    ([{"image": "a.png", "keep": []}], "box: is missing"),
    ([{"image": "a.png", "box": [1, 2], "keep": []}], "box: List should have at least 4 items"),
    ([{**OVERRIDE, "keep": ["gendr"]}], "did you mean gender"),
]


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        *((read_boxes, content, message) for content, message in FILES),
        *((read_boxes, [RESULT, {**RESULT, **bad}], message) for bad, message in ENTRIES),
        *((read_annotations, {"images": IMAGES, "annotations": [{**ENTRY, **bad}]}, text) for bad, text in SPECIAL),
        *((read_overrides, content, message) for content, message in OVERRIDES),
    ],
)
def test_invalid_file(write, reader, content, message):
    path = write(content)
    with pytest.raises(UsageError, match=message) as caught:
        reader(path) if reader is read_boxes else reader(path, None, {"skin": "dark skin"})
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 220


def test_unreadable_file(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'[{"file_name": "\xfc.jpg"}]')
    for name, message in (("none.json", "cannot be read"), ("latin.json", "is not JSON")):
        with pytest.raises(UsageError, match=message):
            read_boxes(tmp_path / name)


FACES = (
    FaceRecord((1.5, 2.0, 30.25, 40.0), "centerface", 0.98, "replaced", 7, True),
    FaceRecord((0.0, 0.0, 3.0, 4.0), "mediapipe", 0.4, "covered", None, False, "no mesh"),
)
DONE = ImageRecord("in/\u00e4\udcff.jpg", "out/a.png", "done", width=60, height=40, faces=FACES)
RECORDS = (
    DONE,
    ImageRecord("in/unread.jpg", None, "failed"),
    replace(DONE, input="in/empty.jpg", faces=(), status="no_face"),
)


def test_export_round_trip(tmp_path):
    path = tmp_path / "faces.json"
    write_annotations(path, RECORDS)
    boxes = read_annotations(path, None, {}).boxes
    faces = boxes.of("\u00e4\udcff.jpg", SHAPE) or []
    assert [(face.box, face.score) for face in faces] == [(face.box, face.score) for face in FACES]
    assert boxes.of("in/empty.jpg", SHAPE) == []
    assert boxes.of("in/unread.jpg", SHAPE) is None
    content = json.loads(path.read_text())
    assert content["categories"] == [{"id": 1, "name": "face"}]
    assert [(entry["id"], entry["action"]) for entry in content["annotations"]] == [(1, "replaced"), (2, "covered")]
    assert content["annotations"][1]["area"] == 12
    before = path.read_bytes()
    with pytest.raises(DeidError, match="exists already"):
        write_annotations(path, ())
    assert path.read_bytes() == before
    write_annotations(path, (), overwrite=True)
    assert read_boxes(path).of("in/empty.jpg", SHAPE) is None


def test_lookup_does_not_compare_all_names(tmp_path):
    names = [f"train/{number:06d}/front.jpg" for number in range(500)]
    path = tmp_path / "large.json"
    write_annotations(path, (replace(DONE, input=name) for name in names))
    boxes = read_boxes(path)

    def no_scan(self: dict) -> None:
        raise AssertionError("iterates over all names")

    photos = type("Photos", (dict,), {"__iter__": no_scan, "items": no_scan, "values": no_scan})(boxes.photos)
    boxes = replace(boxes, photos=photos)
    assert boxes.missing(name.removeprefix("train/") for name in names) == []
    assert len(boxes.of("000499/front.jpg", SHAPE) or ()) == 2


def test_annotation_selections(annotate):
    second = {"image_id": 1, "bbox": [40, 5, 9, 9], "change": {"age": 70}}
    other = {"image_id": 7, "bbox": [40, 5, 9, 9]}
    annotations = annotate({**ENTRY, "keep": ["age"]}, second, {**ENTRY, "bbox": [30, 5, 9, 9]}, other)
    assert annotations.regions is None
    kept, changed, plain = (override.selection for override in annotations.overrides.of("in/a.jpg", SHAPE))
    assert kept == make_selection(["age"], {"skin": "dark skin"})
    assert changed == make_selection(["gender"], {"age": "elderly"})
    assert plain == make_selection(["gender"], {"skin": "dark skin"})  # the run's
    assert annotations.overrides.of("cam1/b.jpg", (90, 90)) == ()
    assert annotations.boxes.of("cam1/b.jpg", (90, 90))
    assert annotations.overrides.all() == [kept, changed, plain]


@pytest.mark.parametrize("special", [{"keep": []}, {"ignore": True}])
def test_special_annotations(annotate, special):
    annotate(ENTRY).overrides.check([])
    overrides = annotate({**ENTRY, **special}).overrides
    overrides.check(["in/a.jpg"])
    with pytest.raises(UsageError, match=r"faces\.json: a\.jpg is none of the photos"):
        overrides.check(["in/b.jpg"])


def test_ignored_faces(annotate):
    assert annotate({**ENTRY, "ignore": False}, {**ENTRY, "ignore": 0}).regions is None
    ignored, other = {"image_id": 1, "bbox": [10, 5, 10, 20]}, {"image_id": 1, "bbox": [40, 5, 10, 20]}
    regions = annotate({**ignored, "ignore": True}, other).regions
    assert regions is not None
    only = regions.of("a.jpg", SHAPE)
    unlisted = [(0, 0, 5, 5), (50, 30, 60, 40), (21, 5, 31, 25), (-9, -9, 3, 2)]
    faces = [Detection(box, 0.9, "x") for box in ((10, 5, 20, 25), (40, 5, 50, 25), *unlisted)]
    assert select_faces(faces, only=only).process == (1, 2, 3, 4, 5)  # a face that the file lacks is never spared
    assert select_faces(faces, only=regions.of("cam1/b.jpg", SHAPE)).process == tuple(range(6))
    assert regions.of("d.jpg", SHAPE) is None
    regions = annotate({**ENTRY, "ignore": True}, ENTRY).regions  # under another face
    (face,) = annotate(ENTRY).boxes.of("a.jpg", SHAPE) or ()
    assert select_faces([face], only=regions.of("a.jpg", SHAPE)).process == (0,)


def test_overrides_of_two_faces(write):
    entries = [
        {"image": "a.png", "box": BOX, "keep": ["age"]},
        {"image": "b.png", "box": BOX, "change": {"age": 70}},
        {"image": "./a.png", "box": [100, 100, 10, 10], "keep": []},
    ]
    overrides = read_overrides(write(entries), None, {})
    first, second = overrides.of("in/a.png", (200, 300))
    assert first.place.box == (10, 20, 40, 60)
    assert (first.selection, second.selection) == (make_selection(["age"]), make_selection([]))
    (other,) = overrides.of("in/b.png", (200, 300))
    assert other.selection.change == {"age": "elderly"}
    assert overrides.of("c.png", (200, 300)) == ()
    assert len(overrides.all()) == 3
    overrides.check(["in/a.png", "in/b.png", "in/c.png"])
    with pytest.raises(UsageError, match=r"b\.png is none of the photos"):
        overrides.check(["in/a.png"])
    with pytest.raises(ImageError, match="outside"):
        overrides.of("a.png", (10, 10))


def test_match_overrides():
    face, far = Detection((12.0, 22.0, 42.0, 62.0), 0.9, "x"), Detection((200.0, 200.0, 220.0, 230.0), 0.9, "x")
    override = FaceOverride(Detection((10.0, 20.0, 40.0, 60.0), 1.0, "boxes"), make_selection(["age"]))
    assert match_overrides([far, face], [override], make_selection()) == [make_selection(), make_selection(["age"])]
    assert match_overrides([far], [], make_selection()) == [make_selection()]
    with pytest.raises(UsageError, match=r"no face is at \[10, 20, 30, 40\]"):
        match_overrides([far], [override], make_selection())
    exact = FaceOverride(face, make_selection([]))
    assert match_overrides([face], [exact, override], make_selection()) == [exact.selection]
