"""Wishes for single faces: a JSON file of photos, boxes, and what to keep and change of the face that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .attributes.choice import AttributeChoice, choose
from .boxes import Boxes, make_boxes, member, normalised, objects, read_json
from .errors import UsageError
from .faces.detected_face import DetectedFace
from .selection import lies_at

_MEMBERS = ("image", "box", "keep", "change")


@dataclass(frozen=True)
class FaceWish:
    """What is to be kept and changed of one face of a photo.

    Attributes:
        place: where it is; any face counts whose box has its centre in this one, or overlaps it by over a fifth.
        choice: the wish.
    """

    place: DetectedFace
    choice: AttributeChoice


@dataclass(frozen=True, eq=False)
class Wishes:
    """The wishes of a file. Made by `read_wishes`.

    Attributes:
        boxes: its photos and places.
        choices: a photo's name, normalised -> a choice for each of its places, in the file's order.
    """

    boxes: Boxes
    choices: Mapping[str, Sequence[AttributeChoice]]

    def of(self, name: str, shape: tuple[int, int]) -> tuple[FaceWish, ...]:
        """The wishes for a photo, which is found as by `Boxes.of`. Raises ImageError, as that does.

        Args:
            name: path of the photo below the input folder, with or without that folder's own.
            shape: (height, width) of the upright photo.
        """
        photo, places = self.boxes.find(name), self.boxes.of(name, shape)
        if photo is None or places is None:
            return ()
        choices = self.choices[normalised(photo.name)]
        return tuple(FaceWish(place, choice) for place, choice in zip(places, choices, strict=True))

    def all(self) -> list[AttributeChoice]:
        """The choices for all faces of the file."""
        return [choice for choices in self.choices.values() for choice in choices]

    def check(self, names: Iterable[str]) -> None:
        """Raise UsageError unless every photo of the file is one of a run's, whose names are given."""
        if absent := self.boxes.unused(names):
            raise UsageError(f"{self.boxes.source}: {absent[0]} is none of the photos: correct its name or take it out")


def read_wishes(path: str | Path, keep: Sequence[str] | None, change: Mapping[str, str]) -> Wishes:
    """Read a list of objects {"image": name, "box": [x, y, width, height], "keep": [...], "change": {...}}.

    A box is in pixels of the upright photo; `keep` and `change` are those of `choose`.

    Args:
        path: the file.
        keep, change: the run's own, for objects that lack one of the two.

    Raises:
        UsageError: with the file, the entry and the reason.
    """
    entries: list[Any] = []
    choices: dict[str, list[AttributeChoice]] = {}
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
            choices.setdefault(normalised(image), []).append(choose(wished, words))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        entries.append({"file_name": image, "bbox": entry["box"]})
    return Wishes(make_boxes(path, entries), choices)


def match_wishes(
    faces: Sequence[DetectedFace], wishes: Sequence[FaceWish], choice: AttributeChoice
) -> list[AttributeChoice]:
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
