"""Face annotations in COCO files: boxes, attributes kept and changed per face, and ignored faces."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from ..attributes.selection import AttributeSelection, make_selection
from ..batch.planning import display_name
from ..errors import ImageError, UsageError, one_line, validation_message
from ..faces.boxes import Detection
from ..faces.selection import lies_at
from .files import write_atomic

if TYPE_CHECKING:
    from ..results import ImageRecord

DETECTOR = "boxes"
"""Detector's name of faces from a file."""

_FAR = 1e9  # a coordinate beyond any photo, in pixels
_SIMILAR = 0.8  # ratio of `difflib` over which an unknown member is a typing error


def _check_id(value: Any) -> int | str:
    if type(value) not in (int, str):
        raise ValueError(f"should be an integer or a string, got {value!r}")
    return value


def _check_ignore(value: Any) -> bool:
    """Refuse 1, which is the evaluation flag of COCO's tools and must not leave a face untouched."""
    if value in (True, False) and (type(value) is bool or not value):
        return bool(value)
    raise ValueError(f"should be true or false, got {value!r}")


_Coordinate = Annotated[float, Field(allow_inf_nan=False, gt=-_FAR, lt=_FAR)]


class _Member(BaseModel):
    model_config = ConfigDict(strict=True)


class CocoImage(_Member):
    """Entry of `images`."""

    id: Annotated[int | str, PlainValidator(_check_id)]
    file_name: str
    width: PositiveInt | None = None
    height: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_size(self) -> CocoImage:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height should both be given, or neither")
        return self


class _Category(_Member):
    id: Any = None
    name: Any = None


class CocoBox(_Member):
    """Entry of `annotations`, or of a list of results."""

    image_id: Annotated[int | str | None, PlainValidator(_check_id)] = None
    file_name: str | None = None
    bbox: Annotated[list[_Coordinate], Field(min_length=4, max_length=4)]
    score: Annotated[float, Field(ge=0, le=1)] = 1.0
    keypoints: list[_Coordinate] | None = None
    category_id: Any = None

    @field_validator("bbox")
    @classmethod
    def _check_bbox(cls, bbox: list[float]) -> list[float]:
        if bbox[2] <= 0 or bbox[3] <= 0:
            raise ValueError(f"is {bbox[2]:g} wide and {bbox[3]:g} high, both should be over 0")
        return bbox

    @field_validator("keypoints")
    @classmethod
    def _check_keypoints(cls, keypoints: list[float] | None) -> list[float] | None:
        if keypoints and len(keypoints) not in (10, 15):
            raise ValueError(f"should be 5 points, of 3 numbers (x, y, visibility) or 2, got {len(keypoints)} numbers")
        return keypoints

    @model_validator(mode="after")
    def _check_sides(self) -> CocoBox:
        points = self.points
        if points is not None:
            eyes, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
            if np.linalg.norm(eyes) > 0.2 * self.bbox[2] and eyes[0] * down[1] < eyes[1] * down[0]:  # no profile
                raise ValueError("keypoints have left and right swapped: begin with the subject's own right eye")
        return self

    @property
    def points(self) -> np.ndarray | None:
        """Five points, (5, 2) float32; None if one is missing or not labelled."""
        if not self.keypoints:
            return None
        points = np.array(self.keypoints, np.float32).reshape(5, -1)
        return None if (points[:, 2:] <= 0).any() else points[:, :2].copy()

    @property
    def detection(self) -> Detection:
        """The face, its box not yet clipped to the photo."""
        x, y, width, height = self.bbox
        return Detection((x, y, x + width, y + height), self.score, DETECTOR, self.points)


