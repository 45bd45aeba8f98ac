"""Wishes for single faces: a JSON file of photos, boxes, and what to keep and change of the face that is there."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attributes.selection import AttributeSelection, make_selection
from ..batch.planning import display_name
from ..errors import ImageError, UsageError, one_line
from ..faces.boxes import Detection
from ..faces.selection import lies_at
from .files import write_atomic

if TYPE_CHECKING:
    from ..results import ImageRecord


DETECTOR = "boxes"  # what a face from a file says in place of its detector's name


@dataclass(frozen=True)
class Listed:
    """One photo of the file: (width, height) if the file says it, and its faces with the place of their entries."""

    name: str
    size: tuple[int, int] | None
    faces: list[tuple[str, Detection]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Boxes:
    """The photos and faces of a COCO file. Made by `read_boxes`.

    Attributes:
        source: the file's name for people and reports: as given, but never an absolute path.
        photos: file name, normalised, to photo.
        endings: every ending of a file name (last part, last two, ...) to the file names that have it.
    """

    source: str
    photos: Mapping[str, Listed]
    endings: Mapping[str, Sequence[str]]

    def of(self, name: str, shape: tuple[int, int]) -> list[Detection] | None:
        """The faces that the file puts into a photo, boxes clipped to it.

        A photo is found by its path as the file writes it; else by the only path in the file that ends in `name` or
        that `name` ends in: `a.jpg` is `cam1/a.jpg` unless there are several `a.jpg`, but `cam2/a.jpg` never is.

        Args:
            name: path of the photo below the input folder, with or without that folder's own.
            shape: (height, width) of the upright photo.

        Returns:
            An empty list for a photo that the file lists without faces; None for one that it does not list.

        Raises:
            ImageError: several photos of the file suit this name, a box lies wholly outside the photo, or the file
                gives the photo another size.
        """
        photo = self.find(name)
        if photo is None:
            return None
        height, width = shape
        if photo.size and photo.size != (width, height):
            sizes = f"{photo.size[0]} x {photo.size[1]} there, the upright photo {width} x {height}"
            raise ImageError(f"{self.source}: {photo.name} is {sizes}: make its boxes on the upright photo")
        faces = []
        for where, face in photo.faces:
            x0, y0, x1, y1 = face.box
            box = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
            if box[0] >= box[2] or box[1] >= box[3]:
                sizes = f"{photo.name} ({width} x {height})"
                raise ImageError(f"{self.source}: {where}: the box lies outside {sizes}: correct it")
            faces.append(replace(face, box=box))
        return faces

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of a run's photos that the file does not list; to be asked before the first photo is processed.

        Raises ImageError if several photos of the file suit a name, UsageError if one suits two of the names.
        """
        absent: list[str] = []
        owners: dict[str, str] = {}
        for name in names:
            photo = self.find(name)
            if photo is None:
                absent.append(name)
            elif (owner := owners.setdefault(photo.name, name)) != name:
                raise UsageError(f"{self.source}: {photo.name} could be {owner} or {name}: write its folder, too")
        return absent

    def unused(self, names: Iterable[str]) -> list[str]:
        """Those of the file's photos that none of a run's photos is. Raises ImageError, as `of`."""
        used = {photo.name for photo in map(self.find, names) if photo is not None}
        return [photo.name for photo in self.photos.values() if photo.name not in used]

    def find(self, name: str) -> Listed | None:
        """The photo of the file that a run's photo is, as `of` finds it. Raises ImageError if several suit."""
        key = normalised(name)
        if key in self.photos:
            return self.photos[key]
        found = [*self.endings.get(key, ()), *(end for end in _endings(key) if end in self.photos)]
        if len(found) > 1:
            raise ImageError(f"{self.source}: {name} could be {found[0]} or {found[1]}: give its path below the input")
        return self.photos[found[0]] if found else None


def read_boxes(path: str | Path) -> Boxes:
    """Read a COCO file (Lin et al., "Microsoft COCO", ECCV 2014): an object, or a list of results.

    The object has `images` (`id`, `file_name` and, if known, `width` and `height` of the upright photo) and
    `annotations` (`image_id`, `bbox`); the list has entries with `file_name` and `bbox`. A `bbox` is [x, y, width,
    height] in pixels of the upright photo. An entry may have a `score`, 0 to 1, and `keypoints`: five points, 15
    numbers (x, y, visibility) or 10 (x, y), in the order right eye, left eye, nose, right and left mouth corner, where
    right is the subject's own; they are left out if one of them is not labelled (visibility 0). Where `categories` has
    several names, only entries of the one called "face" count.

    Raises UsageError, with the file, the entry and the reason.
    """
    return make_boxes(path, read_json(path, "a COCO detection file"))


