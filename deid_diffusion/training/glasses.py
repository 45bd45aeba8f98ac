"""Who wears glasses, learned from the few pictures whose text says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np

from ..faces.landmarks import MESH_BROWS
from ..faces.texture import texture_mesh, unwrap_face

SURE = 0.75
"""Probability from which somebody counts as wearing glasses."""

SURELY_NOT = 0.03
"""Probability under which somebody counts as wearing none."""

_TEXELS = 128  # side of the texture that the strip over the eyes is cut from
_STRIP = (128, 64)  # width and height, in pixels
_ABOVE, _BELOW = 3, 5  # texels above the brows and below the tip of the nose
_GLASSES, _NO_GLASSES = "glasses", "no glasses"
_LEAST = 8  # pictures with glasses, and without
_COMPONENTS, _FOLDS, _ROUNDS = 150, 8, 4


def eye_strip(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Unwrap a face from its brows to the tip of its nose.

    Args:
        picture: (H, W, 3) uint8 RGB.
        mesh: (478, 2) its pixels.

    Returns:
        (64, 128) float32, luminance in 0..1.
    """
    top, bottom = _rows()
    texture, _ = unwrap_face(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), mesh, _TEXELS)
    return cv2.resize(texture[top:bottom].astype(np.float32) / 255, _STRIP, interpolation=cv2.INTER_AREA)


def is_told(row: Mapping[str, Any]) -> bool:
    """Return whether the text of a manifest's row says that somebody wears glasses."""
    text = row.get("text", "").lower()
    return _GLASSES in text and _NO_GLASSES not in text


def glasses_word(row: Mapping[str, Any]) -> str | None:
    """Return what a row says of glasses, a word of the vocabulary; None where nothing is known.

    Args:
        row: of a manifest, with the ``glasses_probability`` that `label_glasses` adds.
    """
    probability = row.get("glasses_probability", 1.0 if is_told(row) else None)
    if probability is None or SURELY_NOT <= probability <= SURE:
        return None
    if probability < SURELY_NOT:
        return "no glasses"
    return "sunglasses" if "sunglasses" in row.get("text", "").lower() else "reading glasses"


def label_glasses(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[np.ndarray], meshes: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """Return N rows with a ``glasses_probability`` each; as they were where too few texts speak of glasses.

    Args:
        rows: of a manifest; of those of one ``file`` the first is looked at.
        pictures: N of (H, W, 3) uint8 RGB.
        meshes: N of (478, 2), their pixels.
    """
    first = {row["file"]: index for index, row in reversed(list(enumerate(rows)))}
    told = np.array([is_told(rows[index]) for index in first.values()])
    if min(told.sum(), (~told).sum()) < _LEAST:
        return [dict(row) for row in rows]
    strips = [eye_strip(pictures[index], meshes[index]) for index in first.values()]
    of_file = dict(zip(first, glasses_probability(strips, told).tolist(), strict=True))
    return [{**row, "glasses_probability": of_file[row["file"]]} for row in rows]


def glasses_probability(strips: Sequence[np.ndarray], told: np.ndarray) -> np.ndarray:
    """Return (N,) probabilities that people wear glasses; 1 for those who are told where too few are, 0 for others.

    A logistic regression on histograms of oriented gradients (Dalal & Triggs, CVPR 2005). Texts name glasses on few of
    the pictures that show them: what is very likely counts as told in the next round.

    Args:
        strips: N of `eye_strip`.
        told: (N,) bool, whose text says so.
    """
    if told.sum() < _LEAST or (~told).sum() < _LEAST:
        return told.astype(float)
    from skimage.feature import hog
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    edges = np.stack([hog(strip, 8, (8, 8), (2, 2)) for strip in strips])
    numbers = PCA(min(_COMPONENTS, len(edges) - 1), random_state=0).fit_transform(edges)
    positive, probability = told.copy(), told.astype(float)
    for _ in range(_ROUNDS):
        classifier = LogisticRegression(C=3.0, class_weight="balanced", max_iter=500)
        probability = cross_val_predict(classifier, numbers, positive, cv=_FOLDS, method="predict_proba")[:, 1]
        positive = told | (probability > SURE)
    return np.maximum(probability, told)


@cache
def _rows() -> tuple[int, int]:
    """First row of the strip, and the one after its last."""
    frame = texture_mesh(_TEXELS)
    top = int(frame[[brow[2] for brow in MESH_BROWS], 1].min()) - _ABOVE
    return max(0, top), int(frame[1, 1]) + _BELOW
