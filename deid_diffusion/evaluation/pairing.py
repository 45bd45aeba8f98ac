"""Which result belongs to which original, whose photo it is, and what a table says of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import UsageError, one_line
from ..faces.alignment import invert, transform
from ..faces.analysis import analyse_face
from ..faces.boxes import Detection
from ..faces.landmarks import Landmarker, five_points
from ..identity.recognition import Recogniser
from ..io.images import READABLE

_NEAR = 0.4  # how far a result's face may lie from the original's, in widths of the original's box
_MESH_SIZE = 128  # side of the crop whose mesh is looked at, in pixels; the points are in photo pixels again


def stack(rows: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
    """N embeddings of originals and results as (N, D) and (N, D) float32; None becomes a row of NaN."""
    width = next((len(vector) for row in rows for vector in row if vector is not None), 1)
    nobody = np.full(width, np.nan, np.float32)
    table = np.array([[nobody if vector is None else vector for vector in row] for row in rows], np.float32)
    table = table.reshape(len(rows), 2, width)
    return table[:, 0], table[:, 1]


def largest(faces: Sequence[Detection]) -> Detection | None:
    """The face with the largest box, or None."""
    return max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), default=None)


def nearest(faces: Sequence[Detection], box: np.ndarray) -> Detection | None:
    """The face whose centre is nearest to that of a box (4,), and within 0.4 of its widths; else None."""
    away = [float(np.linalg.norm(np.array(f.box)[:2] + np.array(f.box)[2:] - box[:2] - box[2:])) / 2 for f in faces]
    best = int(np.argmin(away)) if away else -1
    return faces[best] if away and away[best] < _NEAR * (box[2] - box[0]) else None


def face_points(photo: np.ndarray, face: Detection, landmarker: Landmarker | None) -> np.ndarray | None:
    """(5, 2) photo pixels of a detected face, in `Recogniser`'s order: its mesh's, else the detector's, else None."""
    mesh = None if landmarker is None else face_mesh(photo, face, landmarker)
    return face.points if mesh is None else five_points(mesh)


def face_mesh(photo: np.ndarray, face: Detection, landmarker: Landmarker) -> np.ndarray | None:
    """(478, 2) photo pixels: the mesh of a detected face, or None."""
    seen = analyse_face(photo, face, landmarker, _MESH_SIZE)
    return None if seen.mesh is None else transform(seen.mesh, invert(seen.matrix))


def embed(photo: np.ndarray, points: np.ndarray | None, recogniser: Recogniser) -> np.ndarray | None:
    """The recogniser's embedding, (D,), of the face at five points, or None where there are none."""
    return None if points is None else recogniser(photo, points)


FILE_COLUMNS = ("file", "photo", "original", "name")
"""Names, the first that is there, of the column of a labels table that names the photo."""

_LARGEST_GROUPING = 20  # a column of more different values is no grouping but a description


@dataclass(frozen=True)
class Pair:
    """An original, its result, and whose photo it is.

    Attributes:
        name: of the original, without suffix.
        person: all photos of one person carry the same name.
        original: the file.
        result: likewise.
    """

    name: str
    person: str
    original: Path
    result: Path


@dataclass(frozen=True)
class Matching:
    """What two folders have in common.

    Attributes:
        pairs: by name.
        without_result: names of originals that have no result.
        without_original: names of results that have no original.
        people_known: whether names or a table say whose photo it is; else each photo counts as a person of its own.
    """

    pairs: tuple[Pair, ...]
    without_result: tuple[str, ...]
    without_original: tuple[str, ...]
    people_known: bool


@dataclass(frozen=True)
class Labels:
    """What a table says of photos.

    Attributes:
        columns: names of the columns that can be used as a grouping.
        rows: of each photo named without suffix, column to value; columns that are no grouping included.
    """

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]


def match_folders(originals: Path, results: Path) -> Matching:
    """Photos of the same name without suffix. Each is a person of its own until `with_people` says otherwise.

    Raises:
        UsageError: a folder without photos, two photos of one name, or fewer than two common names.
    """
    before, after = _photos(originals), _photos(results)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(f"{originals} and {results}: no photo of one has the name of a photo of the other")
    pairs = [Pair(name, name, before[name], after[name]) for name in common]
    return _checked(pairs, sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys()), False)


def match_table(table: Path, originals: Path, results: Path) -> Matching:
    """What a CSV file with the columns `original`, `result` and, optionally, `person` says.

    Args:
        table: names of files, in the two folders.
        originals: folder of photos.
        results: folder of their results.

    Raises:
        UsageError: the file cannot be read, lacks a column or a cell, names a file that is not there, or names one
            twice.
    """
    rows = _read_table(table, ("original", "result"))
    pairs: list[Pair] = []
    for line, row in enumerate(rows, 2):
        files = originals / row["original"], results / row["result"]
        for path in files:
            if not path.is_file():
                raise UsageError(f"{table}, line {line}: {path} is not there: correct the name")
        pairs.append(Pair(files[0].stem, row.get("person") or files[0].stem, *files))
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{table}: two lines are about {double}: keep one of them")
    left = sorted(_photos(originals).keys() - set(names))
    extra = sorted(_photos(results).keys() - {pair.result.stem for pair in pairs})
    return _checked(pairs, left, extra, any(row.get("person") for row in rows))


