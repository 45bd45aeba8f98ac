"""Find every face in a photo, of any size and roll, with detectors of different make.

A missed face is the worst that can happen to a photo, so the search is wide: every scale, every quarter turn, and a
last look where nothing was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .alignment import extract_mirrored, similarity, transform
from .boxes import MERGE_IOU, Detection, FaceDetector, check_image, merge_faces, overlaps, same_face, suppress
from .detectors import CenterFaceDetector, MediapipeDetector
from .landmarks import Landmarker

FINEST_SCALE = 1.5  # view pixels per photo pixel: of faces 24 photo pixels high, 93 % are found at 1 and 100 % at 1.5
STEP = 4  # from one scale to the next coarser one
TILE = 1024  # view pixels
OVERLAP = 128  # view pixels: a face up to this size is whole in some tile, a larger one is whole at a coarser scale
COARSE_ENOUGH = 640  # view pixels: faces of 24 to 600 are found, so a photo this small needs no coarser look
WHOLE_SIDE = 1024  # view pixels, longest side of the whole photo, turned or mirrored
FRAMED_SIDE = 96  # view pixels, longest side of the photo in its frame


@dataclass(frozen=True)
class View:
    """A part of a photo, resized, turned, and framed.

    Args:
        x0, y0, x1, y1: the part, in photo pixels.
        width, height: its size after resizing, before turning, in view pixels.
        turns: quarter turns anticlockwise, 0 to 3.
        frame: width of the frame, in view pixels.
        mirror: whether the frame shows the picture mirrored at its edges, rather than black.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int
    turns: int = 0
    frame: int = 0
    mirror: bool = False

    def take(self, image: np.ndarray) -> np.ndarray:
        """The picture that the view shows of `image`, (H, W, 3) uint8.

        It has the same layout, and `height` and `width`, swapped by an odd number of turns, plus the frame.
        """
        picture = image[self.y0 : self.y1, self.x0 : self.x1]
        if (self.height, self.width) != picture.shape[:2]:
            shrinks = self.width < picture.shape[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(picture, (self.width, self.height), interpolation=how)
        picture = np.rot90(picture, self.turns)
        if self.frame == 0:
            return np.ascontiguousarray(picture)
        sides = (self.frame, self.frame)
        return np.pad(picture, (sides, sides, (0, 0)), mode="symmetric" if self.mirror else "constant")

    def back(self, face: Detection) -> Detection:
        """A face of the view's picture in photo pixels, its box clipped to the part of the photo that is shown."""
        corners = self._points_back(np.array(face.box, dtype=np.float64).reshape(2, 2))
        low, high = np.array([self.x0, self.y0]), np.array([self.x1, self.y1])
        x0, y0 = np.clip(corners.min(axis=0), low, high).tolist()
        x1, y1 = np.clip(corners.max(axis=0), low, high).tolist()
        points = None if face.points is None else self._points_back(face.points).astype(np.float32)
        return Detection((x0, y0, x1, y1), face.score, face.detector, points)

    def share_inside(self, face: Detection) -> float:
        """How much of the box of a face of the view's picture lies within the frame, 0 to 1; for views not turned."""
        x0, y0, x1, y1 = (side - self.frame for side in face.box)
        width, height = min(x1, self.width) - max(x0, 0), min(y1, self.height) - max(y0, 0)
        return max(0.0, width) * max(0.0, height) / ((x1 - x0) * (y1 - y0))

    def _points_back(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) x, y of the view's picture in photo pixels."""
        x, y = points[:, 0] - self.frame, points[:, 1] - self.frame
        if self.turns == 1:
            x, y = self.width - y, x
        elif self.turns == 2:
            x, y = self.width - x, self.height - y
        elif self.turns == 3:
            x, y = y, self.height - x
        across, down = (self.x1 - self.x0) / self.width, (self.y1 - self.y0) / self.height
        return np.stack([x * across + self.x0, y * down + self.y0], axis=1)


def pyramid(height: int, width: int) -> Iterator[View]:
    """Upright views that together show each face of a photo whole, in a size that detectors know."""
    scale = FINEST_SCALE
    while True:
        for y0, y1 in _spans(height, scale):
            for x0, x1 in _spans(width, scale):
                yield View(x0, y0, x1, y1, _scaled(x1 - x0, scale), _scaled(y1 - y0, scale))
        if max(height, width) * scale <= COARSE_ENOUGH:
            return
        scale /= STEP


def turned(height: int, width: int) -> Iterator[View]:
    """The whole photo on either side and upside down, for heads that lie or hang."""
    scale = min(1.0, WHOLE_SIDE / max(height, width))
    for turns in (1, 2, 3):
        yield View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), turns)


