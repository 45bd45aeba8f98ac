"""What is let through of faces' features: the kept attributes' part, and words in place of what is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol

import torch

from ..errors import UsageError, one_line
from .subspace import AttributeSubspace
from .vocabulary import VOCABULARY

if TYPE_CHECKING:
    from ..models.attribute_adapter import AttributeAdapter


#: What the semantic map and the light bring of a face, whether or not there is an encoder that reads attributes.
MAP_ATTRIBUTES: tuple[str, ...] = ("pose", "gaze", "expression", "light")
_ALL, _NONE = "all", "none"
_NEAR = 0.8  # likeness, 0 to 1, over which a word is a built-in name with a typing error
_OTHER_NAMES: Mapping[str, str] = {
    "sex": "gender",
    "emotion": "expression",
    "race": "ethnicity",
    "skin tone": "skin",
    "skin color": "skin",
    "skin colour": "skin",
    "head pose": "pose",
    "eyes": "gaze",
}
_AGES = ((3, "toddler"), (13, "child"), (20, "teenager"), (35, "young"), (55, "middle-aged"), (120, "elderly"))


@dataclass(frozen=True)
class AttributeSelection:
    """What is kept of a face, and what is changed. Made by `make_selection`, which checks it.

    Attributes:
        keep: names of `VOCABULARY` and phrases of the user's own; no other attribute is let through.
        change: name of `VOCABULARY` -> one of its words, which takes the place of what the face shows.
    """

    keep: tuple[str, ...] = tuple(VOCABULARY)
    change: Mapping[str, str] = field(default_factory=dict)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The user's own phrases among what is kept."""
        return tuple(name for name in self.keep if name not in VOCABULARY)

    @property
    def named(self) -> tuple[str, ...]:
        """All that the new face is told: what is kept, then what is changed."""
        return (*self.keep, *self.change)

    def requires_encoder(self) -> list[str]:
        """What is asked for that no semantic map brings; all of `VOCABULARY` was not asked for, it is the default."""
        by_default = VOCABULARY if set(VOCABULARY) <= set(self.named) else MAP_ATTRIBUTES
        return [
            *(one for one in self.change if one not in MAP_ATTRIBUTES),
            *(k for k in self.keep if k not in by_default),
        ]

    def restrict_to_map(self) -> AttributeSelection:
        """The part of it that a semantic map can carry out, for a model that reads no attributes."""
        return AttributeSelection(
            tuple(name for name in self.keep if name in MAP_ATTRIBUTES),
            {name: word for name, word in self.change.items() if name in MAP_ATTRIBUTES},
        )


def make_selection(keep: Iterable[str] | None = None, change: Mapping[str, object] | None = None) -> AttributeSelection:
    """The choice that a user's words make.

    >>> choose(["expression", "freckles"], {"age": "70"})
    AttributeChoice(keep=('expression', 'freckles'), change={'age': 'elderly'})

    Args:
        keep: names of `VOCABULARY` and phrases of the user's own; none at all keeps nothing; None is all of
            `VOCABULARY` but what is changed.
        change: name of `VOCABULARY` -> one of its words; a number of years serves for "age".

    Raises:
        UsageError: a name, phrase or word is empty or unknown, or an attribute is both kept and changed.
    """
    if isinstance(keep, str):
        raise UsageError(f'keep: {keep!r} is one text: give the attributes one by one, as ("{one_line(keep)}",)')
    words = {_name(name): one for name, one in (change or {}).items()}
    changed = {name: _word(name, one) for name, one in words.items()}
    if keep is None:
        return AttributeSelection(tuple(name for name in VOCABULARY if name not in changed), changed)
    kept = tuple(dict.fromkeys(_kept(one) for one in keep))
    if both := [name for name in kept if name in changed]:
        raise UsageError(f"{', '.join(both)}: cannot be kept and changed at once: leave it out of one of the two")
    return AttributeSelection(kept, changed)


def parse_keep(texts: Sequence[str]) -> tuple[str, ...] | None:
    """What `--keep` lists, separated by commas: () for "none", None for "all" or no text at all. Raises UsageError."""
    names = tuple(one.strip() for text in texts for one in text.split(","))
    if not names or names == (_ALL,):
        return None
    return () if names == (_NONE,) else names