def read_json(path: str | Path, kind: str) -> Any:
    """What a JSON file holds that should be of some kind. Raises UsageError."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error.strerror or error)}): check its name") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({one_line(error)[:120]}): give {kind}") from error


def make_boxes(path: str | Path, found: Any) -> Boxes:
    """As `read_boxes`, of what the file holds."""
    photos: dict[str, Listed] = {}
    is_list = isinstance(found, list)
    by_id, keep = ({}, None) if is_list else (_images(path, found, photos), _face_category(path, found))
    for where, entry in objects(path, found, "" if is_list else "annotations"):
        if is_list:
            name = member(where, entry, "file_name", str)
            photo = photos.setdefault(normalised(name), Listed(name, None))
        elif (number := member(where, entry, "image_id", int, str)) in by_id:
            photo = by_id[number]
        else:
            raise UsageError(f"{where}: image_id {_shown(number)} is the id of none of the images")
        if keep is None or entry.get("category_id", keep) == keep:
            photo.faces.append((where.removeprefix(f"{path}: "), _face(where, entry)))
    endings: dict[str, list[str]] = {}
    for key in photos:
        for end in _endings(key):
            endings.setdefault(end, []).append(key)
    return Boxes(display_name(Path(path)), photos, endings)


def write_boxes(path: str | Path, records: Iterable[ImageRecord], *, overwrite: bool = False) -> None:
    """Write detections as a COCO file that `read_boxes` and COCO's own tools read. Raises ImageError if it cannot be.

    Args:
        path: the file; its folder must exist.
        records: of each photo; those that could not be read, and so have no size, are left out. A face's `action` (what
            was done to it) becomes a member of its annotation.
        overwrite: replace an existing file.
    """
    images, annotations = list[object](), list[object]()
    for number, one in enumerate((one for one in records if one.width and one.height), 1):
        images.append({"id": number, "file_name": one.input, "width": one.width, "height": one.height})
        for face in one.faces:
            x0, y0, x1, y1 = face.box
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            place = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            annotations.append({**ids, **place, "score": face.score, "action": face.action})
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    write_atomic(Path(path), json.dumps(whole, allow_nan=False).encode() + b"\n", overwrite=overwrite)


def _images(path: str | Path, found: Any, photos: dict[str, Listed]) -> dict[int | str, Listed]:
    """Fill `photos` from the file's `images`; returns them by id. Raises UsageError."""
    by_id: dict[int | str, Listed] = {}
    for where, image in objects(path, found, "images"):
        size: Any = [image.get("width"), image.get("height")]
        number, name = member(where, image, "id", int, str), member(where, image, "file_name", str)
        if number in by_id or normalised(name) in photos:
            raise UsageError(f"{where}: an image before it has its id or file_name, too")
        if size != [None, None] and not all(type(side) is int and side > 0 for side in size):
            raise UsageError(f"{where}: width and height are {_shown(size)}: expected whole numbers over 0")
        by_id[number] = photos[normalised(name)] = Listed(name, (size[0], size[1]) if size[0] else None)
    return by_id


def _face_category(path: str | Path, found: dict[str, Any]) -> object:
    """Id of the category whose entries are faces; None if all are. Raises UsageError."""
    named = [one for _, one in objects(path, found, "categories")] if "categories" in found else []
    faces = [one.get("id") for one in named if str(one.get("name")).lower() == "face"]
    if len(named) > 1 and len(faces) != 1:
        raise UsageError(f"{path}: categories: {len(faces)} of {len(named)} are called face, expected one")
    return faces[0] if len(named) > 1 else None


def _face(where: str, entry: dict[str, Any]) -> Detection:
    """The face of one entry, its box not yet clipped. Raises UsageError."""
    x, y, width, height = _numbers(where, "bbox", entry.get("bbox"), (4,))
    (score,) = _numbers(where, "score", [entry.get("score", 1.0)], (1,))
    if width <= 0 or height <= 0:
        raise UsageError(f"{where}: bbox is {width:g} wide and {height:g} high: expected both over 0")
    if not 0 <= score <= 1:
        raise UsageError(f"{where}: score is {score:g}: expected 0 to 1")
    face = Detection((x, y, x + width, y + height), score, DETECTOR)
    if not entry.get("keypoints"):
        return face
    points = np.array(_numbers(where, "keypoints", entry["keypoints"], (10, 15)), np.float32).reshape(5, -1)
    if (points[:, 2:] <= 0).any():
        return face
    eyes, down = points[1, :2] - points[0, :2], points[3:, :2].mean(0) - points[:2, :2].mean(0)
    if np.linalg.norm(eyes) > 0.2 * width and eyes[0] * down[1] < eyes[1] * down[0]:  # no profile
        raise UsageError(f"{where}: keypoints have left and right swapped: begin with the subject's own right eye")
    return replace(face, points=points[:, :2].copy())


