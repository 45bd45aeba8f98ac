"""Attribute selection: validation of kept and changed attributes, and filtering of features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol

from ..errors import UsageError, one_line
from .vocabulary import VOCABULARY

if TYPE_CHECKING:
    import torch

    from ..models.attribute_adapter import AttributeAdapter
    from .subspace import AttributeSubspace


#: Attributes that the semantic map and the light carry, without any attribute encoder.
MAP_ATTRIBUTES: tuple[str, ...] = ("pose", "gaze", "expression", "light")
_ALL, _NONE = "all", "none"
_NEAR = 0.8  # similarity, 0 to 1, over which a word counts as a misspelt built-in name
_SYNONYMS: Mapping[str, str] = {
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
    """Attributes of a face to keep and to change, as validated by `make_selection`.

    Attributes:
        keep: names of `VOCABULARY` and custom phrases; all other attributes are removed.
        change: name of `VOCABULARY` -> one of its words, which replaces the face's own.
    """

    keep: tuple[str, ...] = tuple(VOCABULARY)
    change: Mapping[str, str] = field(default_factory=dict)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Return the custom phrases to keep."""
        return tuple(name for name in self.keep if name not in VOCABULARY)

    @property
    def named(self) -> tuple[str, ...]:
        """Return the attributes that reach the new face: the kept ones, then the changed ones."""
        return (*self.keep, *self.change)

    def requires_encoder(self) -> list[str]:
        """Return the attributes that need an encoder; the default, all of `VOCABULARY`, requires none."""
        by_default = VOCABULARY if set(VOCABULARY) <= set(self.named) else MAP_ATTRIBUTES
        return [
            *(name for name in self.change if name not in MAP_ATTRIBUTES),
            *(name for name in self.keep if name not in by_default),
        ]

    def restrict_to_map(self) -> AttributeSelection:
        """Return the part that a semantic map can carry, for a model without an attribute encoder."""
        return AttributeSelection(
            tuple(name for name in self.keep if name in MAP_ATTRIBUTES),
            {name: word for name, word in self.change.items() if name in MAP_ATTRIBUTES},
        )


def make_selection(keep: Iterable[str] | None = None, change: Mapping[str, object] | None = None) -> AttributeSelection:
    """Validate a user's attribute selection.

    >>> make_selection(["expression", "freckles"], {"age": "70"})
    AttributeSelection(keep=('expression', 'freckles'), change={'age': 'elderly'})

    Args:
        keep: names of `VOCABULARY` and custom phrases; an empty list keeps nothing; None keeps all of `VOCABULARY`
            except changed attributes.
        change: name of `VOCABULARY` -> one of its words; "age" also takes a number of years.

    Raises:
        UsageError: a name, phrase or word is empty or unknown, or an attribute is both kept and changed.
    """
    if isinstance(keep, str):
        raise UsageError(f'keep: {keep!r} is a string: pass a list of attributes, such as ["{one_line(keep)}"]')
    texts = {_parse_name(name): text for name, text in (change or {}).items()}
    changed = {name: _parse_word(name, text) for name, text in texts.items()}
    if keep is None:
        return AttributeSelection(tuple(name for name in VOCABULARY if name not in changed), changed)
    kept = tuple(dict.fromkeys(_parse_kept(text) for text in keep))
    if conflicts := [name for name in kept if name in changed]:
        raise UsageError(f"{', '.join(conflicts)}: cannot be both kept and changed: remove it from one of the two")
    return AttributeSelection(kept, changed)


def parse_keep(texts: Sequence[str]) -> tuple[str, ...] | None:
    """Split the comma-separated values of `--keep`; returns () for "none", and None for "all" or no value."""
    names = tuple(name.strip() for text in texts for name in text.split(","))
    if not names or names == (_ALL,):
        return None
    return () if names == (_NONE,) else names


def parse_change(texts: Sequence[str]) -> dict[str, str]:
    """Parse the NAME=WORD values of `--change`. Raises UsageError."""
    words: dict[str, str] = {}
    for text in texts:
        name, sign, word = (part.strip() for part in text.partition("="))
        if not sign:
            raise UsageError(f"--change {one_line(text)}: expected NAME=WORD, such as age=70 or gender=woman")
        if words.setdefault(name, word) != word:
            raise UsageError(f"--change {name}: has two values, {words[name]} and {word}: give only one")
    return words


