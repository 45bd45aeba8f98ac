"""Projection of attribute features onto the subspace spanned by the kept attributes' words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..faces.semantic_map import REGIONS
from .vocabulary import SEEN_IN, sentence

FEATURE_NAMES: tuple[str, ...] = ("face", *REGIONS)
"""Rows of the features: the entire face, then each region in the order of ``semantic_map.REGIONS``."""

_NEGLIGIBLE = 1e-3  # singular values under this share of the largest add no direction
_GRAIN = 2**-12  # smallest quantization step; it hides rounding errors, which depend on the removed components
_FINENESS = 0.25  # keeps ages between the words for them
MEAN_PHRASE = "photo of a person"
"""Neutral caption with which a single phrase is contrasted."""


@dataclass(frozen=True, eq=False)
class AttributeSubspace:
    """Directions of a joint space of images and texts that the words of each attribute span.

    A face's feature x becomes ``centre + P (x - centre)``, where P is the orthogonal projection on the span of the kept
    attributes' directions (like the text-supervised global directions of StyleCLIP; Patashnik et al., ICCV 2021): of D
    numbers, k quantized coordinates remain. The feature of a region keeps only the attributes that show in that region.

    Attributes:
        words: attribute -> its K words.
        directions: attribute -> (K, D), differences of the words' captions from their mean.
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
        """Compute the subspaces of contrasting words; a single word is contrasted with `MEAN_PHRASE`.

        >>> words = {"expression": ["smiling", "serious"], "freckles": ["freckles"]}
        >>> AttributeSubspace.from_phrases(words, lambda texts: torch.eye(len(texts), 8)).dimensions(words)
        2

        Args:
            phrases: attribute -> words.
            embed: K captions -> (K, D) unit vectors.

        Raises:
            ValueError: an attribute without words, or words that the encoder cannot distinguish.
        """
        words = {name: tuple(texts) for name, texts in phrases.items()}
        directions, bases = {}, {}
        for name, texts in words.items():
            if not texts or not all(text.strip() for text in texts):
                raise ValueError(f"{name}: an attribute needs words, and none may be empty")
            embeddings = embed([sentence(text) for text in texts])
            mean = embeddings.mean(0) if len(texts) > 1 else embed([MEAN_PHRASE])
            directions[name] = embeddings - mean
            _, sizes, rows = torch.linalg.svd(directions[name].float(), full_matrices=False)
            if float(sizes[0]) < 1e-6:
                raise ValueError(f"{name}: the encoder cannot distinguish these words: {', '.join(texts)}")
            bases[name] = rows[sizes > _NEGLIGIBLE * sizes[0]]
        return cls(words, directions, bases)

    def indistinguishable_from(self, name: str, word: str) -> tuple[str, ...]:
        """Return the other words of an attribute that the encoder cannot distinguish from a given one."""
        directions, words = self.directions[name], self.words[name]
        distances = (directions - directions[words.index(word)]).norm(dim=1)
        equal = distances < _NEGLIGIBLE * directions.norm(dim=1).max()
        return tuple(other for other, same in zip(words, equal.tolist(), strict=True) if same and other != word)

    def dimensions(self, keep: Collection[str]) -> int:
        """Return the number of coordinates of each feature that remain."""
        return len(self._span(keep))

    def quantization_step(self, scale: float) -> float:
        """Return the quantization step: a quarter of the mean length of the words' directions.

        Args:
            scale: length of image directions relative to text directions.
        """
        names = [name for name in self.directions if name in SEEN_IN] or list(self.directions)  # independent of phrases
        lengths = torch.cat([self.directions[name].float().norm(dim=1) for name in names])
        return _FINENESS * scale * float(lengths.mean())

    def project(
        self, features: torch.Tensor, keep: Collection[str], centre: torch.Tensor, grain: float = 0.0
    ) -> torch.Tensor:
        """Project features on the kept attributes' subspace.

        Args:
            features: (..., N, D), rows as in ``FEATURE_NAMES``.
            keep: names of attributes; without any, the result is the centre.
            centre: (N, D), mean features.
            quantization_step: quantization step of the coordinates; finer differences identify people.
        """
        grain, rows = max(grain, _GRAIN), []
        for row, name in enumerate(FEATURE_NAMES):
            span = self._span([attribute for attribute in keep if name in _rows_of(attribute)]).to(features)
            coordinates = torch.round((features[..., row, :] - centre[row]) @ span.T / grain) * grain
            rows.append(centre[row] + coordinates @ span)
        return torch.stack(rows, -2)

    def change(self, features: torch.Tensor, name: str, word: str, centre: torch.Tensor, scale: float) -> torch.Tensor:
        """Replace a face's component in an attribute's subspace by a word's, in the rows that show the attribute.

        Args:
            features: (..., N, D).
            name: the attribute.
            word: one of its words.
            centre: (N, D), as for `project`.
            scale: length of image directions relative to text directions.
        """
        basis = self.bases[name].to(features)
        rest = features - (features - centre) @ basis.T @ basis
        changed = rest + scale * self.directions[name][self.words[name].index(word)].to(features)
        visible = torch.tensor([row in _rows_of(name) for row in FEATURE_NAMES], device=features.device)
        return torch.where(visible[:, None], changed, features)

    def scores(self, features: torch.Tensor, name: str, sharpness: float) -> torch.Tensor:
        """Classify faces by an attribute's K words, as CLIP does (Radford et al., 2021).

        Args:
            features: (..., D), projected or not, as only differences between the words' directions matter.
            name: the attribute.
            sharpness: logit scale; CLIP's is 100.

        Returns:
            (..., K) probabilities: a softmax over the words, or a sigmoid for a single word.
        """
        logits = sharpness * features @ self.directions[name].to(features).T
        return logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()

    def _span(self, keep: Collection[str]) -> torch.Tensor:
        """Return (k, D) orthonormal rows that span the kept attributes' directions."""
        names = tuple(keep)
        if not names:
            return next(iter(self.bases.values()))[:0]
        if names not in self._spans:
            _, sizes, rows = torch.linalg.svd(torch.cat([self.bases[name] for name in names]), full_matrices=False)
            self._spans[names] = rows[sizes > _NEGLIGIBLE * sizes[0]]
        return self._spans[names]


def _rows_of(name: str) -> tuple[str, ...]:
    """Return the names of the feature rows that show an attribute."""
    return ("face", *SEEN_IN[name]) if name in SEEN_IN else FEATURE_NAMES
