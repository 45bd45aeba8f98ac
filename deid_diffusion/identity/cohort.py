"""How alike strangers are: a recogniser's threshold for people whom it hardly tells apart, such as small children.

Of two different toddlers, dlib's network takes a fifth for one person at the threshold that fails for one in a
thousand of all. Cohort normalisation (T-norm with the nearest of a cohort; Sturim and Reynolds, "Speaker Adaptive
Cohort Selection for T-norm in Text-independent Speaker Verification", ICASSP 2005) measures that for each face: how
like it the most similar of many synthetic people are, none of whom it can be.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

NEAREST = 10
"""Strangers whose mean similarity counts."""

SAME_MARGIN, ALIKE_MARGIN = 0.005, -0.03
"""What is added to that similarity for a threshold like `recognition.SAME_PERSON` and one like `recognition.ALIKE`. On
180 FairFace photos strangers of one age group then match at 0 to 1.1 %, and at 0 to 22 % without (``python
benchmarks/calibrate_recogniser.py FOLDER --groups labels.csv``)."""

_FILE = Path(__file__).with_name("cohort.npy")


@cache
def dlib_cohort() -> np.ndarray:
    """Return (N, 128) float32 unit embeddings of synthetic people by `recognition.DlibRecogniser`.

    Written by ``benchmarks/calibrate_recogniser.py --cohort``.
    """
    return np.load(_FILE).astype(np.float32)


def similarity_of_strangers(embedding: np.ndarray, cohort: np.ndarray) -> float:
    """Return the mean cosine of a face and the `NEAREST` most similar people of a cohort.

    Args:
        embedding: (D,) unit vector.
        cohort: (N, D) unit vectors, N at least `NEAREST`.
    """
    cosines = cohort @ embedding
    return float(np.partition(cosines, -NEAREST)[-NEAREST:].mean())
