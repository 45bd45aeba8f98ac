"""What a visitor of the page chose, and the options that it makes."""

from __future__ import annotations

from dataclasses import dataclass

from ..attributes.choice import parse_keep
from ..attributes.vocabulary import VOCABULARY
from ..errors import UsageError
from ..faces.methods import Method
from ..identity.pseudonyms import Pseudonyms
from ..options import Options

METHODS: tuple[tuple[str, Method], ...] = (
    ("a new face", "synth"),
    ("one colour", "fill"),
    ("blur (can be undone)", "blur"),
    ("pixels (can be undone)", "pixelate"),
)
"""What the page calls each method."""

FRESH, SEED, PERSON = "fresh", "seed", "person"
NEW_FACES: tuple[tuple[str, str], ...] = (
    ("another each time", FRESH),
    ("repeatable, by a seed", SEED),
    ("one for each person, by a key", PERSON),
)
"""What the page calls the sources of new faces."""

FORMATS: tuple[tuple[str, str], ...] = (
    ("PNG (lossless)", "png"),
    ("WebP (lossless)", "webp"),
    ("JPEG (smaller)", "jpeg"),
)
"""What the page calls the formats of results."""

_MAX_LETTERS = 500


@dataclass(frozen=True)
class Choices:
    """The controls of the page.

    Attributes:
        keep: names of `VOCABULARY` that are ticked.
        words: further phrases, with commas between them.
        method: one of `METHODS`.
        new_faces: one of `NEW_FACES`.
        seed: a whole number, 0 or more; None or anything else only where no seed is asked for.
        attempts: candidates a face at most.
        file_format: one of `FORMATS`.
    """

    keep: list[str]
    words: str
    method: Method
    new_faces: str
    seed: float | None
    attempts: float
    file_format: str

    @property
    def by_person(self) -> bool:
        """Whether each person gets one new face."""
        return self.method == "synth" and self.new_faces == PERSON

    def options(self, people: Pseudonyms | None) -> Options:
        """The options. Raises UsageError for a choice that cannot be carried out."""
        if self.method != "synth":
            return Options(method=self.method)
        if len(self.words) > _MAX_LETTERS:
            raise UsageError(f"own words: {len(self.words)} letters, expected {_MAX_LETTERS} at most")
        own = parse_keep([self.words]) or () if self.words.strip(" ,") else ()
        all_ticked = set(self.keep) == set(VOCABULARY) and not own
        return Options(
            keep=None if all_ticked else (*self.keep, *own),
            seed=_whole(self.seed) if self.new_faces == SEED else None,
            attempts=int(self.attempts),
            pseudonyms=people,
        )


def _whole(seed: float | None) -> int:
    if seed is None or seed < 0 or seed != int(seed) or seed >= 2**53:
        raise UsageError(f"seed: {'nothing' if seed is None else f'{seed:g}'} given, expected a whole number from 0 on")
    return int(seed)
