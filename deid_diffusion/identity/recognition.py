"""Offline face recognition, by which results are verified; no embedding reaches generation.

The network is dlib's ResNet-29 (King, "High Quality Face Recognition with Deep Metric Learning", 2017), whose weights
are in the public domain and come with the face_recognition_models package. Nothing else of that package is used: its
68-point predictor was trained on photos for non-commercial use.
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
"""Side of the aligned face that the network takes, in pixels."""

#: Right eye, left eye, nose tip, right and left mouth corner in the chip, in pixels: the mean of ``five_points`` of 734
#: faces (583 of LFW, 151 of FairFace; their means differ by at most 1 px) in the chips of dlib's own five-point
#: predictor at its padding of 0.25, made symmetric, which moved no point by more than 0.2 px.
CHIP_POINTS = np.array([(48.1, 46.5), (100.9, 46.5), (74.5, 81.3), (51.9, 103.6), (97.1, 103.6)], np.float32)

SAME_PERSON = 0.9313
"""Cosine threshold of dlib's embeddings for one person at a false match rate of 1e-3, measured by
``benchmarks/calibrate_recogniser.py`` on 600 grey LFW photos (300 people, 179,400 pairs of strangers, few of them alike
in age and ethnicity: among people who are, false matches are more frequent)."""

FALSE_MATCH_RATE = 1e-3
"""False match rate of `SAME_PERSON`."""

SAME_PSEUDONYM = 0.942
"""Cosine threshold at a false match rate of 2e-4, at which a face joins a person of a pseudonym store. It is stricter,
because each face is compared with everybody in the store, and a false match gives two people one pseudonym."""

ALIKE = 0.8854
"""Cosine threshold of lookalikes, at a false match rate of 0.1."""

BATCH = 32
"""Number of faces per forward pass."""

_MODEL = "models/dlib_face_recognition_resnet_model_v1.dat"
_INSTALL = "install the face recogniser with: pip install --force-reinstall face_recognition_models"


class Recogniser(Protocol):
    """A face recogniser: photo and landmarks to an embedding.

    Attributes:
        name: its name in reports.
        threshold: cosine of two embeddings over which they count as one person; the false match rate is the author's
            choice.
    """

    name: str
    threshold: float

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Return the embedding of one face; photos of one person have a high cosine.

        Args:
            photo: (H, W, 3) uint8 RGB.
            points: (5, 2) photo pixels: the subject's right eye, left eye, nose tip, right and left mouth corner.

        Returns:
            (D,) float32 of length 1.
        """
        ...


class DlibRecogniser:
    """dlib's ResNet in PyTorch; an embedding is the mean over the face and its mirror image.

    The mirror image costs a second pass and raises the true match rate from 76 to 82 % at a false match rate of 1e-4 on
    the photos of `SAME_PERSON`. In batches a face takes 0.02 s on two busy cores; dlib itself took 0.2 s.
    """

    name = "dlib-resnet"
    threshold = SAME_PERSON
    dimension = 128

    def __init__(self) -> None:
        """Load the network. Raises DeidError if its package is missing or its file cannot be read."""
        from ..models.dlib_resnet import load

        path = model_file()
        try:
            self._net = load(path)
        except (OSError, ValueError) as error:
            raise DeidError(f"{one_line(error)}: {_INSTALL}") from error

    def __call__(self, photo: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Embed one face, see `Recogniser`. Raises ValueError for points that `face_chip` refuses."""
        return self.embed_chips(face_chip(photo, points)[None])[0]

    def embed_chips(self, chips: np.ndarray) -> np.ndarray:
        """Embed aligned faces, `BATCH` at a time; thread-safe.

        Args:
            chips: (N, 150, 150, 3) uint8 RGB, from `face_chip`.

        Returns:
            (N, 128) float32, rows of length 1.
        """
        import torch

        embeddings = np.zeros((len(chips), 128), np.float32)
        with torch.inference_mode():
            for start in range(0, len(chips), BATCH):
                batch = chips[start : start + BATCH]
                pairs = np.concatenate([batch, batch[:, :, ::-1]]).astype(np.float32)
                output = self._net(torch.from_numpy(pairs).permute(0, 3, 1, 2)).numpy()
                embeddings[start : start + BATCH] = output[: len(batch)] + output[len(batch) :]
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def face_chip(photo: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Cut out a face as dlib's network expects it: aligned by the similarity from its five points to `CHIP_POINTS`.

    Args:
        photo: (H, W, 3) uint8 RGB.
        points: (5, 2) photo pixels, in the order of `Recogniser`; they may lie outside the photo.

    Returns:
        (150, 150, 3) uint8 RGB.

    Raises:
        ValueError: points of another shape, not finite, or all in one place.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        raise ValueError(f"points: expected five different points (5, 2) in photo pixels, got {points.tolist()}")
    return extract(photo, fit_similarity(points, CHIP_POINTS), CHIP_SIZE)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fit the least-squares similarity without reflection (Umeyama, "Least-Squares Estimation of Transformation
    Parameters Between Two Point Patterns", 1991).

    Args:
        source: (N, 2) source pixels. Points that are all in one place are mapped to the target's centroid.
        target: (N, 2) target pixels.

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
    """Return the path of the network's weights. Raises DeidError if their package is not installed.

    The package is not imported, because it needs pkg_resources, which recent setuptools lack.
    """
    spec = find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / _MODEL).is_file():
            return path
    raise DeidError(f"face_recognition_models is not installed: {_INSTALL}")


NEAREST = 10
"""Number of nearest strangers in `similarity_of_strangers`."""

SAME_MARGIN, ALIKE_MARGIN = 0.005, -0.03
"""Margins over that similarity that correspond to `SAME_PERSON` and `ALIKE`. With them strangers of one age group match
at 0 to 1.1 % on 180 FairFace photos, and without at 0 to 22 % (``python benchmarks/calibrate_recogniser.py FOLDER
--groups labels.csv``)."""

_FILE = Path(__file__).with_name("cohort.npy")


@cache
def dlib_cohort() -> np.ndarray:
    """Return (N, 128) float32 unit embeddings of synthetic people by `DlibRecogniser`.

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
