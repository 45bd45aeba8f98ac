"""Pairs of originals and results, their people and labels, and the faces in corresponding places."""

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
from ..faces.landmarks import Landmarker
from ..identity.recognition import Recogniser
from ..io.images import READABLE

FILE_COLUMNS = ("file", "photo", "original", "name")  # accepted for the photo in a table of labels, by priority
_MAX_DISTANCE = 0.4  # between the centres of an original's face and the result's, in widths of the original's box
_MESH_CROP = 128  # side of the crop that meshes are fitted to, in pixels
_MAX_GROUPS = 20  # columns with more distinct values are not used for grouping


def stack(rows: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
    """Stack N embeddings of originals and results to (N, D) and (N, D) float32; None becomes a row of NaN."""
    width = next((len(vector) for row in rows for vector in row if vector is not None), 1)
    absent = np.full(width, np.nan, np.float32)
    table = np.array([[absent if vector is None else vector for vector in row] for row in rows], np.float32)
    table = table.reshape(len(rows), 2, width)
    return table[:, 0], table[:, 1]


def largest(faces: Sequence[Detection]) -> Detection | None:
    """Return the face with the largest box, or None."""
    return max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), default=None)


def nearest(faces: Sequence[Detection], box: np.ndarray) -> Detection | None:
    """Return the face whose centre is nearest to that of a box (4,), within 0.4 box widths; otherwise None."""
    centre = box[:2] + box[2:]
    distances = [float(np.linalg.norm(np.add(face.box[:2], face.box[2:]) - centre)) / 2 for face in faces]
    best = int(np.argmin(distances)) if distances else -1
    return faces[best] if distances and distances[best] < _MAX_DISTANCE * (box[2] - box[0]) else None


def face_mesh(photo: np.ndarray, face: Detection, landmarker: Landmarker) -> np.ndarray | None:
    """Fit a mesh to a detected face: (478, 2) in photo pixels, or None."""
    analysis = analyse_face(photo, face, landmarker, _MESH_CROP)
    return None if analysis.mesh is None else transform(analysis.mesh, invert(analysis.matrix))


def embed(photo: np.ndarray, points: np.ndarray | None, recogniser: Recogniser) -> np.ndarray | None:
    """Embed the face at five points, (D,), or return None without points."""
    return None if points is None else recogniser(photo, points)


@dataclass(frozen=True)
class Pair:
    """An original and its result: both files, the original's name without suffix, the person's name."""

    name: str
    person: str
    original: Path
    result: Path


@dataclass(frozen=True)
class Matching:
    """Pairs of two folders, by name, and the names of originals and results without a partner.

    `people_known` tells whether people are known from names or a table; otherwise every photo counts as another person.
    """

    pairs: tuple[Pair, ...]
    without_result: tuple[str, ...]
    without_original: tuple[str, ...]
    people_known: bool


@dataclass(frozen=True)
class Labels:
    """Labels of photos: columns used for grouping, and all columns by the photo's name without suffix."""

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, str]]


def match_folders(originals: Path, results: Path) -> Matching:
    """Match photos by name without suffix. Every photo counts as another person until `with_people`.

    Raises UsageError for a folder without photos, two photos of one name, or fewer than two common names.
    """
    before, after = _photos(originals), _photos(results)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(f"{originals} and {results}: no file names in common")
    pairs = [Pair(name, name, before[name], after[name]) for name in common]
    return _checked(pairs, sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys()), False)


def match_table(table: Path, originals: Path, results: Path) -> Matching:
    """Match photos by a CSV file with the columns `original`, `result` and, optionally, `person`.

    File names are relative to the two folders. Raises UsageError if the file cannot be read, lacks a column or a cell,
    or names a missing file or a photo twice.
    """
    rows = _read_table(table, ("original", "result"))
    pairs: list[Pair] = []
    for line, row in enumerate(rows, 2):
        files = originals / row["original"], results / row["result"]
        for path in files:
            if not path.is_file():
                raise UsageError(f"{table}, line {line}: {path} does not exist")
        pairs.append(Pair(files[0].stem, row.get("person") or files[0].stem, *files))
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"{table}: lists {duplicate} twice: remove one of the lines")
    unmatched = sorted(_photos(originals).keys() - set(names))
    extra = sorted(_photos(results).keys() - {pair.result.stem for pair in pairs})
    return _checked(pairs, unmatched, extra, any(row.get("person") for row in rows))


