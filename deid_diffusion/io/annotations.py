"""Face annotations in COCO files: boxes, attributes kept and changed per face, and faces to ignore."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..attributes.selection import AttributeSelection, make_selection
from ..batch.planning import display_name
from ..errors import ImageError, UsageError
from ..faces.boxes import Detection
from ..faces.selection import lies_at
from .coco import DETECTOR, FAR, CocoAnnotation, CocoBox, CocoImage, CocoOverride, read_coco


@dataclass(frozen=True)
class AnnotatedFace:
    """Face of a file.

    Attributes:
        place: its entry in the file, for messages.
        detection: its box, as the file gives it, score and points.
        selection: attributes kept and changed; None if the entry selects none.
        ignore: whether the face is left untouched.
    """

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
    """Images and face boxes of a COCO file. Made by `read_boxes`.

    Attributes:
        source: the file's name for messages and reports: as given, but never an absolute path.
        photos: file name, normalised, to image.
        endings: every ending of a file name (last part, last two, ...) to the file names that have it.
    """

    source: str
    photos: Mapping[str, AnnotatedImage]
    endings: Mapping[str, Sequence[str]]

    def of(self, name: str, shape: tuple[int, int]) -> list[Detection] | None:
        """Return the faces of a photo, boxes clipped to it.

        A photo is looked up by its path as the file writes it; else by the only path in the file that ends in `name` or
        that `name` ends in: `a.jpg` is `cam1/a.jpg` unless there are several `a.jpg`, but `cam2/a.jpg` never is.

        Args:
            name: path of the photo below the input folder, with or without that folder's own.
            shape: (height, width) of the upright photo.

        Returns:
            An empty list for a photo that the file lists without faces; None for one that it does not list.

        Raises:
            ImageError: several photos of the file match this name, a box lies outside the photo, or the file gives the
                photo another size.
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
        """Return those of a run's photos that the file does not list.

        Raises:
            ImageError: several photos of the file match a name.
            UsageError: a photo of the file matches two of the names.
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

    def find(self, name: str) -> AnnotatedImage | None:
        """Return the file's entry of a photo, looked up as by `of`. Raises ImageError if several match."""
        key = _normalise(name)
        if key in self.photos:
            return self.photos[key]
        matches = [*self.endings.get(key, ()), *(end for end in _endings(key) if end in self.photos)]
        if len(matches) > 1:
            options = f"{matches[0]} or {matches[1]}"
            raise ImageError(f"{self.source}: {name} could be {options}: give its path below the input")
        return self.photos[matches[0]] if matches else None


class ProcessedRegions(Boxes):
    """Regions of each photo in which faces are processed: everything but the boxes of ignored faces."""

    def of(self, name: str, shape: tuple[int, int]) -> list[Detection] | None:
        """Return rectangles that tile the plane around ignored boxes, and the boxes of the other faces.

        A face that the file does not list is thus processed, and so is an ignored face that coincides with another.
        """
        photo, detections = self.find(name), super().of(name, shape)
        if photo is None or detections is None:
            return None
        regions = [(-FAR, -FAR, FAR, FAR)]
        processed = []
        for face, detection in zip(photo.faces, detections, strict=True):
            if face.ignore:
                regions = [part for region in regions for part in _around(detection.box, region)]
            else:
                processed.append(detection)
        return [*processed, *(Detection(region, 1.0, DETECTOR) for region in regions)]


_Rectangle = tuple[float, float, float, float]


def _around(box: _Rectangle, region: _Rectangle) -> list[_Rectangle]:
    """Return up to four rectangles that tile a region without a box; each is x0, y0, x1, y1."""
    left, top, right, bottom = region
    x0, y0, x1, y1 = max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)
    if x0 >= x1 or y0 >= y1:
        return [region]
    parts = [(left, top, right, y0), (left, y1, right, bottom), (left, y0, x0, y1), (x1, y0, right, y1)]
    return [part for part in parts if part[0] < part[2] and part[1] < part[3]]


@dataclass(frozen=True)
class FaceOverride:
    """Attributes kept and changed of single faces of a photo.

    Attributes:
        place: region of the photo. It means a face of the same box, else every face whose centre lies in it or that
            overlaps it by over a fifth (intersection over union).
        selection: the attributes.
    """

    place: Detection
    selection: AttributeSelection


@dataclass(frozen=True, eq=False)
class FaceOverrides:
    """Overrides of a file. Made by `read_overrides` and `read_annotations`.

    Attributes:
        boxes: its photos and faces.
    """

    boxes: Boxes

    def of(self, name: str, shape: tuple[int, int]) -> tuple[FaceOverride, ...]:
        """Return the overrides of a photo, looked up as by `Boxes.of`. Raises ImageError, as that does.

        Args:
            name: path of the photo below the input folder, with or without that folder's own.
            shape: (height, width) of the upright photo.
        """
        photo, places = self.boxes.find(name), self.boxes.of(name, shape)
        if photo is None or places is None:
            return ()
        faces = zip(places, photo.faces, strict=True)
        return tuple(FaceOverride(place, face.selection) for place, face in faces if face.selection is not None)

    def all(self) -> list[AttributeSelection]:
        """Return the selections of all faces of the file."""
        faces = [face for photo in self.boxes.photos.values() for face in photo.faces]
        return [face.selection for face in faces if face.selection is not None]

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError if a photo with overrides or ignored faces is none of a run's photos."""
        used = {photo.name for photo in map(self.boxes.find, names) if photo is not None}
        for photo in self.boxes.photos.values():
            special = any(face.ignore or face.selection is not None for face in photo.faces)
            if special and photo.name not in used:
                raise UsageError(
                    f"{self.boxes.source}: {photo.name} is none of the photos: correct its name or remove it"
                )


