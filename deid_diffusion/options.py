"""What a user may wish for, apart from which photos: one frozen value that every layer hands on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .attributes.selection import AttributeSelection, make_selection
from .errors import UsageError
from .faces.compositing import COVER_COLOURS, METHODS, CoverColour, Method
from .faces.semantic_map import REGIONS

if TYPE_CHECKING:
    from .identity.known_people import ConsentList
    from .identity.pseudonyms import Pseudonyms


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the faces of a photo are treated.

    Attributes:
        method: "generate" generates other faces; "fill", "blur" and "pixelate" are the simple methods. Blurred and
            pixelated faces can be recognised again.
        num_inference_steps: denoising steps; None is the model's own number.
        seed: makes results repeatable, and faces therefore linkable; None is fresh randomness for each face.
        batch_size: faces generated together.
        num_candidates: candidates for each face, at most; a face of which none passes the gate is covered.
        min_face: faces whose box has a shorter side under so many pixels are left untouched.
        fill_colour: of covers: the colours around them, or "grey".
        keep: attributes that the new face has of the old one: names of `attributes.vocabulary.VOCABULARY`, and phrases
            of your own; () keeps none, None keeps all of that vocabulary but what is changed. See `docs/attributes.md`.
        change: attribute of that vocabulary -> one of its words, or for "age" a number of years.
        prompt: text that steers the new faces, for models that were trained with prompts.
        map_blend: how far the semantic map goes towards the mean face's, 0 (not) to 1 (all the way).
        keep_regions: names of `labels.REGIONS` that keep their original pixels, at a cost in privacy.
        keep_people: people who consented to be shown; their faces are left untouched.
        pseudonyms: gives all faces of one person one pseudonym, which makes them linkable on purpose.
    """

    method: Method = "generate"
    num_inference_steps: int | None = None
    seed: int | None = None
    batch_size: int = 8
    num_candidates: int = 6
    min_face: int = 0
    fill_colour: CoverColour = "surroundings"
    keep: tuple[str, ...] | None = None
    change: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    map_blend: float = 0.0
    keep_regions: frozenset[str] = frozenset()
    keep_people: ConsentList | None = None
    pseudonyms: Pseudonyms | None = None

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "batch_size", "num_candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.fill_colour not in COVER_COLOURS:
            raise ValueError(f"fill_colour: expected one of {', '.join(COVER_COLOURS)}, got {self.fill_colour!r}")
        if unknown := sorted(self.keep_regions - set(REGIONS)):
            raise ValueError(f"keep_regions: no region {', '.join(unknown)}; there are {', '.join(REGIONS)}")
        if self.keep_regions == set(REGIONS):
            raise ValueError("keep_regions: all regions together are the whole face: leave one out")
        if not 0 <= self.map_blend <= 1:
            raise UsageError(f"map_blend: expected 0 to 1, got {self.map_blend:g}")
        told = self.choice != make_selection() or self.prompt or self.map_blend
        if told and self.method != "generate":
            raise UsageError(
                f"method {self.method}: keeps and changes no attribute: leave out keep, change, prompt and map_blend"
            )
        if self.seed is not None and self.pseudonyms is not None:
            raise ValueError("seed and pseudonyms both say which face a person gets: give one of them")

    @property
    def choice(self) -> AttributeSelection:
        """What is kept and changed, checked."""
        return make_selection(self.keep, self.change)


def options_digest(options: Options) -> dict[str, Any]:
    """Values for JSON that differ where results may differ. They hold no key and no embedding, only digests of them."""
    plain: dict[str, Any] = {one.name: getattr(options, one.name) for one in fields(options)}
    people, pseudonyms = plain.pop("keep_people"), plain.pop("pseudonyms")
    plain = {name: _plain(value) for name, value in plain.items()}
    if people is not None:
        plain["keep_people"] = [hashlib.sha256(people.embeddings.tobytes()).hexdigest(), people.threshold]
    if pseudonyms is not None:
        plain["pseudonyms"] = [pseudonyms.key.fingerprint, pseudonyms.store.name]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return dict(value) if isinstance(value, Mapping) else value
