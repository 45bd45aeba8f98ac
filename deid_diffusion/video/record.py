"""The record of a clip: one JSON line that says whose faces were seen when, and what was done to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..report import Action, Report

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
        covered: of these, those between first and last in which it is covered.
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
class ClipReport(Report):
    """What was done to one clip.

    Attributes:
        frames: number of them; None if the clip could not be read.
        tracks: one record a face, in the order in which they appear.
        missed: faces that only the second look at a finished frame found, and covered there; one in each frame counts.
        filled: frames that were filled altogether, because something unexpected happened to them.
    """

    frames: int | None = None
    tracks: tuple[TrackRecord, ...] = ()
    missed: int = 0
    filled: int = 0

    @property
    def faces(self) -> tuple[TrackRecord, ...]:
        """The tracks: what a photo's faces are to a clip."""
        return self.tracks
