"""COCO files of faces: their schema, reading and writing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

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
from ..errors import UsageError, one_line, validation_message
from ..faces.boxes import Detection
from .files import write_atomic

if TYPE_CHECKING:
    from ..results import ImageRecord


DETECTOR = "boxes"
"""Name that faces from a file have in place of their detector's."""

FAR = 1e9
"""Coordinate beyond any photo, in pixels."""

_SIMILAR = 0.8  # ratio of `difflib` over which an unknown member is a typing error


def _check_id(value: Any) -> int | str:
    if type(value) not in (int, str):
        raise ValueError(f"should be an integer or a string, got {value!r}")
    return value


def _check_ignore(value: Any) -> bool:
    """Take true only: numbers are the evaluation flag of COCO's tools, which must not leave a face untouched."""
    if value in (True, False) and (type(value) is bool or not value):
        return bool(value)
    raise ValueError(f"should be true or false, got {value!r}")


_Coordinate = Annotated[float, Field(allow_inf_nan=False, gt=-FAR, lt=FAR)]
_Name = Annotated[str, Field(strict=True)]


class _Member(BaseModel):
    model_config = ConfigDict(strict=True)


class CocoImage(_Member):
    """Entry of `images`."""

    id: Annotated[int | str, PlainValidator(_check_id)]
    file_name: _Name
    width: PositiveInt | None = None
    height: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_size(self) -> CocoImage:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height should both be given, or neither")
        return self


class _Category(_Member):
    """Entry of `categories`."""

    id: Any = None
    name: Any = None


class CocoBox(_Member):
    """Entry of `annotations`, or of a list of results."""

    image_id: Annotated[int | str | None, PlainValidator(_check_id)] = None
    file_name: _Name | None = None
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
        """(5, 2) float32, or None if a point is missing or not labelled."""
        if not self.keypoints:
            return None
        points = np.array(self.keypoints, np.float32).reshape(5, -1)
        return None if (points[:, 2:] <= 0).any() else points[:, :2].copy()

    @property
    def detection(self) -> Detection:
        """The face, its box not yet clipped to the photo."""
        x, y, width, height = self.bbox
        return Detection((x, y, x + width, y + height), self.score, DETECTOR, self.points)


_SPECIAL = ("keep", "change", "ignore")


class CocoAnnotation(CocoBox):
    """Box with the attributes kept and changed of its face."""

    keep: list[str] | None = None
    change: dict[str, Any] | None = None
    ignore: Annotated[bool, BeforeValidator(_check_ignore)] = False

    @model_validator(mode="before")
    @classmethod
    def _check_spelling(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if name not in cls.model_fields and (close := get_close_matches(name, _SPECIAL, 1, _SIMILAR)):
                raise ValueError(f"unknown member {name!r}: did you mean {close[0]}?")
        return values

    @model_validator(mode="after")
    def _check_ignored(self) -> CocoAnnotation:
        if self.ignore and (self.keep is not None or self.change is not None):
            raise ValueError("an ignored face keeps everything: leave out ignore, or keep and change")
        return self

    def selection(self, keep: Sequence[str] | None, change: Mapping[str, str]) -> AttributeSelection | None:
        """Return the face's own selection, completed by the run's. Raises UsageError."""
        if self.keep is None and self.change is None:
            return None
        return make_selection(keep if self.keep is None else self.keep, change if self.change is None else self.change)


class CocoOverride(CocoAnnotation):
    """Entry of a list of overrides, the format of `--wishes`."""

    model_config = ConfigDict(extra="forbid")

    file_name: _Name = Field(alias="image")
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


_Entry = TypeVar("_Entry", bound=CocoBox)


@dataclass(frozen=True)
class CocoContent(Generic[_Entry]):
    """Checked content of a file.

    Attributes:
        images: the entries of `images`; None for a list of results.
        entries: place in the file, for messages -> entry of a face.
    """

    images: list[CocoImage] | None
    entries: Mapping[str, _Entry]


def read_coco(path: str | Path, kind: type[_Entry]) -> CocoContent[_Entry]:
    """Read a file whose entries are of a kind. Raises UsageError with the file, the entry and the reason."""
    content = read_json(path)
    is_list = isinstance(content, list)
    if not is_list and (kind is CocoOverride or not isinstance(content, dict)):
        expected = "a list of objects" if kind is CocoOverride else "an object with images and annotations, or a list"
        raise UsageError(f"{path}: should be {expected}")
    key = "" if is_list else "annotations"
    try:
        coco = _CocoFile(images=[], annotations=content) if is_list else _CocoFile.model_validate(content)
        schema: TypeAdapter[dict[str, list[_Entry]]] = TypeAdapter(dict[str, list[kind]])  # type: ignore[valid-type]
        entries = schema.validate_python({key: coco.annotations})[key]
    except ValidationError as error:
        raise UsageError(f"{path}: {validation_message(error)}") from error
    category = _face_category(path, coco.categories)
    faces = {
        f"{key}[{index}]": entry
        for index, entry in enumerate(entries)
        if category is None or entry.category_id in (None, category)
    }
    return CocoContent(None if is_list else coco.images, faces)


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file. Raises UsageError."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error.strerror or error)}): check its name") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON ({one_line(error)[:120]}): give a COCO file") from error


def _face_category(path: str | Path, categories: Sequence[_Category]) -> Any:
    """Return the id of the category of faces; None if all entries are faces. Raises UsageError."""
    ids = [category.id for category in categories if str(category.name).lower() == "face"]
    if len(categories) > 1 and len(ids) != 1:
        raise UsageError(f"{path}: categories: {len(ids)} of {len(categories)} are called face, expected one")
    return ids[0] if len(categories) > 1 else None


def write_annotations(path: str | Path, records: Iterable[ImageRecord], *, overwrite: bool = False) -> None:
    """Write detections as a COCO file that `read_annotations` and COCO's own tools read.

    Args:
        path: the file; its folder must exist.
        records: of each photo; those without a size, which could not be read, are left out. The `action` of a face
            becomes a member of its annotation.
        overwrite: replace an existing file.

    Raises:
        ImageError: the file cannot be written.
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