class CocoAnnotation(CocoBox):
    """Box with the attributes kept and changed of its face."""

    keep: list[str] | None = None
    change: dict[str, Any] | None = None
    ignore: Annotated[bool, BeforeValidator(_check_ignore)] = False

    @model_validator(mode="before")
    @classmethod
    def _check_spelling(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            close = get_close_matches(name, ("keep", "change", "ignore"), 1, _SIMILAR)
            if close and name not in cls.model_fields:
                raise ValueError(f"unknown member {name!r}: did you mean {close[0]}?")
        return values

    @model_validator(mode="after")
    def _check_ignored(self) -> CocoAnnotation:
        if self.ignore and (self.keep is not None or self.change is not None):
            raise ValueError("an ignored face keeps everything: leave out ignore, or keep and change")
        return self

    def selection(self, keep: Sequence[str] | None, change: Mapping[str, str]) -> AttributeSelection | None:
        """Return the face's own selection, completed by the run's; None without one. Raises UsageError."""
        if self.keep is None and self.change is None:
            return None
        return make_selection(keep if self.keep is None else self.keep, change if self.change is None else self.change)


class CocoOverride(CocoAnnotation):
    """Entry of a list of overrides, the format of `--wishes`."""

    model_config = ConfigDict(extra="forbid")

    file_name: str = Field(alias="image")
    bbox: Annotated[list[_Coordinate], Field(min_length=4, max_length=4, alias="box")]

    @model_validator(mode="after")
    def _check_selection(self) -> CocoOverride:
        if self.keep is None and self.change is None:
            raise ValueError("should have keep or change")
        return self


class _CocoFile(_Member):
    images: list[CocoImage]
    categories: list[_Category] = []
    annotations: list[Any]


def _read_coco(path: str | Path, kind: type[CocoBox]) -> tuple[list[CocoImage] | None, dict[str, CocoBox]]:
    """Read `images`, None for a list of results, and the faces' entries by their places. Raises UsageError."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error.strerror or error)}): check its name") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({one_line(error)[:120]}): give a COCO file") from error
    is_list = isinstance(content, list)
    if not is_list and (kind is CocoOverride or not isinstance(content, dict)):
        expected = "a list of objects" if kind is CocoOverride else "an object with images and annotations, or a list"
        raise UsageError(f"{path}: should be {expected}")
    key = "" if is_list else "annotations"
    try:
        coco = _CocoFile(images=[], annotations=content) if is_list else _CocoFile.model_validate(content)
        schema: TypeAdapter[dict[str, list[CocoBox]]] = TypeAdapter(dict[str, list[kind]])  # type: ignore[valid-type]
        entries = schema.validate_python({key: coco.annotations})[key]
    except ValidationError as error:
        raise UsageError(f"{path}: {validation_message(error)}") from error
    ids = [category.id for category in coco.categories if str(category.name).lower() == "face"]
    number = len(coco.categories)
    if number > 1 and len(ids) != 1:
        raise UsageError(f"{path}: categories: {len(ids)} of {number} are called face, expected one")
    places = {f"{key}[{index}]": entry for index, entry in enumerate(entries)}
    faces = {place: entry for place, entry in places.items() if number < 2 or entry.category_id in (None, *ids)}
    return None if is_list else coco.images, faces


@dataclass(frozen=True)
class AnnotatedFace:
    """Face of a file: its entry, for messages, its unclipped box, its attributes if any, and whether it is ignored."""

    place: str
    detection: Detection
    selection: AttributeSelection | None = None
    ignore: bool = False


@dataclass(frozen=True)
class AnnotatedImage:
    """Image of a file: its name, (width, height) if the file gives them, and its faces."""

    name: str
    size: tuple[int, int] | None
    faces: list[AnnotatedFace] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Images and face boxes of a COCO file.

    Attributes:
        source: the file's name for messages and reports, never an absolute path.
        photos: file name, normalised, to image.
        endings: every ending of a file name (last part, last two, ...) to the file names that have it.
    """

    source: str
    photos: Mapping[str, AnnotatedImage]
    endings: Mapping[str, Sequence[str]]

    def of(self, name: str, shape: tuple[int, int]) -> list[Detection] | None:
        """Return the faces of a photo, boxes clipped to it; None for a photo that the file does not list.

        Args:
            name: path of the photo below the input folder, with or without that folder's own. It is looked up as by
                `find`.
            shape: (height, width) of the upright photo.

        Raises:
            ImageError: several photos match, a box lies outside the photo, or the file gives it another size.
        """
        photo = self.find(name)
        if photo is None:
            return None
        height, width = shape
        if photo.size and photo.size != (width, height):
            sizes = f"{photo.size[0]} x {photo.size[1]} there, the upright photo {width} x {height}"
            raise ImageError(f"{self.source}: {photo.name} is {sizes}: draw its boxes on the upright photo")
        detections = []
        for face in photo.faces:
            x0, y0, x1, y1 = face.detection.box
            box = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
            if box[0] >= box[2] or box[1] >= box[3]:
                sizes = f"{photo.name} ({width} x {height})"
                raise ImageError(f"{self.source}: {face.place}: the box lies outside {sizes}: correct it")
            detections.append(replace(face.detection, box=box))
        return detections

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of a run's photos that the file does not list. Raises DeidError for ambiguous names."""
        absent: list[str] = []
        owners: dict[str, str] = {}
        for name in names:
            photo = self.find(name)
            if photo is None:
                absent.append(name)
            elif (owner := owners.setdefault(photo.name, name)) != name:
                raise UsageError(f"{self.source}: {photo.name} could be {owner} or {name}: write its folder, too")
        return absent

    def find(self, name: str) -> AnnotatedImage | None:
        """Return the file's entry of a photo. Raises ImageError if several match.

        A photo is looked up by its path as the file writes it; else by the only path in the file that ends in `name` or
        that `name` ends in: `a.jpg` is `cam1/a.jpg` unless there are several `a.jpg`, but `cam2/a.jpg` never is.
        """
        key = _normalise(name)
        if key in self.photos:
            return self.photos[key]
        matches = [*self.endings.get(key, ()), *(end for end in _endings(key) if end in self.photos)]
        if len(matches) > 1:
            places = f"{matches[0]} or {matches[1]}"
            raise ImageError(f"{self.source}: {name} could be {places}: give its path below the input")
        return self.photos[matches[0]] if matches else None


class ProcessedRegions(Boxes):
    """Regions of each photo in which faces are processed: everything but the boxes of ignored faces."""

    def of(self, name: str, shape: tuple[int, int]) -> list[Detection] | None:
        """Return the boxes of the other faces, and rectangles that tile the plane around the ignored boxes.

        A face that the file lacks is thus processed, and so is an ignored face that coincides with another.
        """
        photo, detections = self.find(name), super().of(name, shape)
        if photo is None or detections is None:
            return None
        regions, processed = [(-_FAR, -_FAR, _FAR, _FAR)], []
        for face, detection in zip(photo.faces, detections, strict=True):
            if face.ignore:
                regions = [part for region in regions for part in _around(detection.box, region)]
            else:
                processed.append(detection)
        return [*processed, *(Detection(region, 1.0, DETECTOR) for region in regions)]


_Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1


def _around(box: _Rectangle, region: _Rectangle) -> list[_Rectangle]:
    """Return up to four rectangles that tile a region without a box."""
    left, top, right, bottom = region
    x0, y0, x1, y1 = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
    if x0 >= x1 or y0 >= y1:
        return [region]
    parts = [(left, top, right, y0), (left, y1, right, bottom), (left, y0, x0, y1), (x1, y0, right, y1)]
    return [part for part in parts if part[0] < part[2] and part[1] < part[3]]


@dataclass(frozen=True)
class FaceOverride:
    """Attributes of the face whose box is the place, else of all faces centred in it or of an IoU with it over 0.2."""

    place: Detection
    selection: AttributeSelection


@dataclass(frozen=True, eq=False)
class FaceOverrides:
    """Overrides of the faces of a file."""

    boxes: Boxes

    def of(self, name: str, shape: tuple[int, int]) -> tuple[FaceOverride, ...]:
        """Return the overrides of a photo. Arguments and errors are those of `Boxes.of`."""
        photo, places = self.boxes.find(name), self.boxes.of(name, shape)
        if photo is None or places is None:
            return ()
        faces = zip(places, photo.faces, strict=True)
        return tuple(FaceOverride(place, face.selection) for place, face in faces if face.selection is not None)

    def all(self) -> list[AttributeSelection]:
        """Return the selections of all faces of the file."""
        selections = (face.selection for photo in self.boxes.photos.values() for face in photo.faces)
        return [selection for selection in selections if selection is not None]

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError if a photo with overrides or ignored faces is none of a run's photos."""
        used, file = {photo.name for photo in map(self.boxes.find, names) if photo is not None}, self.boxes.source
        for photo in self.boxes.photos.values():
            special = any(face.ignore or face.selection is not None for face in photo.faces)
            if special and photo.name not in used:
                raise UsageError(f"{file}: {photo.name} is none of the photos: correct its name or remove it")


@dataclass(frozen=True, eq=False)
class Annotations:
    """Content of a COCO file: faces that replace the detectors', regions to process (None: all), and overrides."""

    boxes: Boxes
    regions: ProcessedRegions | None
    overrides: FaceOverrides


def read_annotations(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> Annotations:
    """Read a COCO file, in a format of `read_boxes`, whose annotations may have `keep`, `change` and `ignore`.

    `keep` is a list of attributes and phrases, `change` an object of attributes and words, as for `make_selection`; the
    run's own, `keep` and `change`, complete them. `ignore`, true or false, leaves the face untouched. An image without
    annotations has no faces. Raises UsageError with the file, the entry and the reason.
    """
    boxes = _make_boxes(path, CocoAnnotation, keep, change)
    default = make_selection(keep, change)
    ignored = any(face.ignore for photo in boxes.photos.values() for face in photo.faces)
    for photo in boxes.photos.values():
        if any(face.selection is not None for face in photo.faces):  # or an override might reach its neighbours
            photo.faces[:] = [replace(face, selection=face.selection or default) for face in photo.faces]
    regions = ProcessedRegions(boxes.source, boxes.photos, boxes.endings) if ignored else None
    return Annotations(boxes, regions, FaceOverrides(boxes))


def read_boxes(path: str | Path) -> Boxes:
    """Read a COCO file (Lin et al., "Microsoft COCO", ECCV 2014): an object, or a list of results.

    The object has `images` (`id`, `file_name` and, optionally, `width` and `height` of the upright photo) and
    `annotations` (`image_id`, `bbox`); the list has entries with `file_name` and `bbox`. A `bbox` is [x, y, width,
    height] in pixels of the upright photo. An entry may have a `score`, 0 to 1, and `keypoints`: five points, 15
    numbers (x, y, visibility) or 10 (x, y), in the order right eye, left eye, nose, right and left mouth corner, where
    right is the subject's own; they are left out if one of them is not labelled (visibility 0). Where `categories` has
    several names, only entries of the category "face" count. Raises UsageError with the file, the entry and the reason.
    """
    return _make_boxes(path, CocoBox)


def read_overrides(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> FaceOverrides:
    """Read a list of objects {"image": name, "box": [x, y, width, height], "keep": [...], "change": {...}}.

    Boxes, arguments and errors are those of `read_annotations`.
    """
    return FaceOverrides(_make_boxes(path, CocoOverride, keep, change))


def _make_boxes(
    path: str | Path, kind: type[CocoBox], keep: Sequence[str] | None = None, change: Mapping[str, str] | None = None
) -> Boxes:
    """Read the images and faces of a file whose entries are of a kind. Raises UsageError."""
    images, entries = _read_coco(path, kind)
    photos: dict[str, AnnotatedImage] = {}
    by_id: dict[int | str, AnnotatedImage] = {}
    for index, image in enumerate(images or ()):
        name = _normalise(image.file_name)
        if image.id in by_id or name in photos:
            raise UsageError(f"{path}: images[{index}]: an earlier image has the same id or file_name")
        size = None if image.width is None or image.height is None else (image.width, image.height)
        by_id[image.id] = photos[name] = AnnotatedImage(image.file_name, size)
    for place, entry in entries.items():
        selection, ignore = None, False
        try:
            if images is not None:
                if entry.image_id not in by_id:
                    reason = f"{entry.image_id!r} is the id of none of the images"
                    raise UsageError(f"image_id {'is missing' if entry.image_id is None else reason}")
                photo = by_id[entry.image_id]
            elif entry.file_name is not None:
                photo = photos.setdefault(_normalise(entry.file_name), AnnotatedImage(entry.file_name, None))
            else:
                raise UsageError("file_name is missing")
            if isinstance(entry, CocoAnnotation):
                selection, ignore = entry.selection(keep, change or {}), entry.ignore
        except UsageError as error:
            raise UsageError(f"{path}: {place}: {error}") from error
        photo.faces.append(AnnotatedFace(place, entry.detection, selection, ignore))
    endings: dict[str, list[str]] = {}
    for name in photos:
        for end in _endings(name):
            endings.setdefault(end, []).append(name)
    return Boxes(display_name(Path(path)), photos, endings)


def match_overrides(
    faces: Sequence[Detection], overrides: Sequence[FaceOverride], selection: AttributeSelection
) -> list[AttributeSelection]:
    """Return the attributes of each face: those of its last override, else `selection`.

    Raises UsageError for an override of no face, which would be silently ignored.
    """
    selections = [selection] * len(faces)
    exact = {override.place.box for override in overrides}
    for override in overrides:
        rows = [k for k, face in enumerate(faces) if lies_at(face, [override.place])]
        if not rows:
            x0, y0, x1, y1 = override.place.box
            place = f"[{x0:g}, {y0:g}, {x1 - x0:g}, {y1 - y0:g}]"
            raise UsageError(f"no face is at {place}: correct the box, or remove its keep and change")
        for k in rows:
            if faces[k].box == override.place.box or faces[k].box not in exact:
                selections[k] = override.selection
    return selections


def _normalise(name: str) -> str:
    """Return a path in one spelling: forward slashes, no `.` parts, composed letters."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).as_posix()


def _endings(key: str) -> list[str]:
    """Return the proper endings of a path: `a/b/c.jpg` has `b/c.jpg` and `c.jpg`."""
    parts = key.split("/")
    return ["/".join(parts[k:]) for k in range(1, len(parts))]


def write_annotations(path: str | Path, records: Iterable[ImageRecord], *, overwrite: bool = False) -> None:
    """Write detections as a COCO file that `read_annotations` and COCO's own tools read.

    The `action` of a face becomes a member of its annotation. Photos that could not be read are left out. Raises
    ImageError if the file cannot be written, or exists and is not to be overwritten.
    """
    images, annotations = list[object](), list[object]()
    readable = [record for record in records if record.width and record.height]
    for number, record in enumerate(readable, 1):
        images.append({"id": number, "file_name": record.input, "width": record.width, "height": record.height})
        for face in record.faces:
            x0, y0, x1, y1 = face.box
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            place = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            annotations.append({**ids, **place, "score": face.score, "action": face.action})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    write_atomic(Path(path), json.dumps(content, allow_nan=False).encode() + b"\n", overwrite=overwrite)