def _parse_kept(text: str) -> str:
    """Return a built-in name or a phrase. Raises UsageError."""
    name = " ".join(str(text).split())
    if name.lower() in VOCABULARY:
        return name.lower()
    if not any(letter.isalpha() for letter in name):
        raise UsageError(f"keep: {name!r} is not an attribute: use {_listed(VOCABULARY)}, or a phrase in words")
    if name.lower() in (_ALL, _NONE):
        raise UsageError(f"keep: {name.lower()} cannot be combined with attributes: remove it or them")
    if guess := _guess_name(name):
        raise UsageError(
            f"keep: {name} is not an attribute: did you mean {guess}? (If not, rephrase it: it is too similar.)"
        )
    return name


def _parse_name(text: str) -> str:
    """Return a built-in name that can be changed. Raises UsageError."""
    name = " ".join(str(text).split()).lower()
    if name == "pose":
        raise UsageError("change: the pose cannot be changed: keep it or leave it out")
    if name in VOCABULARY:
        return name
    hint = f"did you mean {guess}?" if (guess := _guess_name(name)) else f"use one of {_listed(VOCABULARY)}"
    raise UsageError(f"change: unknown attribute {name!r}: {hint}")


def _parse_word(name: str, text: object) -> str:
    """Return one of an attribute's words. Raises UsageError."""
    word = " ".join(str(text).split()).lower()
    if name == "age" and word.isdecimal():
        if int(word) >= _AGES[-1][0]:
            raise UsageError(f"change: age {word}: expected under {_AGES[-1][0]} years")
        return next(age for limit, age in _AGES if int(word) < limit)
    if word in VOCABULARY[name]:
        return word
    years = ", or a number of years" if name == "age" else ""
    raise UsageError(f"change: {name} cannot become {word!r}: use one of {_listed(VOCABULARY[name])}{years}")


def _guess_name(text: str) -> str | None:
    """Return the built-in name that a misspelt name or a synonym stands for."""
    matches = get_close_matches(text.lower(), VOCABULARY, 1, _NEAR)
    return matches[0] if matches else _SYNONYMS.get(text.lower())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


class TextConditioned(Protocol):
    """A model with an attribute adapter and a text encoder, such as `FaceDeidPipeline`."""

    attribute_adapter: AttributeAdapter | None

    def subspace(self, phrases: Sequence[str] = ()) -> AttributeSubspace:
        """Return the subspaces of the built-in attributes and of further phrases."""
        ...


def validate_selection(model: TextConditioned, choice: AttributeSelection) -> None:
    """Check that a model's text encoder can distinguish the words of a selection.

    Raises:
        UsageError: a phrase without a direction of its own, or a change to a word that equals another one.
        DeidError: the model has no text encoder.
    """
    try:
        subspace = model.subspace(choice.phrases)
    except ValueError as error:
        raise UsageError(f"keep: {error}: use other words") from error
    for name, word in choice.change.items():
        if name not in MAP_ATTRIBUTES and (same := subspace.indistinguishable_from(name, word)):
            raise UsageError(
                f"change: {name}={word}: this model cannot distinguish {word} from {', '.join(same)}: leave it out, or "
                "use a model whose text encoder can"
            )


def filter_features(
    pipeline: TextConditioned, features: torch.Tensor, choices: Sequence[AttributeSelection]
) -> torch.Tensor:
    """Reduce features to each face's kept attributes, and replace its changed ones.

    Args:
        pipeline: embeds the attributes' words; its adapter holds the mean features.
        features: (B, N, D) from ``FaceDeidPipeline.encode_attributes``.
        choices: B selections.

    Returns:
        (B, N, D) float32.

    Raises:
        DeidError: the pipeline has no text encoder.
        ValueError: a phrase without a direction of its own.
    """
    import torch  # here, so that options are checked without it

    features, adapter = features.float(), pipeline.attribute_adapter
    subspace = pipeline.subspace(tuple(dict.fromkeys(phrase for choice in choices for phrase in choice.phrases)))
    if adapter is None:
        centre, scale, quantization_step = torch.zeros_like(features[0]), 1.0, 0.0
    else:
        centre, scale = adapter.centre.to(features), float(adapter.phrase_scale)
        quantization_step = subspace.quantization_step(scale)
    filtered = []
    for row, choice in zip(features, choices, strict=True):
        row = subspace.project(row, choice.keep, centre, quantization_step)
        for name, word in choice.change.items():
            row = subspace.change(row, name, word, centre, scale)
        filtered.append(row)
    return torch.stack(filtered)
