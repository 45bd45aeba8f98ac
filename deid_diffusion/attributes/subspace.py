"""Words to subspaces: what no kept attribute's words name cannot pass a projection on the span of those that are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from .vocabulary import sentence

_NEGLIGIBLE = 1e-3  # singular values under this share of the largest are no direction of their own
_GRAIN = 2**-12  # the numbers that pass are multiples of it: what is left out shows in none of their last digits
ANYBODY = "photo of a person"
"""What a single phrase stands against: nothing said."""


@dataclass(frozen=True, eq=False)
class AttributeSubspace:
    """The directions of a joint space of images and texts that words span, attribute by attribute.

    A face's feature x becomes ``centre + P (x - centre)``, P the orthogonal projection on the span of the kept
    attributes' directions (as text-supervised subspaces in StyleCLIP's global directions; Patashnik et al., ICCV 2021):
    with k directions, k numbers of D remain.

    Attributes:
        words: attribute -> its K words.
        directions: attribute -> (K, D), how each word's caption differs from the mean of the attribute's.
        bases: attribute -> (k, D) orthonormal rows, k < K, or 1 for a single word.
    """

    words: Mapping[str, tuple[str, ...]]
    directions: Mapping[str, torch.Tensor]
    bases: Mapping[str, torch.Tensor]

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
                directions[name] = embed(texts) - embed([ANYBODY])
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

    def project(self, features: torch.Tensor, keep: Collection[str], centre: torch.Tensor) -> torch.Tensor:
        """What the kept attributes' words say of faces, and nothing else.

        Args:
            features: (..., N, D).
            keep: names of attributes; none of them leaves the centre.
            centre: (N, D), features of nobody in particular.
        """
        span = self._span(keep).to(features)
        passed = torch.round((features - centre) @ span.T / _GRAIN) * _GRAIN
        return centre + passed @ span

    def change(self, features: torch.Tensor, name: str, word: str, centre: torch.Tensor, scale: float) -> torch.Tensor:
        """Features whose part in an attribute's subspace is the word's instead of the face's.

        Args:
            features: (..., N, D).
            name: the attribute.
            word: one of its words.
            centre: (N, D), as for `project`.
            scale: length of images' directions against texts'.
        """
        basis = self.bases[name].to(features)
        rest = features - (features - centre) @ basis.T @ basis
        return rest + scale * self.directions[name][self.words[name].index(word)].to(features)

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
        first = next(iter(self.bases.values()))
        if not keep:
            return first[:0]
        _, sizes, rows = torch.linalg.svd(torch.cat([self.bases[name] for name in keep]), full_matrices=False)
        return rows[sizes > _NEGLIGIBLE * sizes[0]]
