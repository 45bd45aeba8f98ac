"""Light on a face as a few numbers: a smooth fit to the logarithms of its skin's colours, and a face lit by it.

A product of albedo and light becomes a sum under the logarithm, so light is what varies slowly over the face, as in
Retinex (Land & McCann, 1971) and homomorphic filtering (Oppenheim et al., 1968). Low-order polynomials over the face
stand for the low-order spherical harmonics that hold most of a convex object's shading (Basri & Jacobs, 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..attributes.selection import AttributeSelection

COEFFICIENTS = 6
"""Numbers per colour channel: 1, u, v, u², v², uv."""

_FLOOR = 0.04  # linear offset of the logarithm: black has a finite value
_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_RIDGE = np.array((0, 0.003, 0.003, 0.02, 0.02, 0.02))  # prior against gradients, per sample
_ROUNDS, _SCALE = 6, 0.15  # of the reweighting, and the residual, in nats, at which a sample counts half
_CENTRE, _AROUND = (0.5, 0.6), 0.3  # of the samples that the first fit listens to
_SAMPLES = 2000  # more change nothing
_CLIPPED = 0.985  # channel value from which a sample says little of the light
_LEVELS = (0.15, 0.6)  # least and most luminance that surroundings tell of
_MEDIUM = (1.25, 0.93, 0.76)  # RGB of medium skin over its luminance
#: Word for a light -> what it adds to each coefficient, in nats.
_WORDS: Mapping[str, tuple[float, ...]] = {
    "bright light": (0.3, 0, 0, 0, 0, 0),
    "dim light": (-0.7, 0, 0, 0, 0, 0),
    "light from the left": (0, -0.45, 0, -0.1, 0, 0),
    "light from the right": (0, 0.45, 0, -0.1, 0, 0),
}
_SEEN = (0.02, 0.98)  # quantiles of the fit on seen skin that bound it elsewhere
_KNEE = 0.88  # value over which highlights bend towards white
_OUTLIER = 0.25  # residual, in nats, from which skin counts as covered


@dataclass(frozen=True, eq=False)
class FaceLight:
    """Light and skin tone of one face.

    Attributes:
        coefficients: (6, 3) float64, RGB; logarithm of colour as a polynomial of the position on the mean face.
        outliers: share of the skin that is far from the fit, 0 to 1.
        bounds: (2, 3), least and most that the fit reaches on the skin that was seen; beyond it nothing is known.
    """

    coefficients: np.ndarray
    outliers: float = 0.0
    bounds: np.ndarray | None = None

    def at(self, uv: np.ndarray) -> np.ndarray:
        """Return (N, 3) logarithms of colour at N positions (u, v) in 0..1 on the mean face."""
        return self.of_terms(polynomial(uv))

    def of_terms(self, terms: np.ndarray) -> np.ndarray:
        """Return what `at` returns for the terms, (N, 6), of N positions, see `polynomial`."""
        values = (terms @ self.coefficients.astype(terms.dtype)).astype(np.float32)
        return values if self.bounds is None else values.clip(*self.bounds.astype(np.float32))

    @property
    def tone(self) -> np.ndarray:
        """(3,) logarithm of the mean colour over the face: skin tone and exposure together."""
        mean = np.array([1, 0, 0, 1 / 4, 1 / 4, 0])  # of each term over the face, about
        return mean @ self.coefficients

    @property
    def contrast(self) -> float:
        """Standard deviation of the luminance's logarithm over the face, in nats."""
        grid = np.stack(np.meshgrid(*[np.linspace(0.15, 0.85, 8)] * 2), -1).reshape(-1, 2)
        return float((self.at(grid) @ _GREY).std())

    def towards(self, other: FaceLight, share: float) -> FaceLight:
        """Return the light a share, 0 to 1, of the way to another."""
        coefficients = self.coefficients + share * (other.coefficients - self.coefficients)
        bounds = self.bounds
        if bounds is not None and other.bounds is not None:
            bounds = bounds + share * (other.bounds - bounds)
        return FaceLight(coefficients, self.outliers, bounds)

    def even(self) -> FaceLight:
        """Return light of the same tone without any gradient."""
        coefficients = np.zeros_like(self.coefficients)
        coefficients[0] = self.tone
        return FaceLight(coefficients)