@dataclass(frozen=True, eq=False)
class Annotations:
    """All that a COCO file says of a run's faces. Made by `read_annotations`.

    Attributes:
        boxes: all faces, which stand in for the detectors'.
        regions: where faces are processed; None if no face is ignored.
        overrides: attributes of single faces.
    """

    boxes: Boxes
    regions: ProcessedRegions | None
    overrides: FaceOverrides


def read_annotations(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> Annotations:
    """Read a COCO file whose annotations may have `keep`, `change` and `ignore`.

    `keep` is a list of attributes and phrases, `change` an object of attributes and words, as for `make_selection`;
    `ignore`, true or false, leaves the face untouched. An image without annotations has no faces.

    Args:
        path: the file, in a format of `read_boxes`.
        keep, change: the run's own, for annotations that lack one of the two.

    Raises:
        UsageError: with the file, the entry and the reason.
    """
    boxes = _make_boxes(path, CocoAnnotation, keep, change)
    default = make_selection(keep, change)
    ignored = False
    for photo in boxes.photos.values():
        ignored |= any(face.ignore for face in photo.faces)
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
    several names, only entries of the category "face" count.

    Raises:
        UsageError: with the file, the entry and the reason.
    """
    return _make_boxes(path, CocoBox)


def read_overrides(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> FaceOverrides:
    """Read a list of objects {"image": name, "box": [x, y, width, height], "keep": [...], "change": {...}}.

    A box is in pixels of the upright photo; `keep` and `change` are those of `make_selection`.

    Args:
        path: the file.
        keep, change: the run's own, for objects that lack one of the two.

    Raises:
        UsageError: with the file, the entry and the reason.
    """
    return FaceOverrides(_make_boxes(path, CocoOverride, keep, change))


def _make_boxes(
    path: str | Path,
    kind: type[CocoBox],
    keep: Sequence[str] | None = None,
    change: Mapping[str, str] | None = None,
) -> Boxes:
    """Return the images and faces of a file whose entries are of a kind. Raises UsageError."""
    coco = read_coco(path, kind)
    photos: dict[str, AnnotatedImage] = {}
    by_id = None if coco.images is None else _index_images(path, coco.images, photos)
    for place, entry in coco.entries.items():
        photo = _image_of(f"{path}: {place}", entry, photos, by_id)
        selection, ignore = None, False
        if isinstance(entry, CocoAnnotation):
            try:
                selection, ignore = entry.selection(keep, change or {}), entry.ignore
            except UsageError as error:
                raise UsageError(f"{path}: {place}: {error}") from error
        photo.faces.append(AnnotatedFace(place, entry.detection, selection, ignore))
    endings: dict[str, list[str]] = {}
    for name in photos:
        for end in _endings(name):
            endings.setdefault(end, []).append(name)
    return Boxes(display_name(Path(path)), photos, endings)


def _index_images(
    path: str | Path, images: Sequence[CocoImage], photos: dict[str, AnnotatedImage]
) -> dict[int | str, AnnotatedImage]:
    """Add the file's `images` to `photos`, and return them by id. Raises UsageError for duplicates."""
    by_id: dict[int | str, AnnotatedImage] = {}
    for index, image in enumerate(images):
        name = _normalise(image.file_name)
        if image.id in by_id or name in photos:
            raise UsageError(f"{path}: images[{index}]: an earlier image has the same id or file_name")
        size = None if image.width is None or image.height is None else (image.width, image.height)
        by_id[image.id] = photos[name] = AnnotatedImage(image.file_name, size)
    return by_id


def _image_of(
    place: str, entry: CocoBox, photos: dict[str, AnnotatedImage], by_id: Mapping[int | str, AnnotatedImage] | None
) -> AnnotatedImage:
    """Return the image of an entry: by its id, or if there are no ids by its name. Raises UsageError."""
    if by_id is None:
        if entry.file_name is None:
            raise UsageError(f"{place}: file_name is missing")
        return photos.setdefault(_normalise(entry.file_name), AnnotatedImage(entry.file_name, None))
    if entry.image_id is None:
        raise UsageError(f"{place}: image_id is missing")
    if entry.image_id not in by_id:
        raise UsageError(f"{place}: image_id {entry.image_id!r} is the id of none of the images")
    return by_id[entry.image_id]


def match_overrides(
    faces: Sequence[Detection], overrides: Sequence[FaceOverride], selection: AttributeSelection
) -> list[AttributeSelection]:
    """Return the attributes of each face: those of the last override that means it, else `selection`.

    Raises:
        UsageError: an override means no face, and would be silently ignored.
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