def mirrored(height: int, width: int) -> View:
    """The whole photo and, around it, what its edges mirror: it completes a face of which the edge cuts off a half."""
    scale = min(1.0, WHOLE_SIDE / max(height, width))
    frame = _scaled(max(height, width), scale / 6)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), frame=frame, mirror=True)


def framed(height: int, width: int) -> View:
    """The whole photo, small, in a wide black frame, for a face that fills it to the edges and beyond."""
    scale = FRAMED_SIDE / max(height, width)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), frame=FRAMED_SIDE // 3)


def _scaled(length: int, scale: float) -> int:
    """A length in view pixels, at least 1."""
    return max(1, round(length * scale))


def _spans(length: int, scale: float) -> list[tuple[int, int]]:
    """Evenly spaced tiles along one side of a photo: start and end of each, in photo pixels."""
    tile, overlap = round(TILE / scale), round(OVERLAP / scale)
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]


Box = tuple[float, float, float, float]

_LEAST_SIDES = (5, 16)  # photo pixels, shorter and longer; what is smaller is hinted at everywhere
_LOOK = 192  # side of a look, in pixels
_WIDTHS = (2.0, 2.7, 1.5, 3.6)  # of a look, in longer sides of the hint
_ROLLS = (0.0, -0.35, 0.35)  # radians
_FEW = 4  # looks in which some mesh has to fit, or the others are not worth their time
_VOTES = 8  # looks of all 24 in which a mesh has to fit: halves of real faces get nearly all, hands and ears up to 7
_OVERLAP = 0.15  # of mesh and hint, over their union, where the hint's centre is not within the mesh


def confirm_by_mesh(
    photo: np.ndarray, hint: Detection, landmarker: Landmarker, known: Callable[[Box], bool]
) -> Detection | None:
    """The face that a hint hints at.

    On 180 FairFace photos 247 hints were not in a detected face. The mesh confirmed 29 of them, of which about a dozen
    were parts of real faces; the others were ears, hands and folds.

    Args:
        photo: (H, W, 3) uint8 RGB.
        hint: a detection in it.
        landmarker: looks for a mesh.
        known: whether the face in a box is dealt with already; hints beside a face lead to that face's mesh.

    Returns:
        The hint with a box that holds the meshes as well; None if too few of them fit.
    """
    x0, y0, x1, y1 = hint.box
    if any(side < least for side, least in zip(sorted((x1 - x0, y1 - y0)), _LEAST_SIDES, strict=True)):
        return None
    boxes: list[Box] = []
    looks = (mesh for roll in _ROLLS for mesh in _meshes(photo, hint.box, roll, landmarker))
    for number, box in enumerate(looks, 1):
        if box is not None and _fits(box, hint.box) and not known(box):
            boxes.append(box)
        if number >= _FEW and not boxes:
            return None
    if len(boxes) < _VOTES:
        return None
    low, high = np.median([box[:2] for box in boxes], axis=0), np.median([box[2:] for box in boxes], axis=0)
    left, top = np.minimum(low, (x0, y0)).tolist()
    right, bottom = np.maximum(high, (x1, y1)).tolist()
    return Detection((left, top, right, bottom), hint.score, f"{hint.detector}+mesh")


