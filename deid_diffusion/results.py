"""Records of photos, clips and their faces, and statistics of a run."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from ._version import __version__
from .errors import DeidError, one_line
from .io.files import write_error

if TYPE_CHECKING:
    from .batch.planning import Job
    from .options import Options

Action = Literal["replaced", "covered", "filled", "blurred", "pixelated", "kept"]
Status = Literal["done", "no_face", "failed"]

_PACKAGES = ("torch", "diffusers", "transformers", "mediapipe")


@dataclass(frozen=True)
class FaceRecord:
    """Action on one face of a photo.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the upright photo.
        detector: name of its detector.
        score: the detector's score, 0 to 1.
        action: "replaced" by a generated face that passed verification; "covered" by an opaque fill if it failed;
            "filled", "blurred" or "pixelated" as the user chose; or "kept", untouched, as the user chose.
        seed: of the generated face; None for any other, and with a key, whose holder alone may know the seed.
        mesh: whether a face mesh was fitted; without one the mask comes from the box or the five points.
        reason: why the face was covered or kept; else None.
        similarity: cosine of the embeddings of the generated face and the original, by the verifier's recogniser; None
            if it could not be computed.
        attempts: number of candidates that were verified.
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
class Record:
    """Fields common to the records of photos and clips.

    Attributes:
        input: name as the user gave it, never an absolute path.
        output: name of the result as the user gave it; None if nothing was written.
        status: "done" (every face was processed), "no_face" (none was detected) or "failed" (nothing was written).
        input_sha256: hex digest of the input file; None if it could not be read.
        output_sha256: hex digest of the output file; None if nothing was written.
        width: of the upright picture in pixels; None if it could not be read.
        height: likewise.
        model: name of the model; None if it failed before one was needed.
        gate: verifier of the results and its threshold; None if it failed before it was needed.
        versions: software -> version.
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
        """Return one line of JSON, ASCII only, without the line break."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class ImageRecord(Record):
    """Record of one photo.

    Attributes:
        faces: one record per face.
    """

    faces: tuple[FaceRecord, ...] = ()

    @classmethod
    def from_json(cls, line: str) -> ImageRecord:
        """Return the record that `to_json` wrote. Raises ValueError for anything else, records of clips included."""
        try:
            values: dict[str, Any] = json.loads(line)
            faces = tuple(_face(face) for face in values["faces"])
            return cls(**{**values, "faces": faces})
        except (KeyError, TypeError) as error:
            raise ValueError(f"line: not a report written by this version of deid-diffusion ({error})") from error


def _face(values: Mapping[str, Any]) -> FaceRecord:
    """Return a face of a record's JSON, in which tuples became lists."""
    kept = tuple(values.get("kept_attributes", ()))
    return FaceRecord(**{**values, "box": tuple(values["box"]), "kept_attributes": kept})


class Line(Protocol):
    """Line of a report file: the record of a photo or clip."""

    def to_json(self) -> str:
        """Return one line of JSON without the line break."""
        ...


def append(path: str | Path, report: Line) -> None:
    """Append one line to a JSON-lines file and sync it to the disk. Raises DeidError if that fails."""
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
        raise DeidError(write_error(path, error)) from error


def versions() -> dict[str, str]:
    """Return versions of Python, deid-diffusion and the packages that affect results, without importing them."""
    numbers = {"python": platform.python_version(), "deid-diffusion": __version__}
    for name in _PACKAGES:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return numbers


#: Actions of `FaceRecord` by simple methods.
SIMPLE: tuple[Action, ...] = ("filled", "blurred", "pixelated")


@dataclass(frozen=True)
class TrackRecord:
    """Action on one face of a clip. Frames are counted from 0.

    Attributes:
        first, last: first and last frame in which it was detected.
        box: x0, y0, x1, y1 in pixels of the upright frame with its best detection.
        detector: name of its detector there.
        score: the detector's score, 0 to 1.
        action: "replaced" by a generated face, in all frames or most; "covered", in all frames; "filled", "blurred" or
            "pixelated" as the user chose; "kept" if it is untouched in any frame, as the user chose.
        frames: number of frames in which it was processed.
        seen: of these, those in which it was detected.
        replaced: of these, those that show a generated face or a simple method's result.
        covered: of these, those between first and last in which it is covered.
        covered_around: likewise before first and after last, where it was not detected.
        kept: of these, those that show it untouched.
        reasons: reason for covering or keeping it -> number of frames.
        seed: of the generated face; None for any other, and with a key.
        pseudonym: name of the person's pseudonym under the key; None without one, or if recognition failed.
        similarity: largest cosine, in any frame that shows the generated face, of its embedding and the original's.
        kept_attributes: attributes of the original that the generated face was given.
        changed_attributes: attributes that it was given instead of the original's, each with its word.
    """

    first: int
    last: int
    box: tuple[float, float, float, float]
    detector: str
    score: float
    action: Action
    frames: int = 0
    seen: int = 0
    replaced: int = 0
    covered: int = 0
    covered_around: int = 0
    kept: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    pseudonym: str | None = None
    similarity: float | None = None
    kept_attributes: tuple[str, ...] = ()
    changed_attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoRecord(Record):
    """Record of one clip.

    Attributes:
        frames: number of them; None if the clip could not be read.
        tracks: one record per face, in the order in which they appear.
        missed: faces that only the residual scan of a finished frame detected, and covered; counted per frame.
        filled: frames that were filled completely after an unexpected error.
    """

    frames: int | None = None
    tracks: tuple[TrackRecord, ...] = ()
    missed: int = 0
    filled: int = 0

    @property
    def faces(self) -> tuple[TrackRecord, ...]:
        """Tracks, under the name that faces have in photos."""
        return self.tracks


