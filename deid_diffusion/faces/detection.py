"""Find every face in a photo, of any size and roll, with detectors of different make.

A missed face is the worst that can happen to a photo, so the search is wide: every scale, every quarter turn, and a
last look where nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deid_diffusion.faces.centerface import CenterFaceDetector
from deid_diffusion.faces.detected_face import DetectedFace, FaceDetector, check_image
from deid_diffusion.faces.mediapipe_faces import MediapipeDetector
from deid_diffusion.faces.merge import MERGE_IOU, merge_faces, overlaps, same_face, suppress
from deid_diffusion.faces.views import View, framed, mirrored, pyramid, turned

__all__ = ["CenterFaceDetector", "DetectedFace", "FaceDetector", "MediapipeDetector", "UnionDetector"]

SMALLEST_SIDE = 8  # pixels; no detector knows a face in less
FACE = 0.3  # score of CenterFace from which a detection is a face
HINT = 0.1  # and from which it is a hint
SURE = 0.5  # score of a face that only an unusual view shows; 90 photos turned held 5 false faces at 0.3, none at 0.4
LEAD = 0.1  # a turned view scores an upright face at most 0.06 higher than the upright view does
CUT = (0.3, 0.9)  # share of a cut face inside the photo; with less it is the mirror image, with more it is not cut
SEEN = 0.5  # share of a cut face, or of the face it overlaps, that is already found


@dataclass(frozen=True)
class Found:
    """What a search finds, best score first.

    Attributes:
        faces: the faces, one entry each.
        hints: where something faint is, too faint for a face; most of it is none (see `hints.confirm`).
    """

    faces: list[DetectedFace]
    hints: list[DetectedFace]


class UnionDetector:
    """Every face that any detector finds, at any scale, merged by overlap.

    The photo is searched at one and a half times its size in overlapping tiles, so that faces of 24 pixels are found
    in a photo of any size, and at coarser scales up to the whole photo, for larger ones. Two more looks, at no more
    than 1,024 pixels: the first detector searches the photo turned by quarters, for lying and hanging heads, and all
    search it mirrored at its edges, for halves of faces. Where nothing is found, all search the photo shrunk in a
    black frame, for a face larger than the picture.

    Args:
        detectors: what searches each view, the best for small faces first; CenterFace and MediaPipe when None.

    Example:
        >>> from skimage.data import astronaut
        >>> [face.detector for face in UnionDetector()(astronaut())]
        ['centerface+mediapipe']
    """

    def __init__(self, detectors: Sequence[FaceDetector] | None = None) -> None:
        own = (CenterFaceDetector(HINT), MediapipeDetector()) if detectors is None else tuple(detectors)
        self.detectors, self._least = own, FACE if detectors is None else 0.0
        if not self.detectors:
            raise ValueError("detectors: expected at least one face detector, got none")

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        """Faces in `image`, (H, W, 3) uint8 RGB, one entry each, best score first. Raises ValueError for another array.

        A photo with a side under 8 pixels holds no face.
        """
        return self.search(image).faces

    def search(self, image: np.ndarray, *, upright_only: bool = False) -> Found:
        """As `__call__`, with the hints of CenterFace where the detectors are the default ones.

        With ``upright_only`` heads that lie or hang are not sought, as in a photo that was searched for them already.
        """
        check_image(image)
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return Found([], [])
        whole, faint = self._split(_search(image, pyramid(height, width), self.detectors))
        views = () if upright_only else turned(height, width)
        lying, _ = self._split(_search(image, views, self.detectors[:1]))
        view = mirrored(height, width)
        picture = view.take(image)
        beside, faint_beside = self._split([face for detector in self.detectors for face in detector(picture)])
        # faces that the photo's edge cuts, completed by their mirror image; boxes hold the part in the photo
        cut = [view.back(face) for face in beside if CUT[0] <= view.share_inside(face) <= CUT[1]]
        faces = add_cut(add_turned(merge_faces(whole), merge_faces(lying)), merge_faces(cut))
        if not faces:
            faces = merge_faces(self._split(_search(image, [framed(height, width)], self.detectors))[0])
        return Found(faces, _apart([*faint, *map(view.back, faint_beside)]))

    def _split(self, found: Sequence[DetectedFace]) -> tuple[list[DetectedFace], list[DetectedFace]]:
        """The faces among detections, and the hints."""
        faces = [face for face in found if face.score > self._least]
        return faces, [face for face in found if face.score <= self._least]


def add_turned(upright: Sequence[DetectedFace], lying: Sequence[DetectedFace]) -> list[DetectedFace]:
    """`upright` with what the turned views add to it, best score first.

    A lying face joins if its score is sure, and if the upright views saw nothing there or saw it clearly worse: then
    the box covers both and the points are the lying face's. Otherwise it is the upright face seen again, and would only
    widen its box.
    """
    faces = list(upright)
    for face in lying:
        here = [other for other in faces if same_face(face.box, other.box)]
        if face.score >= max([SURE, *(other.score + LEAD for other in here)]):
            elsewhere = [other for other in faces if not any(other is rival for rival in here)]
            faces = [*elsewhere, *merge_faces([face, *here])]
    return _best_first(faces)


def add_cut(faces: Sequence[DetectedFace], cut: Sequence[DetectedFace]) -> list[DetectedFace]:
    """`faces` with the sure ones of the faces cut by the photo's edge, where nothing is found yet, best score first."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    new = [f for f in cut if f.score >= SURE and not (overlaps(np.array(f.box), boxes)[1] > SEEN).any()]
    return _best_first([*faces, *new])


def _apart(hints: Sequence[DetectedFace]) -> list[DetectedFace]:
    """The best of each group of hints that overlap; merged, they would no longer say where the faint thing is."""
    boxes, scores = np.array([one.box for one in hints]).reshape(-1, 4), np.array([one.score for one in hints])
    return [hints[k] for k in suppress(boxes, scores, MERGE_IOU)]


def _best_first(faces: Iterable[DetectedFace]) -> list[DetectedFace]:
    return sorted(faces, key=lambda face: -face.score)


def _search(image: np.ndarray, views: Iterable[View], detectors: Sequence[FaceDetector]) -> list[DetectedFace]:
    """Every detection of every detector in every view, in photo pixels."""
    found: list[DetectedFace] = []
    for view in views:
        picture = view.take(image)
        found += (view.back(face) for detector in detectors for face in detector(picture))
    return found