def _meshes(photo: np.ndarray, box: Box, roll: float, landmarker: Landmarker) -> Iterator[Box | None]:
    """Boxes, in the photo, of the meshes in looks of several widths, each mirrored as well; None where none is seen."""
    height, width = photo.shape[:2]
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    for wider in _WIDTHS:
        matrix = similarity(centre, wider * max(box[2] - box[0], box[3] - box[1]), roll, _LOOK)
        look = extract_mirrored(photo, matrix, _LOOK)
        for mirror in (False, True):
            mesh = landmarker(look[:, ::-1] if mirror else look)
            if mesh is None:
                yield None
                continue
            flipped = np.column_stack([_LOOK - 1 - mesh[:, 0], mesh[:, 1]]) if mirror else mesh
            points = transform(flipped, cv2.invertAffineTransform(matrix))
            x0, y0, x1, y1 = np.concatenate([points.min(0), points.max(0)]).clip(0, (width, height) * 2).tolist()
            yield (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _fits(box: Box, hint: Box) -> bool:
    """Whether a mesh is of what the hint hints at."""
    x, y = (hint[0] + hint[2]) / 2, (hint[1] + hint[3]) / 2
    within = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return within or bool(overlaps(np.array(box), np.array([hint]))[0][0] > _OVERLAP)


__all__ = ["CenterFaceDetector", "Detection", "EnsembleDetector", "FaceDetector", "MediapipeDetector"]

SMALLEST_SIDE = 8  # pixels; no detector knows a face in less
FACE = 0.3  # score of CenterFace from which a detection is a face
HINT = 0.1  # and from which it is a hint
SURE = 0.5  # score of a face that only an unusual view shows; 90 photos turned held 5 false faces at 0.3, none at 0.4
LEAD = 0.1  # a turned view scores an upright face at most 0.06 higher than the upright view does
CUT = (0.3, 0.9)  # share of a cut face inside the photo; with less it is the mirror image, with more it is not cut
SEEN = 0.5  # share of a cut face, or of the face it overlaps, that is already found


@dataclass(frozen=True)
class DetectionResult:
    """What a search finds, best score first.

    Attributes:
        faces: the faces, one entry each.
        hints: where something faint is, too faint for a face; most of it is none (see `hints.confirm`).
    """

    faces: list[Detection]
    hints: list[Detection]


class EnsembleDetector:
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

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Faces in `image`, (H, W, 3) uint8 RGB, one entry each, best score first. Raises ValueError for another array.

        A photo with a side under 8 pixels holds no face.
        """
        return self.search(image).faces

    def search(self, image: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
        """As `__call__`, with the hints of CenterFace where the detectors are the default ones.

        With ``upright_only`` heads that lie or hang are not sought, as in a photo that was searched for them already.
        """
        check_image(image)
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return DetectionResult([], [])
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
        return DetectionResult(faces, _apart([*faint, *map(view.back, faint_beside)]))

    def _split(self, found: Sequence[Detection]) -> tuple[list[Detection], list[Detection]]:
        """The faces among detections, and the hints."""
        faces = [face for face in found if face.score > self._least]
        return faces, [face for face in found if face.score <= self._least]


def add_turned(upright: Sequence[Detection], lying: Sequence[Detection]) -> list[Detection]:
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


def add_cut(faces: Sequence[Detection], cut: Sequence[Detection]) -> list[Detection]:
    """`faces` with the sure ones of the faces cut by the photo's edge, where nothing is found yet, best score first."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    new = [f for f in cut if f.score >= SURE and not (overlaps(np.array(f.box), boxes)[1] > SEEN).any()]
    return _best_first([*faces, *new])


def _apart(hints: Sequence[Detection]) -> list[Detection]:
    """The best of each group of hints that overlap; merged, they would no longer say where the faint thing is."""
    boxes, scores = np.array([one.box for one in hints]).reshape(-1, 4), np.array([one.score for one in hints])
    return [hints[k] for k in suppress(boxes, scores, MERGE_IOU)]


def _best_first(faces: Iterable[Detection]) -> list[Detection]:
    return sorted(faces, key=lambda face: -face.score)


def _search(image: np.ndarray, views: Iterable[View], detectors: Sequence[FaceDetector]) -> list[Detection]:
    """Every detection of every detector in every view, in photo pixels."""
    found: list[Detection] = []
    for view in views:
        picture = view.take(image)
        found += (view.back(face) for detector in detectors for face in detector(picture))
    return found
