"""Light on a face: a low-order polynomial fitted to the logarithm of the skin's colours.

The logarithm turns the product of albedo and light into a sum, of which light is the slowly varying part, as in Retinex
(Land & McCann, 1971) and homomorphic filtering (Oppenheim et al., 1968). Low-order polynomials over the face stand for
the low-order spherical harmonics, which hold most of a convex object's shading (Basri & Jacobs, 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..attributes.selection import AttributeSelection

COEFFICIENTS = 6  # per colour channel: 1, u, v, u², v², uv
LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # weights of RGB in the luminance (Rec. 601)
_LOG_OFFSET = 0.04  # keeps the logarithm of black finite
_RIDGE = np.array((0, 0.003, 0.003, 0.02, 0.02, 0.02))  # penalty of the coefficients, per sample
_ITERATIONS, _HALF_WEIGHT_RESIDUAL = 6, 0.15  # of iteratively reweighted least squares; the residual is in nats
_CENTRE, _CENTRE_WIDTH = (0.5, 0.6), 0.3  # of the samples that weigh most, in u and v: hair and hats lie further out
_MAX_SAMPLES = 2000
_CLIPPED_VALUE, _CLIPPED_WEIGHT = 0.985, 0.1  # channel value from which a sample is overexposed, and its weight
_LUMINANCE_RANGE = (0.15, 0.6)  # of the skin that surroundings imply
_MEDIUM_SKIN = (1.25, 0.93, 0.76)  # RGB over its luminance
#: Word -> change of the coefficients, in nats.
_LIGHT_CHANGES: Mapping[str, tuple[float, ...]] = {
    "bright light": (0.3, 0, 0, 0, 0, 0),
    "dim light": (-0.7, 0, 0, 0, 0, 0),
    "light from the left": (0, -0.45, 0, -0.1, 0, 0),
    "light from the right": (0, 0.45, 0, -0.1, 0, 0),
}
_BOUND_QUANTILES = (0.02, 0.98)  # of the fit on visible skin; they bound it on hidden skin
_KNEE = 0.88  # channel value above which highlights are compressed
_OUTLIER_RESIDUAL = 0.25  # in nats, above which skin counts as covered


@dataclass(frozen=True, eq=False)
class FaceLight:
    """Light and skin tone of a face.

    Attributes:
        coefficients: (6, 3) float64, RGB: logarithm of colour as a polynomial of the position on the mean face.
        outliers: share, 0 to 1, of the skin that is far from the fit.
        bounds: (2, 3), minimum and maximum of the fit on visible skin, which limit extrapolation.
    """

    coefficients: np.ndarray
    outliers: float = 0.0
    bounds: np.ndarray | None = None

    def at(self, uv: np.ndarray) -> np.ndarray:
        """Return (N, 3) logarithms of colour at N positions (u, v) in 0..1 on the mean face."""
        return self.of_terms(polynomial(uv))

    def of_terms(self, terms: np.ndarray) -> np.ndarray:
        """Return (N, 3) logarithms of colour for the (N, 6) `polynomial` terms of N positions."""
        values = (terms @ self.coefficients.astype(terms.dtype)).astype(np.float32)
        return values if self.bounds is None else values.clip(*self.bounds.astype(np.float32))

    @property
    def tone(self) -> np.ndarray:
        """Logarithm of the mean RGB over the face, (3,): skin tone and exposure together."""
        mean = np.array([1, 0, 0, 1 / 4, 1 / 4, 0])  # approximate means of the terms over the face
        return mean @ self.coefficients

    @property
    def contrast(self) -> float:
        """Standard deviation of the luminance's logarithm over the face, in nats."""
        grid = np.stack(np.meshgrid(*[np.linspace(0.15, 0.85, 8)] * 2), -1).reshape(-1, 2)
        return float((self.at(grid) @ LUMA).std())

    def towards(self, other: FaceLight, share: float) -> FaceLight:
        """Interpolate to another light by a share of 0 to 1."""
        coefficients = self.coefficients + share * (other.coefficients - self.coefficients)
        bounds = self.bounds
        if bounds is not None and other.bounds is not None:
            bounds = bounds + share * (other.bounds - bounds)
        return FaceLight(coefficients, self.outliers, bounds)

    def even(self) -> FaceLight:
        """Return light of the same tone without gradients."""
        coefficients = np.zeros_like(self.coefficients)
        coefficients[0] = self.tone
        return FaceLight(coefficients)