def parse_change(texts: Sequence[str]) -> dict[str, str]:
    """What `--change` says, each text as NAME=WORD. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, word = (part.strip() for part in text.partition("="))
        if not sign:
            raise UsageError(f"--change {one_line(text)}: expected NAME=WORD, as age=70 or gender=woman")
        if found.setdefault(name, word) != word:
            raise UsageError(f"--change {name}: is asked to become {found[name]} and {word}: give one of them")
    return found


def _kept(text: str) -> str:
    """A built-in name, or a phrase. Raises UsageError."""
    name = " ".join(str(text).split())
    if name.lower() in VOCABULARY:
        return name.lower()
    if not any(letter.isalpha() for letter in name):
        raise UsageError(f"keep: {name!r} is no attribute: give one of {_listed(VOCABULARY)}, or a phrase in words")
    if name.lower() in (_ALL, _NONE):
        raise UsageError(f"keep: {name.lower()} stands alone: give it without other attributes, or leave it out")
    if meant := _meant(name):
        raise UsageError(f"keep: {name} is no attribute: did you mean {meant}? (A phrase of your own is less like it.)")
    return name


def _name(text: str) -> str:
    """A built-in name that can be changed. Raises UsageError."""
    name = " ".join(str(text).split()).lower()
    if name == "pose":
        raise UsageError("change: the pose is the photo's or the mean face's: keep it or leave it out")
    if name in VOCABULARY:
        return name
    guess = f"did you mean {meant}?" if (meant := _meant(name)) else f"there are {_listed(VOCABULARY)}"
    raise UsageError(f"change: no attribute is called {name!r}: {guess}")


def _word(name: str, text: object) -> str:
    """A word of an attribute's. Raises UsageError."""
    word = " ".join(str(text).split()).lower()
    if name == "age" and word.isdecimal():
        if int(word) >= _AGES[-1][0]:
            raise UsageError(f"change: an age of {word} years: expected under {_AGES[-1][0]}")
        return next(found for limit, found in _AGES if int(word) < limit)
    if word in VOCABULARY[name]:
        return word
    more = ", or a number of years" if name == "age" else ""
    raise UsageError(f"change: {name} cannot become {word!r}: the words are {_listed(VOCABULARY[name])}{more}")


def _meant(text: str) -> str | None:
    """The built-in name that somebody may have meant who wrote something else."""
    near = get_close_matches(text.lower(), VOCABULARY, 1, _NEAR)
    return near[0] if near else _OTHER_NAMES.get(text.lower())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


class TextConditioned(Protocol):
    """What knows an adapter and the words of attributes, as `FaceDeidPipeline` does."""

    attribute_adapter: AttributeAdapter | None

    def subspace(self, phrases: Sequence[str] = ()) -> AttributeSubspace:
        """The subspaces of the built-in attributes and of more phrases."""
        ...


def validate_selection(model: TextConditioned, choice: AttributeSelection) -> None:
    """See that a model's text encoder understands the words of a choice.

    Raises:
        UsageError: for a phrase that says nothing to it, or a change to a word that it takes for another.
        DeidError: when the model cannot read words.
    """
    try:
        subspace = model.subspace(choice.phrases)
    except ValueError as error:
        raise UsageError(f"keep: {error}: use other words") from error
    for name, word in choice.change.items():
        if name not in MAP_ATTRIBUTES and (same := subspace.same_as(name, word)):
            raise UsageError(
                f"change: {name}={word}: this model does not tell {word} from {', '.join(same)}: leave it out, or use "
                "a model whose text encoder does"
            )


def filter_features(
    pipeline: TextConditioned, features: torch.Tensor, choices: Sequence[AttributeSelection]
) -> torch.Tensor:
    """Features of which nothing is left but what each face's choice names.

    Args:
        pipeline: embeds the attributes' words; its adapter knows the features of nobody in particular.
        features: (B, N, D) from ``FaceDeidPipeline.encode_attributes``.
        choices: B of them.

    Returns:
        (B, N, D) float32.

    Raises:
        DeidError: when the pipeline cannot read words.
        ValueError: for a phrase that says nothing to its encoder.
    """
    features, adapter = features.float(), pipeline.attribute_adapter
    subspace = pipeline.subspace(tuple(dict.fromkeys(name for one in choices for name in one.phrases)))
    if adapter is None:
        centre, scale, grain = torch.zeros_like(features[0]), 1.0, 0.0
    else:
        centre, scale = adapter.centre.to(features), float(adapter.phrase_scale)
        grain = subspace.grain(scale)
    made = []
    for feature, choice in zip(features, choices, strict=True):
        passed = subspace.project(feature, choice.keep, centre, grain)
        for name, word in choice.change.items():
            passed = subspace.change(passed, name, word, centre, scale)
        made.append(passed)
    return torch.stack(made)
