"""Find every face in a photo, of any size and roll, with detectors of different make.

A missed face is the worst that can happen to a photo, so the search is wide: every scale, every quarter turn, and a
last look where nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from deid_diffusion.faces.centerface import CenterFaceDetector
from deid_diffusion.faces.detected_face import DetectedFace, FaceDetector, check_image
from deid_diffusion.faces.mediapipe_faces import MediapipeDetector
from deid_diffusion.faces.merge import merge_faces, same_face
from deid_diffusion.faces.views import View, framed, pyramid, turned

__all__ = ["CenterFaceDetector", "DetectedFace", "FaceDetector", "MediapipeDetector", "UnionDetector"]

SMALLEST_SIDE = 8  # pixels; no detector knows a face in less
TURNED_SCORE = 0.5  # no false face at this score in the turned views of 90 photos, one in 15 photos at 0.3
TURNED_LEAD = 0.1  # a turned view scores an upright face at most 0.06 higher than the upright view does


class UnionDetector:
    """Every face that any detector finds, at any scale, merged by overlap.

    The photo is searched at one and a half times its size in overlapping tiles, so that faces of 24 pixels are found
    in a photo of any size, and at coarser scales up to the whole photo, for larger ones. The first detector also
    searches the photo turned by quarters, shrunk to at most 1,024 pixels, for lying and hanging heads. Where nothing
    is found, all search the photo shrunk in a black frame, for a face larger than the picture.

    Args:
        detectors: what searches each view, the best for small faces first; CenterFace and MediaPipe when None.

    Example:
        >>> from skimage.data import astronaut
        >>> [face.detector for face in UnionDetector()(astronaut())]
        ['centerface+mediapipe']
    """

    def __init__(self, detectors: Sequence[FaceDetector] | None = None) -> None:
        self.detectors = (CenterFaceDetector(), MediapipeDetector()) if detectors is None else tuple(detectors)
        if not self.detectors:
            raise ValueError("detectors: expected at least one face detector, got none")

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        """Faces in `image`, (H, W, 3) uint8 RGB, one entry each, best score first. Raises ValueError for another array.

        A photo with a side under 8 pixels holds no face.
        """
        check_image(image)
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return []
        upright = _search(image, pyramid(height, width), self.detectors)
        lying = _search(image, turned(height, width), self.detectors[:1])
        faces = add_turned(merge_faces(upright), merge_faces(lying))
        return faces or merge_faces(_search(image, [framed(height, width)], self.detectors))


def add_turned(upright: Sequence[DetectedFace], lying: Sequence[DetectedFace]) -> list[DetectedFace]:
    """`upright` with what the turned views add to it, best score first.

    A lying face joins if its score is sure, and if the upright views saw nothing there or saw it clearly worse: then
    the box covers both and the points are the lying face's. Otherwise it is the upright face seen again, and would only
    widen its box.
    """
    faces = list(upright)
    for face in lying:
        here = [other for other in faces if same_face(face.box, other.box)]
        if face.score >= max([TURNED_SCORE, *(other.score + TURNED_LEAD for other in here)]):
            elsewhere = [other for other in faces if not any(other is rival for rival in here)]
            faces = [*elsewhere, *merge_faces([face, *here])]
    return sorted(faces, key=lambda face: -face.score)


def _search(image: np.ndarray, views: Iterable[View], detectors: Sequence[FaceDetector]) -> list[DetectedFace]:
    """Every detection of every detector in every view, in photo pixels."""
    found: list[DetectedFace] = []
    for view in views:
        picture = view.take(image)
        found += (view.back(face) for detector in detectors for face in detector(picture))
    return found