def polynomial(uv: np.ndarray) -> np.ndarray:
    """Return the (N, 6) terms of the polynomial at (N, 2) positions in 0..1."""
    u, v = (2 * uv - 1).T
    return np.stack([np.ones_like(u), u, v, u * u, v * v, u * v], 1)


def to_log(colours: np.ndarray) -> np.ndarray:
    """Return the float32 logarithm of colours in 0..1, of any shape; 0 for white."""
    return np.log(colours.astype(np.float32) * (1 - _LOG_OFFSET) + _LOG_OFFSET)


def from_log(values: np.ndarray) -> np.ndarray:
    """Invert `to_log`; colours brighter than white exceed 1."""
    return (np.exp(values) - _LOG_OFFSET) / (1 - _LOG_OFFSET)


def fit_light(colours: np.ndarray, uv: np.ndarray) -> FaceLight:
    """Fit light to skin by robust regression, in which hair, glasses or hands weigh little.

    Args:
        colours: (N, 3) RGB in 0..1 of skin pixels.
        uv: (N, 2) positions of the pixels on the mean face, 0..1.

    Raises:
        ValueError: fewer than 12 pixels.
    """
    if len(colours) < 2 * COEFFICIENTS:
        raise ValueError(f"colours: expected at least {2 * COEFFICIENTS} skin pixels, got {len(colours)}")
    step = max(1, len(colours) // _MAX_SAMPLES)
    terms, values = polynomial(uv[::step]).astype(np.float64), to_log(colours[::step]).astype(np.float64)
    exposure = np.where(colours[::step].max(1) >= _CLIPPED_VALUE, _CLIPPED_WEIGHT, 1.0)
    centrality = np.exp(-(((uv[::step] - _CENTRE) / _CENTRE_WIDTH) ** 2).sum(1))
    weights, ridge = exposure * centrality, np.diag(_RIDGE) * len(terms)
    for _ in range(_ITERATIONS):
        weighted = terms * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + ridge, weighted.T @ values)
        residual = np.abs((values - terms @ coefficients) @ LUMA)
        weights = exposure / (1 + (residual / _HALF_WEIGHT_RESIDUAL) ** 2)
    bounds = np.quantile(terms @ coefficients, _BOUND_QUANTILES, axis=0)
    return FaceLight(coefficients, float((residual > _OUTLIER_RESIDUAL).mean()), bounds)


def bend_highlights(colours: np.ndarray) -> np.ndarray:
    """Compress (..., 3) RGB colours whose largest channel is near or above white; the hue stays."""
    brightest = colours.max(-1, keepdims=True).clip(1e-3)
    over = (brightest - _KNEE).clip(0) / (1 - _KNEE)
    factor = np.where(over > 0, (1 - (1 - _KNEE) * np.exp(-over)) / brightest, 1)
    return (colours * factor).clip(0, 1)


def select_light(
    light: FaceLight | None, context: np.ndarray, erased: np.ndarray, choice: AttributeSelection
) -> FaceLight:
    """Return the light of a new face.

    Keeping "light" keeps gradients and tone, keeping "skin" the tone only. If neither is kept, or the original's light
    is unknown, the tone is that of medium skin at the luminance of the surroundings.

    Args:
        light: light of the original, or None.
        context: (S, S, 3) uint8 RGB crop of the photo.
        erased: (S, S) bool, the pixels of the context to ignore.
        choice: attributes to keep and change; "light" may be changed to a word.
    """
    keep = choice.keep
    if light is None or not {"light", "skin"} & set(keep):
        surroundings = context[~erased]
        luminance = float(np.median(surroundings @ LUMA)) / 255 if len(surroundings) else 0.5
        luminance = float(np.clip(luminance, *_LUMINANCE_RANGE))
        tone = to_log(luminance * np.array(_MEDIUM_SKIN, np.float32))
        selected = FaceLight(np.vstack([tone, np.zeros((5, 3))]))
    else:
        selected = light if "light" in keep else light.even()
    if word := choice.change.get("light"):
        selected = FaceLight(selected.even().coefficients + np.array(_LIGHT_CHANGES[word])[:, None])
    return selected
