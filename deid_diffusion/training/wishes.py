"""What users may ask for, drawn at random in training, so that every choice of attributes is one that was learned."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..attributes.subspace import AttributeSubspace
from ..models.attribute_adapter import AttributeAdapter
from .captions import FACTS

#: Share of faces of which everything is kept, of those of which nothing is, and of attributes kept of the others.
_ALL, _NONE, _KEPT = 0.4, 0.08, 0.6
_SPOKEN = 0.2  # share of known attributes whose word takes the place of what the encoder read
_CHANGED = 0.3  # share of the faces that may be changed to which that happens
#: Attribute -> the fact whose phrases are its words.
_TAUGHT = {"gender": "person", "age": "age", "expression": "expression", "skin": "skin"}
_CHANGEABLE = ("gender", "age")


@dataclass(frozen=True, eq=False)
class Wishes:
    """Wishes for B faces.

    Attributes:
        features: (B, N, D), what is kept of them, changes made.
        kept: (B, N, D), the same less the centre: 0 where nothing is kept.
        facts: (B, F) codes, those that were changed or no longer hold included.
        changed: (B,) bool.
    """

    features: torch.Tensor
    kept: torch.Tensor
    facts: torch.Tensor
    changed: torch.Tensor


class RandomWishes:
    """Draws for each face which attributes are kept, which are told in words, and which are changed."""

    def __init__(self, subspace: AttributeSubspace) -> None:
        self.subspace = subspace
        self.codes = {
            name: torch.tensor([zlib.crc32(word.encode()) for word in subspace.words[name]]) for name in _TAUGHT
        }

    def __call__(
        self, features: torch.Tensor, facts: torch.Tensor, free: torch.Tensor, adapter: AttributeAdapter
    ) -> Wishes:
        """Wishes for B faces.

        Args:
            features: (B, N, D).
            facts: (B, F) codes of what is known of each face.
            free: (B,) bool, faces that are painted from noise alone and so may be changed.
            adapter: whose centre and scale of phrases count.
        """
        drawn = [self._of_one(*row, adapter) for row in zip(features, facts, free.tolist(), strict=True)]
        made, codes, changed = (list(column) for column in zip(*drawn, strict=True))
        wished = torch.stack(made)
        device = features.device
        return Wishes(wished, wished - adapter.centre, torch.stack(codes), torch.tensor(changed, device=device))

    def _of_one(
        self, feature: torch.Tensor, facts: torch.Tensor, free: bool, adapter: AttributeAdapter
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        names = tuple(self.subspace.words)
        kind, draw = torch.rand(2 + len(names)).split([2, len(names)])
        keep = [name for name, share in zip(names, draw.tolist(), strict=True) if kind[0] < _ALL or share < _KEPT]
        if _ALL <= float(kind[0]) < _ALL + _NONE:
            keep = []
        scale = float(adapter.phrase_scale)
        made = self.subspace.project(feature, keep, adapter.centre, self.subspace.grain(scale))
        told, facts = self._told(keep, facts), facts.clone()
        changes: Mapping[str, str] = {}
        if free and kind[1] < _CHANGED:
            changes = self._changes([name for name in _CHANGEABLE if name in told], facts)
        for name, word in {**told, **changes}.items():
            if name in changes or torch.rand(()) < _SPOKEN:
                made = self.subspace.change(made, name, word, adapter.centre, scale)
        return made, facts, bool(changes)

    def _told(self, keep: list[str], facts: torch.Tensor) -> dict[str, str]:
        """Attribute -> the word that is true of a face, for those that are kept and known."""
        told = {}
        for name in _TAUGHT:
            true = (self.codes[name] == facts[FACTS.index(_TAUGHT[name])].cpu()).nonzero()
            if name in keep and len(true):
                told[name] = self.subspace.words[name][int(true[0])]
        return told

    def _changes(self, names: list[str], facts: torch.Tensor) -> Mapping[str, str]:
        """Another word for one of the attributes; the facts are changed with it."""
        if not names:
            return {}
        name = names[int(torch.randint(len(names), ()))]
        words, codes = self.subspace.words[name], self.codes[name]
        others = [k for k, code in enumerate(codes.tolist()) if code != int(facts[FACTS.index(_TAUGHT[name])])]
        chosen = others[int(torch.randint(len(others), ()))]
        facts[FACTS.index(_TAUGHT[name])] = codes[chosen]
        for other in ("years", "text") if name == "age" else ("text",):
            facts[FACTS.index(other)] = 0
        return {name: words[chosen]}