def polynomial(uv: np.ndarray) -> np.ndarray:
    """Return (N, 6) terms of the fit for (N, 2) positions in 0..1."""
    u, v = (2 * uv - 1).T
    return np.stack([np.ones_like(u), u, v, u * u, v * v, u * v], 1)


def to_log(colours: np.ndarray) -> np.ndarray:
    """Return the logarithm of colours in 0..1, any shape, as float32; 0 for white."""
    return np.log(colours.astype(np.float32) * (1 - _FLOOR) + _FLOOR)


def from_log(values: np.ndarray) -> np.ndarray:
    """Invert `to_log`; values over white are over 1."""
    return (np.exp(values) - _FLOOR) / (1 - _FLOOR)


def fit_light(colours: np.ndarray, uv: np.ndarray) -> FaceLight:
    """Fit light to skin, robustly: what differs from smooth skin (hair, glasses, a hand) counts little.

    Args:
        colours: (N, 3) RGB in 0..1 of skin pixels.
        uv: (N, 2) their positions on the mean face, 0..1.

    Raises:
        ValueError: for fewer than 12 pixels.
    """
    if len(colours) < 2 * COEFFICIENTS:
        raise ValueError(f"colours: expected {2 * COEFFICIENTS} pixels of skin or more, got {len(colours)}")
    step = max(1, len(colours) // _SAMPLES)
    terms, values = polynomial(uv[::step]).astype(np.float64), to_log(colours[::step]).astype(np.float64)
    seen = np.where(colours[::step].max(1) >= _CLIPPED, 0.1, 1.0)
    middle = np.exp(-(((uv[::step] - _CENTRE) / _AROUND) ** 2).sum(1))  # hair and hats reach in from the outline
    weights, ridge = seen * middle, np.diag(_RIDGE) * len(terms)
    for _ in range(_ROUNDS):
        weighted = terms * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + ridge, weighted.T @ values)
        residual = np.abs((values - terms @ coefficients) @ _GREY)
        weights = seen / (1 + (residual / _SCALE) ** 2)
    bounds = np.quantile(terms @ coefficients, _SEEN, axis=0)
    return FaceLight(coefficients, float((residual > _OUTLIER).mean()), bounds)


def bend_highlights(colours: np.ndarray) -> np.ndarray:
    """Compress colours, (..., 3) RGB, whose largest channel is near or over white, keeping their hue."""
    brightest = colours.max(-1, keepdims=True).clip(1e-3)
    over = (brightest - _KNEE).clip(0) / (1 - _KNEE)
    factor = np.where(over > 0, (1 - (1 - _KNEE) * np.exp(-over)) / brightest, 1)
    return (colours * factor).clip(0, 1)


def select_light(
    light: FaceLight | None, context: np.ndarray, erased: np.ndarray, choice: AttributeSelection
) -> FaceLight:
    """Return the light to show a new face in.

    Kept are the gradients with "light", the tone with "light" or "skin". Where neither is kept, or no skin was seen,
    the tone is that of medium skin as bright as the surroundings.

    Args:
        light: of the original; None where it could not be read.
        context: (S, S, 3) uint8 RGB crop of the photo.
        erased: (S, S) bool, where the context says nothing.
        choice: what is kept, and changed: "light" may become one of its words.
    """
    keep = choice.keep
    if light is None or not {"light", "skin"} & set(keep):
        seen = context[~erased]
        level = float(np.median(seen @ _GREY)) / 255 if len(seen) else 0.5
        level = float(np.clip(level, *_LEVELS))
        shown = FaceLight(np.vstack([to_log(level * np.array(_MEDIUM, np.float32)), np.zeros((5, 3))]))
    else:
        shown = light if "light" in keep else light.even()
    if word := choice.change.get("light"):
        shown = FaceLight(shown.even().coefficients + np.array(_WORDS[word])[:, None])
    return shown
