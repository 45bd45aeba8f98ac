"""Who is in a face, as numbers: the offline recogniser that results are verified by. No embedding reaches generation.

The network is dlib's ResNet-29 (King, "High Quality Face Recognition with Deep Metric Learning", 2017), whose weights
are in the public domain and come inside the face_recognition_models package. Nothing else of that package is used: its
68-point predictor learned from photos that are for non-commercial use.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import DeidError, one_line
from ..faces.alignment import extract

CHIP_SIZE = 150
"""Side of the aligned face that the network reads, in pixels."""

#: Where right eye, left eye, nose tip, right and left mouth corner lie in the chip: the mean of ``five_points`` of 734
#: faces (583 of LFW, 151 of FairFace; their means differ by 1 px at most) in the chips that dlib's own five-point
#: predictor cuts at its padding of 0.25, made symmetrical, which moved none by over 0.2 px.
CHIP_POINTS = np.array([(48.1, 46.5), (100.9, 46.5), (74.5, 81.3), (51.9, 103.6), (97.1, 103.6)], np.float32)

SAME_PERSON = 0.9313
"""Cosine over which dlib's embeddings take two photos for one person at a false match rate of 1e-3, measured by
``benchmarks/calibrate_recogniser.py`` on 600 grey LFW photos (300 people, 179,400 pairs of strangers, of whom few are
alike in age and descent: among people who are, false matches are more frequent)."""

FALSE_MATCH_RATE = 1e-3
"""Of `SAME_PERSON`."""

SAME_PSEUDONYM = 0.942
"""The same at a false match rate of 2e-4, from which a face joins a person of a store: each new face is compared with
everybody in it, and one that joins a stranger gives two people one pseudonym."""

ALIKE = 0.8854
"""The same at a false match rate of 0.1: of two faces over it, one could stand for the other in a crowd."""

BATCH = 32
"""Faces that go through the network at once."""

_MODEL = "models/dlib_face_recognition_resnet_model_v1.dat"
_INSTALL = "install the face recogniser with: pip install --force-reinstall face_recognition_models"


class Recogniser(Protocol):
    """Tells people apart by their faces.

    Attributes:
        name: as reports call it.
        threshold: cosine of two embeddings over which they count as one person; its maker states the false match rate.
    """

    name: str
    threshold: float

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The embedding of one face: photos of one person give a high cosine.

        Args:
            photo: (H, W, 3) uint8 RGB.
            points: (5, 2) photo pixels: the subject's right eye, left eye, nose tip, right and left mouth corner.

        Returns:
            (D,) float32 of length 1.
        """
        ...


class DlibRecogniser:
    """dlib's ResNet, run by torch; an embedding is the mean of the face's and its mirror image's.

    The mirror image costs a second pass and finds more of the same people: 82 % instead of 76 % at a false match rate
    of 1e-4 on the photos of `SAME_PERSON`. In batches a face takes 0.02 s on two busy cores; dlib itself took
    0.2 s.
    """

    name = "dlib-resnet"
    threshold = SAME_PERSON
    dimension = 128

    def __init__(self) -> None:
        """Load the network. Raises DeidError when the package with its file is missing or the file cannot be read."""
        from ..models.dlib_resnet import load

        path = model_file()
        try:
            self._net = load(path)
        except (OSError, ValueError) as error:
            raise DeidError(f"{one_line(error)}: {_INSTALL}") from error

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(128,) float32 of length 1. See `Recogniser`; raises ValueError for points that `face_chip` refuses."""
        return self.embed_chips(face_chip(photo, points)[None])[0]

    def embed_chips(self, chips: np.ndarray) -> np.ndarray:
        """Embeddings of aligned faces, `BATCH` at a time. Other threads run meanwhile, and may call this too.

        Args:
            chips: (N, 150, 150, 3) uint8 RGB, as `face_chip` makes them.

        Returns:
            (N, 128) float32, rows of length 1.
        """
        import torch

        vectors = np.zeros((len(chips), 128), np.float32)
        with torch.inference_mode():
            for start in range(0, len(chips), BATCH):
                part = chips[start : start + BATCH]
                both = np.concatenate([part, part[:, :, ::-1]]).astype(np.float32)
                found = self._net(torch.from_numpy(both).permute(0, 3, 1, 2)).numpy()
                vectors[start : start + BATCH] = found[: len(part)] + found[len(part) :]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def face_chip(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The face at five points as dlib's network wants it: the similarity that brings them closest to `CHIP_POINTS`.

    Args:
        photo: (H, W, 3) uint8 RGB.
        points: (5, 2) photo pixels, in the order of `Recogniser`; they may lie outside the photo.

    Returns:
        (150, 150, 3) uint8 RGB.

    Raises:
        ValueError: for points of another shape, not finite, or all in one place.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        raise ValueError(f"points: expected five different points (5, 2) in photo pixels, got {points.tolist()}")
    return extract(photo, fit_similarity(points, CHIP_POINTS), CHIP_SIZE)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity, without reflection, that takes points to others with the least squares (Umeyama, "Least-Squares
    Estimation of Transformation Parameters Between Two Point Patterns", 1991).

    Args:
        source: (N, 2), in any pixels. Points that lie all in one place are taken to the middle of the others.
        target: (N, 2), in other pixels.

    Returns:
        (2, 3) float32, source pixels to target pixels.
    """
    source = np.asarray(source, np.float64)
    a, b = (points - points.mean(0) for points in (source, target))
    norm = max((a**2).sum(), 1e-12)
    cos = (a * b).sum() / norm
    sin = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.column_stack([linear, target.mean(0) - linear @ source.mean(0)]).astype(np.float32)


def model_file() -> Path:
    """The network's file; its package is not imported: that takes pkg_resources, which new setuptools lack."""
    found = find_spec("face_recognition_models")
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder) / _MODEL).is_file():
            return path
    raise DeidError(f"face_recognition_models is not installed: {_INSTALL}")


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