def with_people(matching: Matching, expression: str | None, labels: Labels | None) -> Matching:
    """Assign people to pairs: by a regular expression, else by column `person`, else by the name before the last `_`.

    If the names yield a single person, every photo counts as another person. Raises UsageError for an expression that
    is invalid, does not have exactly one group, or does not match a name.
    """
    names = [pair.name for pair in matching.pairs]
    if expression is not None:
        people = [_match_person(expression, name) for name in names]
    elif matching.people_known:
        return matching
    elif labels is not None and all(labels.rows.get(name, {}).get("person") for name in names):
        people = [labels.rows[name]["person"] for name in names]
    else:
        people = [name.rpartition("_")[0] or name for name in names]
        if len(set(people)) < 2:
            return matching
    pairs = (replace(pair, person=person) for pair, person in zip(matching.pairs, people, strict=True))
    return replace(matching, pairs=tuple(pairs), people_known=True)


def read_labels(table: Path, names: Sequence[str]) -> Labels:
    """Read labels from a CSV file with a header and one line per photo, whose name is in one of `FILE_COLUMNS`.

    The name may have a suffix and folders; `names` have neither. Raises UsageError if the file cannot be read, has no
    such column or no other one, or lists none of these photos.
    """
    rows = _read_table(table, ())
    header = list(rows[0])
    key = next((column for column in FILE_COLUMNS if column in header), None)
    if key is None:
        raise UsageError(
            f"{table}: has no column {FILE_COLUMNS[0]} with the photo's name (columns: {one_line(', '.join(header))})"
        )
    if len(header) < 2:
        raise UsageError(f"{table}: has only the column {key}: add a grouping column")
    labels = {Path(row[key]).stem: row for row in rows}
    if not labels.keys() & set(names):
        raise UsageError(f"{table}: column {key} lists none of the photos (first entry: {one_line(rows[0][key])})")
    values = {column: {labels[name][column] for name in names if name in labels} - {""} for column in header}
    grouping = (c for c in header if c not in (key, "person") and 2 <= len(values[c]) <= _MAX_GROUPS)
    return Labels(tuple(grouping), labels)


def _checked(pairs: list[Pair], unmatched: list[str], extra: list[str], people_known: bool) -> Matching:
    if len(pairs) < 2:
        raise UsageError(f"{pairs[0].original}: the only photo with a result: at least 2 are needed")
    return Matching(tuple(pairs), tuple(unmatched), tuple(extra), people_known)


def _photos(folder: Path) -> dict[str, Path]:
    """Map names without suffix to the photos of a folder. Raises UsageError."""
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE and not p.name.startswith("."))
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UsageError(f"{folder}: not a readable folder ({reason}): name a folder of photos") from error
    if not files:
        raise UsageError(f"{folder}: contains no photos: name a folder of photos")
    photos: dict[str, Path] = {}
    for path in files:
        if path.stem in photos:
            raise UsageError(f"{photos[path.stem]} and {path.name}: two photos of one name: remove one of them")
        photos[path.stem] = path
    return photos


def _read_table(table: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a CSV file, cells stripped. Raises UsageError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows = [{k: (v or "").strip() for k, v in row.items() if isinstance(k, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: cannot be read as CSV ({one_line(error)})") from error
    if not rows:
        raise UsageError(f"{table}: has no rows below the header")
    missing = [column for column in needed if column not in rows[0]]
    if missing:
        columns = one_line(", ".join(rows[0]))
        raise UsageError(f"{table}: lacks the column {' and '.join(missing)} (columns: {columns})")
    for line, row in enumerate(rows, 2):
        if any(not row[column] for column in needed):
            raise UsageError(f"{table}, line {line}: {' or '.join(needed)} is empty")
    return rows


def _match_person(expression: str, name: str) -> str:
    """Return the match of an expression's only group in a name. Raises UsageError."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--people {expression}: not a regular expression ({one_line(error)})") from error
    if pattern.groups != 1:
        raise UsageError(f"--people {expression}: has {pattern.groups} groups: exactly 1 is needed, for the person")
    match = pattern.search(name)
    if match is None or not match[1]:
        raise UsageError(f"--people {expression}: does not match the name {name}")
    return match[1]
