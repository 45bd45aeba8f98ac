"""The record of a clip: one JSON line that says whose faces were seen when, and what was done to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..report import Action, Status

#: Actions of `FaceRecord` that show a simple method's result.
SIMPLE: tuple[Action, ...] = ("filled", "blurred", "pixelated")


@dataclass(frozen=True)
class TrackRecord:
    """What was done to one face through a clip. Frames are counted from 0.

    Attributes:
        first, last: frames in which a detector saw it first and last.
        box: x0, y0, x1, y1 in pixels of the upright frame that shows it best.
        detector: what found it there.
        score: the detector's, 0 to 1.
        action: "replaced" by a generated face, in all frames or most; "covered", in all frames; "filled", "blurred" or
            "pixelated" as the user chose; "kept" if it is untouched in any frame, as the user chose.
        frames: number of frames in which it was dealt with.
        seen: of these, those in which a detector saw it.
        replaced: of these, those that show a generated face or a simple method's result.
        covered: of these, those between first and last that show an opaque fill.
        covered_around: likewise before first and after last, where nobody saw it.
        kept: of these, those that show it untouched.
        reasons: why it was covered or kept -> number of frames.
        seed: of the generated face; None for any other, and with a key.
        pseudonym: name of the person's pseudonym under the key; None without one, or if nobody could say who it is.
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
class ClipReport:
    """What was done to one clip.

    Attributes:
        input: the clip's name as the user gave it, never an absolute path.
        output: the result's name as the user gave it; None if nothing was written.
        status: "done" (every face dealt with), "no_face" (none was found) or "failed" (nothing was written).
        input_sha256: hex digest of the input file; None if it could not be read.
        output_sha256: hex digest of the output file; None if nothing was written.
        width: of the upright frames in pixels; None if the clip could not be read.
        height: likewise.
        frames: number of them; None likewise.
        tracks: one record a face, in the order in which they appear.
        missed: faces that only the second look at a finished frame found, and covered there; one in each frame counts.
        filled: frames that were filled altogether, because something unexpected happened to them.
        model: name of the model; None if the clip failed before one was needed.
        gate: what judged the results, and how strictly; None if the clip failed before it was needed.
        versions: software name to version.
        seconds: wall-clock time of the run that finished it.
        error: one line; None unless the status is "failed".
    """

    input: str
    output: str | None
    status: Status
    input_sha256: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    tracks: tuple[TrackRecord, ...] = ()
    missed: int = 0
    filled: int = 0
    model: str | None = None
    gate: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    @property
    def faces(self) -> tuple[TrackRecord, ...]:
        """The tracks: what a photo's faces are to a clip."""
        return self.tracks

    def to_json(self) -> str:
        """One line of JSON, ASCII only, without the line break."""
        return json.dumps(asdict(self), allow_nan=False)