def with_people(matching: Matching, expression: str | None, labels: Labels | None) -> Matching:
    """The same pairs with people: by an expression, else a table's column `person`, else the name before the last `_`.

    Where names say that everybody is one person, each photo counts as a person of its own. Raises UsageError for an
    expression that is none, has not exactly one group, or finds nobody in a name.
    """
    names = [pair.name for pair in matching.pairs]
    if expression is not None:
        people = [_found(expression, name) for name in names]
    elif matching.people_known:
        return matching
    elif labels is not None and all(labels.rows.get(name, {}).get("person") for name in names):
        people = [labels.rows[name]["person"] for name in names]
    else:
        people = [_person(name) for name in names]
        if len(set(people)) < 2:
            return matching
    pairs = (replace(pair, person=person) for pair, person in zip(matching.pairs, people, strict=True))
    return replace(matching, pairs=tuple(pairs), people_known=True)


def match_people(originals: Path, results: Path, expression: str | None) -> Matching:
    """`match_folders` and `with_people` for what cannot be measured on one person.

    Raises:
        UsageError: as these two, or where names say that everybody is one person.
    """
    matching = with_people(match_folders(originals, results), expression, None)
    first = matching.pairs[0]
    if not matching.people_known or len({pair.person for pair in matching.pairs}) < 2:
        person = first.person if matching.people_known else _person(first.name)
        raise UsageError(
            f"{originals}: all names say that the person is {person}: give --people, which finds it in a name"
        )
    return matching


def read_labels(table: Path, names: Sequence[str]) -> Labels:
    """A CSV file with a header, one line a photo, whose other columns group the photos.

    Args:
        table: the file. The photo's name, with or without suffix and folder, is in one of `FILE_COLUMNS`.
        names: of the photos, without suffix.

    Raises:
        UsageError: the file cannot be read, has no such column or no other one, or is about none of these photos.
    """
    rows = _read_table(table, ())
    header = list(rows[0])
    key = next((column for column in FILE_COLUMNS if column in header), None)
    if key is None:
        raise UsageError(
            f"{table}: no column names the photo: call it {FILE_COLUMNS[0]} (found: {one_line(', '.join(header))})"
        )
    if len(header) < 2:
        raise UsageError(f"{table}: has no column but {key}: add one to group the photos by")
    found = {Path(row[key]).stem: row for row in rows}
    if not found.keys() & set(names):
        raise UsageError(f"{table}: column {key} names none of the photos (it says {one_line(rows[0][key])}, ...)")
    kinds = {column: {found[name][column] for name in names if name in found} - {""} for column in header}
    grouping = (c for c in header if c not in (key, "person") and 2 <= len(kinds[c]) <= _LARGEST_GROUPING)
    return Labels(tuple(grouping), found)


def _checked(pairs: list[Pair], left: list[str], extra: list[str], people_known: bool) -> Matching:
    if len(pairs) < 2:
        raise UsageError(f"{pairs[0].original}: is the only photo with a result: rates take at least 2")
    return Matching(tuple(pairs), tuple(left), tuple(extra), people_known)


def _photos(folder: Path) -> dict[str, Path]:
    """Name without suffix to file, of each photo in a folder. Raises UsageError."""
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE and not p.name.startswith("."))
    except OSError as error:
        why = one_line(error.strerror or error)
        raise UsageError(f"{folder}: is no folder that can be read ({why}): name a folder of photos") from error
    if not files:
        raise UsageError(f"{folder}: holds no photo: name a folder of photos")
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            raise UsageError(f"{found[path.stem]} and {path.name}: two photos of one name: keep one of them")
        found[path.stem] = path
    return found


def _read_table(table: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, every cell stripped. Raises UsageError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: cannot be read as a CSV table ({one_line(error)})") from error
    if not rows:
        raise UsageError(f"{table}: has no line below the header")
    missing = [column for column in needed if column not in rows[0]]
    if missing:
        there = one_line(", ".join(rows[0]))
        raise UsageError(f"{table}: lacks the column {' and '.join(missing)} (found: {there})")
    for line, row in enumerate(rows, 2):
        if any(not row[column] for column in needed):
            raise UsageError(f"{table}, line {line}: a cell of {' or '.join(needed)} is empty")
    return rows


def _person(name: str) -> str:
    """What a name says by itself: all before its last underscore, or all of it without one."""
    return name.rpartition("_")[0] or name


def _found(expression: str, name: str) -> str:
    """What the one group of an expression finds in a name. Raises UsageError."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--people {expression}: is no regular expression ({one_line(error)})") from error
    if pattern.groups != 1:
        raise UsageError(f"--people {expression}: has {pattern.groups} groups, but one group must find the person")
    match = pattern.search(name)
    if match is None or not match[1]:
        raise UsageError(f"--people {expression}: finds nobody in the name {name}")
    return match[1]