def objects(path: str | Path, found: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in the list that `found` has under `key`, or is if that is empty, with their place in the file."""
    values = found.get(key) if key and isinstance(found, dict) else found
    if not isinstance(values, list):
        raise UsageError(f"{path}: {key or 'it'} is no list: give a COCO file of images and annotations, or results")
    for index, value in enumerate(values):
        where = f"{path}: {key}[{index}]"
        if not isinstance(value, dict):
            raise UsageError(f"{where}: is {_shown(value)}, expected an object")
        yield where, value


def _numbers(where: str, what: str, values: Any, counts: tuple[int, ...]) -> list[float]:
    """`values` if it is a list of so many numbers, none of them NaN or beyond any photo. Raises UsageError."""
    of_count = isinstance(values, list) and len(values) in counts
    if not of_count or not all(type(one) in (int, float) and abs(one) < 1e9 for one in values):
        raise UsageError(f"{where}: {what} is {_shown(values)}: finite numbers expected, {counts[-1]} of them")
    return [float(one) for one in values]


def member(where: str, entry: dict[str, Any], key: str, *kinds: type) -> Any:
    """A member that must be there, of one of the kinds. Raises UsageError."""
    value = entry.get(key)
    if type(value) not in kinds:
        raise UsageError(f"{where}: {key} is {_shown(value)}: expected {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _shown(value: object) -> str:
    return one_line(json.dumps(value))[:60]


def normalised(name: str) -> str:
    """A path in one spelling: forward slashes, no `.` parts, composed letters."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


def _endings(key: str) -> list[str]:
    """Proper endings of a path: `a/b/c.jpg` has `b/c.jpg` and `c.jpg`."""
    parts = key.split("/")
    return ["/".join(parts[k:]) for k in range(1, len(parts))]


_MEMBERS = ("image", "box", "keep", "change")


@dataclass(frozen=True)
class FaceOverride:
    """What is to be kept and changed of one face of a photo.

    Attributes:
        place: where it is; any face counts whose box has its centre in this one, or overlaps it by over a fifth.
        choice: the wish.
    """

    place: Detection
    choice: AttributeSelection


@dataclass(frozen=True, eq=False)
class FaceOverrides:
    """The wishes of a file. Made by `read_overrides`.

    Attributes:
        boxes: its photos and places.
        choices: a photo's name, normalised -> a choice for each of its places, in the file's order.
    """

    boxes: Boxes
    choices: Mapping[str, Sequence[AttributeSelection]]

    def of(self, name: str, shape: tuple[int, int]) -> tuple[FaceOverride, ...]:
        """The wishes for a photo, which is found as by `Boxes.of`. Raises ImageError, as that does.

        Args:
            name: path of the photo below the input folder, with or without that folder's own.
            shape: (height, width) of the upright photo.
        """
        photo, places = self.boxes.find(name), self.boxes.of(name, shape)
        if photo is None or places is None:
            return ()
        choices = self.choices[normalised(photo.name)]
        return tuple(FaceOverride(place, choice) for place, choice in zip(places, choices, strict=True))

    def all(self) -> list[AttributeSelection]:
        """The choices for all faces of the file."""
        return [choice for choices in self.choices.values() for choice in choices]

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError unless every photo of the file is one of a run's, whose names are given."""
        if absent := self.boxes.unused(names):
            raise UsageError(f"{self.boxes.source}: {absent[0]} is none of the photos: correct its name or take it out")


def read_overrides(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> FaceOverrides:
    """Read a list of objects {"image": name, "box": [x, y, width, height], "keep": [...], "change": {...}}.

    A box is in pixels of the upright photo; `keep` and `change` are those of `make_selection`.

    Args:
        path: the file.
        keep, change: the run's own, for objects that lack one of the two.

    Raises:
        UsageError: with the file, the entry and the reason.
    """
    entries: list[Any] = []
    choices: dict[str, list[AttributeSelection]] = {}
    for where, entry in objects(path, read_json(path, "a list of wishes"), ""):
        if unknown := [name for name in entry if name not in _MEMBERS]:
            raise UsageError(f"{where}: no wish has a member {unknown[0]!r}: there are {', '.join(_MEMBERS)}")
        if "keep" not in entry and "change" not in entry:
            raise UsageError(f"{where}: wishes for nothing: give it keep or change")
        image = member(where, entry, "image", str)
        member(where, entry, "box", list)
        wished = member(where, entry, "keep", list) if "keep" in entry else keep
        words = member(where, entry, "change", dict) if "change" in entry else change
        try:
            choices.setdefault(normalised(image), []).append(make_selection(wished, words))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        entries.append({"file_name": image, "bbox": entry["box"]})
    return FaceOverrides(make_boxes(path, entries), choices)


def match_overrides(
    faces: Sequence[Detection], wishes: Sequence[FaceOverride], choice: AttributeSelection
) -> list[AttributeSelection]:
    """What is kept and changed of each face of a photo: what the last wish for it says, else `choice`.

    Raises UsageError for a wish where no face is: it would be left undone without a word.
    """
    chosen = [choice] * len(faces)
    for wish in wishes:
        rows = [k for k, face in enumerate(faces) if lies_at(face, [wish.place])]
        if not rows:
            x0, y0, x1, y1 = wish.place.box
            place = f"[{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}]"
            raise UsageError(f"wishes: no face is at {place}: correct the box or take the wish out")
        for k in rows:
            chosen[k] = wish.choice
    return chosen
