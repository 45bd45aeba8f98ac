"""Words to subspaces: what no kept attribute's words name cannot pass a projection on the span of those that are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..faces.semantic_map import REGIONS
from .vocabulary import SEEN_IN, sentence

FEATURE_NAMES: tuple[str, ...] = ("face", *REGIONS)
"""Rows of the features: the whole face first, then each region in the order of ``labels.REGIONS``."""

_NEGLIGIBLE = 1e-3  # singular values under this share of the largest are no direction of their own
_GRAIN = 2**-12  # the least: what is left out shows in none of the last digits of the numbers that pass
_FINENESS = 0.25  # years lie between the words for ages
MEAN_PHRASE = "photo of a person"
"""What a single phrase stands against: nothing said."""


@dataclass(frozen=True, eq=False)
class AttributeSubspace:
    """The directions of a joint space of images and texts that words span, attribute by attribute.

    A face's feature x becomes ``centre + P (x - centre)``, P the orthogonal projection on the span of the kept
    attributes' directions (as text-supervised subspaces in StyleCLIP's global directions; Patashnik et al., ICCV 2021):
    with k directions, k numbers of D remain, and those rounded. A region's feature keeps the attributes that are seen
    in that region only.

    Attributes:
        words: attribute -> its K words.
        directions: attribute -> (K, D), how each word's caption differs from the mean of the attribute's.
        bases: attribute -> (k, D) orthonormal rows, k < K, or 1 for a single word.
    """

    words: Mapping[str, tuple[str, ...]]
    directions: Mapping[str, torch.Tensor]
    bases: Mapping[str, torch.Tensor]
    _spans: dict[tuple[str, ...], torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_phrases(
        cls, phrases: Mapping[str, Sequence[str]], embed: Callable[[list[str]], torch.Tensor]
    ) -> AttributeSubspace:
        """From words that contrast with each other; a single one contrasts with a person of whom nothing is said.

        >>> words = {"expression": ["smiling", "serious"], "freckles": ["freckles"]}
        >>> AttributeSubspace.from_phrases(words, lambda texts: torch.eye(len(texts), 8)).dimensions(words)
        2

        Args:
            phrases: attribute -> words.
            embed: K captions -> (K, D) unit vectors.

        Raises:
            ValueError: for an attribute without words, or words that the encoder does not tell apart.
        """
        words = {name: tuple(given) for name, given in phrases.items()}
        directions, bases = {}, {}
        for name, given in words.items():
            if not given or not all(word.strip() for word in given):
                raise ValueError(f"{name}: an attribute needs words, and none may be empty")
            texts = [sentence(word) for word in given]
            if len(texts) == 1:
                directions[name] = embed(texts) - embed([MEAN_PHRASE])
            else:
                found = embed(texts)
                directions[name] = found - found.mean(0)
            _, sizes, rows = torch.linalg.svd(directions[name].float(), full_matrices=False)
            if float(sizes[0]) < 1e-6:
                raise ValueError(f"{name}: the encoder does not tell these words apart: {', '.join(given)}")
            bases[name] = rows[sizes > _NEGLIGIBLE * sizes[0]]
        return cls(words, directions, bases)

    def same_as(self, name: str, word: str) -> tuple[str, ...]:
        """The other words of an attribute that the encoder does not tell from one of them."""
        directions, words = self.directions[name], self.words[name]
        own = directions[words.index(word)]
        longest = directions.norm(dim=1).max()
        near = (directions - own).norm(dim=1) < _NEGLIGIBLE * longest
        return tuple(one for one, same in zip(words, near.tolist(), strict=True) if same and one != word)

    def dimensions(self, keep: Collection[str]) -> int:
        """How many numbers of each feature remain."""
        return len(self._span(keep))

    def grain(self, scale: float) -> float:
        """A quarter of how far a word is from the mean of its attribute's, on average: little that is finer has a name.

        Args:
            scale: length of images' directions against texts'.
        """
        own = [name for name in self.directions if name in SEEN_IN] or list(self.directions)  # no phrase changes others
        return _FINENESS * scale * float(torch.cat([self.directions[name].float().norm(dim=1) for name in own]).mean())

    def project(
        self, features: torch.Tensor, keep: Collection[str], centre: torch.Tensor, grain: float = 0.0
    ) -> torch.Tensor:
        """What the kept attributes' words say of faces, and nothing else.

        Args:
            features: (..., N, D), rows as in ``FEATURE_NAMES``.
            keep: names of attributes; none of them leaves the centre.
            centre: (N, D), features of nobody in particular.
            grain: the numbers that pass are rounded to multiples of it, for people are told apart by what is finer.
        """
        grain, rows = max(grain, _GRAIN), []
        for row, name in enumerate(FEATURE_NAMES):
            span = self._span([one for one in keep if name in _rows_of(one)]).to(features)
            passed = torch.round((features[..., row, :] - centre[row]) @ span.T / grain) * grain
            rows.append(centre[row] + passed @ span)
        return torch.stack(rows, -2)

    def change(self, features: torch.Tensor, name: str, word: str, centre: torch.Tensor, scale: float) -> torch.Tensor:
        """Features whose part in an attribute's subspace is the word's instead of the face's, where it is seen.

        Args:
            features: (..., N, D).
            name: the attribute.
            word: one of its words.
            centre: (N, D), as for `project`.
            scale: length of images' directions against texts'.
        """
        basis = self.bases[name].to(features)
        rest = features - (features - centre) @ basis.T @ basis
        made = rest + scale * self.directions[name][self.words[name].index(word)].to(features)
        told = torch.tensor([row in _rows_of(name) for row in FEATURE_NAMES], device=features.device)
        return torch.where(told[:, None], made, features)

    def scores(self, features: torch.Tensor, name: str, sharpness: float) -> torch.Tensor:
        """How well each of an attribute's words suits faces: (..., D) features -> (..., K), 0 to 1.

        A softmax of cosines, as CLIP classifies (Radford et al., 2021); a single word stands against nothing said.

        Args:
            features: (..., D), whole or projected: the differences between the words' directions are all that counts.
            name: the attribute.
            sharpness: what the cosines are multiplied by; CLIP's is 100.
        """
        logits = sharpness * features @ self.directions[name].to(features).T
        return logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()

    def _span(self, keep: Collection[str]) -> torch.Tensor:
        """(k, D) orthonormal rows that span the kept attributes' directions."""
        names = tuple(keep)
        if not names:
            return next(iter(self.bases.values()))[:0]
        if names not in self._spans:
            _, sizes, rows = torch.linalg.svd(torch.cat([self.bases[name] for name in names]), full_matrices=False)
            self._spans[names] = rows[sizes > _NEGLIGIBLE * sizes[0]]
        return self._spans[names]


def _rows_of(name: str) -> tuple[str, ...]:
    """The features that tell of an attribute."""
    return ("face", *SEEN_IN[name]) if name in SEEN_IN else FEATURE_NAMES
