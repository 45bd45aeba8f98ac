"""The record of each photo: one JSON line that says what was found, what was done to it, and by which software."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

from deid_diffusion._version import __version__
from deid_diffusion.errors import DeidError
from deid_diffusion.files import refusal

Action = Literal["replaced", "covered", "filled", "blurred", "pixelated", "kept"]
Status = Literal["done", "no_face", "failed"]

_PACKAGES = ("torch", "diffusers", "transformers", "mediapipe")


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the upright photo.
        detector: name of the detector that found it.
        score: the detector's score, 0 to 1.
        action: "replaced" by a generated face that passed the gate; "covered" by an opaque fill because that failed;
            "filled", "blurred" or "pixelated" as the user chose; or "kept", untouched, as the user chose.
        seed: of the generated face; else None, also for a pseudonym's face, whose seed only the key's holder may know.
        mesh: whether a face mesh was fitted; without one the mask comes from the box or the five points.
        reason: why the face was covered or kept; else None.
        similarity: cosine of the embeddings of the generated face and the original, by the gate's recogniser; None if
            there was nothing to compare, or no number came out.
        attempts: generated candidates that the gate judged.
        pseudonym: name of the person's pseudonym under the key; None without a key, or if the face was too small.
        kept_attributes: attributes of the original that a generated face was given; empty for any other face.
        changed_attributes: attributes that it was given instead of the original's, each with its word.
    """

    box: tuple[float, float, float, float]
    detector: str
    score: float
    action: Action
    seed: int | None
    mesh: bool
    reason: str | None = None
    similarity: float | None = None
    attempts: int = 0
    pseudonym: str | None = None
    kept_attributes: tuple[str, ...] = ()
    changed_attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What is said of a photo and of a clip alike.

    Attributes:
        input: its name as the user gave it, never an absolute path.
        output: the result's name as the user gave it; None if nothing was written.
        status: "done" (every face dealt with), "no_face" (none was found) or "failed" (nothing was written).
        input_sha256: hex digest of the input file; None if it could not be read.
        output_sha256: hex digest of the output file; None if nothing was written.
        width: of the upright picture in pixels; None if it could not be read.
        height: likewise.
        model: name of the model; None if it failed before one was needed.
        gate: what judged the results, and how strictly; None if it failed before it was needed.
        versions: software name to version.
        seconds: wall-clock time from reading to writing; of a clip that was interrupted, of the run that finished it.
        error: one line; None unless the status is "failed".
    """

    input: str
    output: str | None
    status: Status
    input_sha256: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    model: str | None = None
    gate: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    def to_json(self) -> str:
        """One line of JSON, ASCII only, without the line break."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class ImageReport(Report):
    """What was done to one photo.

    Attributes:
        faces: one record a face.
    """

    faces: tuple[FaceRecord, ...] = ()

    @classmethod
    def from_json(cls, line: str) -> ImageReport:
        """The report that `to_json` wrote. Raises ValueError for anything else, a clip's report among it."""
        try:
            values: dict[str, Any] = json.loads(line)
            faces = tuple(_face(face) for face in values["faces"])
            return cls(**{**values, "faces": faces})
        except (KeyError, TypeError) as error:
            raise ValueError(f"line: not a report written by this version of deid-diffusion ({error})") from error


def _face(values: Mapping[str, Any]) -> FaceRecord:
    """A face of a report's JSON, in which tuples became lists."""
    kept = tuple(values.get("kept_attributes", ()))
    return FaceRecord(**{**values, "box": tuple(values["box"]), "kept_attributes": kept})


class Line(Protocol):
    """Anything that can stand in a report file: a photo's record, or a clip's."""

    def to_json(self) -> str:
        """One line of JSON without the line break."""
        ...


def append(path: str | Path, report: Line) -> None:
    """Add one line to a JSON-lines file and wait until it is on the disk. Raises DeidError if that fails."""
    path = Path(path)
    try:
        with path.open("ab+") as stream:
            torn = b""
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                torn = b"" if stream.read(1) == b"\n" else b"\n"  # a crash cut the last line short
            stream.write(torn + report.to_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise DeidError(refusal(path, error)) from error


def versions() -> dict[str, str]:
    """Versions of Python, deid-diffusion and the packages that shape a result, without importing them."""
    found = {"python": platform.python_version(), "deid-diffusion": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