_Report = TypeVar("_Report", ImageRecord, VideoRecord)


@dataclass(frozen=True)
class JobResult:
    """Outcome of one job.

    Attributes:
        report: record of the photo or clip.
        message: one line for the user if it failed, or if frames of it had to be filled; else None.
        unexpected: exception behind the failure, unless a user can act on it.
    """

    report: ImageRecord | VideoRecord
    message: str | None = None
    unexpected: Exception | None = None


@dataclass(frozen=True)
class RunStats:
    """Counts of a run: photos and clips by status, faces by action.

    A clip's track counts as one face; `partly` are those replaced in some frames and covered in others, and
    `other_covers` are completely filled frames, and faces of clips that only the residual scan detected.
    """

    done: int = 0
    no_face: int = 0
    failed: int = 0
    internal: int = 0
    replaced: int = 0
    covered: int = 0
    simple: int = 0
    kept: int = 0
    partly: int = 0
    other_covers: int = 0

    def add(self, outcome: JobResult) -> RunStats:
        """Return the counts with one more photo or clip."""
        status = outcome.report.status
        actions = [face.action for face in outcome.report.faces]
        replaced, covered, kept = (actions.count(action) for action in ("replaced", "covered", "kept"))
        clip = outcome.report if isinstance(outcome.report, VideoRecord) else None
        tracks, other_covers = (clip.tracks, clip.filled + clip.missed) if clip else ((), 0)
        return replace(
            self,
            done=self.done + (status == "done"),
            no_face=self.no_face + (status == "no_face"),
            failed=self.failed + (status == "failed"),
            internal=self.internal + (outcome.unexpected is not None),
            replaced=self.replaced + replaced,
            covered=self.covered + covered,
            simple=self.simple + len(actions) - replaced - covered - kept,
            kept=self.kept + kept,
            partly=self.partly + sum(track.action == "replaced" and track.covered > 0 for track in tracks),
            other_covers=self.other_covers + other_covers,
        )

    @property
    def photos(self) -> int:
        """Number of photos and clips so far."""
        return self.done + self.no_face + self.failed

    @property
    def faces(self) -> int:
        """Number of faces so far."""
        return self.replaced + self.covered + self.simple + self.kept

    @property
    def exit_code(self) -> int:
        """1 for an internal error, else 2 for an unreadable photo, else 3 for a covered face, else 0."""
        if self.internal:
            return 1
        return 2 if self.failed else 3 if self.covered or self.partly or self.other_covers else 0


def finished(done: _Report, job: Job) -> _Report:
    """Return the record of a photo or clip whose result was written."""
    return replace(done, status="done" if done.faces else "no_face", output=job.output_name)


def failure(
    job: Job, failed: ImageRecord | VideoRecord, start: float, error: DeidError, options: Options | None = None
) -> JobResult:
    """Return the outcome of a failed job; its record has no absolute path, even if the message has one."""
    public = str(error).replace(str(job.target), job.output_name).replace(str(job.source), job.input_name)
    if job.target.is_absolute():
        public = public.replace(str(job.target.parent), str(PurePosixPath(job.output_name).parent))
    if options is not None and options.pseudonyms is not None:
        public = public.replace(str(options.pseudonyms.store), options.pseudonyms.store.name)
    return JobResult(replace(failed, error=one_line(public), seconds=elapsed(start)), one_line(error))


def unexpected(job: Job, failed: ImageRecord | VideoRecord, start: float, error: Exception) -> JobResult:
    """Return the outcome of an unexpected error.

    The record holds the exception's type only: third-party messages may contain local paths.
    """
    return internal(replace(failed, seconds=elapsed(start)), job.source, error)


def internal(failed: ImageRecord | VideoRecord, name: str | Path, error: Exception) -> JobResult:
    """Return the outcome of a photo or clip, by its name in messages, that an unexpected exception stopped."""
    kind = f"internal error: {type(error).__name__}"
    message = one_line(f"{name}: {kind}: {error} (please report; DEID_DEBUG=1 shows more)")
    return JobResult(replace(failed, error=kind), message, error)


def elapsed(start: float) -> float:
    """Return the seconds since a value of `time.perf_counter`, to the millisecond."""
    return round(time.perf_counter() - start, 3)
