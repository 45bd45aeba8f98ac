"""Ensemble face detection over scales, tiles, quarter turns and mirrored edges.

A missed face is the worst failure of a de-identification tool, so recall comes before speed.
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

Box = tuple[float, float, float, float]

FINEST_SCALE = 1.5  # view pixels per photo pixel: of faces 24 photo pixels high, 93 % are found at 1 and 100 % at 1.5
SCALE_STEP = 4  # ratio of neighbouring scales
TILE_SIDE = 1024  # view pixels
TILE_OVERLAP = 128  # view pixels: a smaller face lies inside some tile, a larger one inside a tile of a coarser scale
MAX_COARSEST_SIDE = 640  # view pixels: faces of 24 to 600 are found, so a photo this small needs no coarser scale
MAX_FULL_VIEW_SIDE = 1024  # view pixels, longest side of the rotated or mirrored photo
PADDED_PHOTO_SIDE = 96  # view pixels, longest side of the photo in the padded view

MIN_PHOTO_SIDE = 8  # pixels; no detector finds a face in less
FACE_SCORE = 0.3  # CenterFace's score above which a detection is a face
HINT_SCORE = 0.1  # and above which it is a hint
MIN_EXTRA_SCORE = 0.5  # of faces in rotated or mirrored views only; 90 rotated photos: 5 false at 0.3, none at 0.4
MIN_ROTATED_LEAD = 0.1  # a rotated view scores an upright face at most 0.06 higher than the upright view does
CUT_SHARES = (0.3, 0.9)  # visible share of a cut face: less is its mirror image, more is a face that is not cut
MAX_KNOWN_SHARE = 0.5  # overlap, over the smaller box, of a cut face with a face found before

_MIN_HINT_SIDES = (5, 16)  # photo pixels, shorter and longer side; smaller weak occur everywhere
_CROP_SIDE = 192  # pixels
_CROP_WIDTHS = (2.0, 2.7, 1.5, 3.6)  # in longer sides of the hint
_CROP_ROLLS = (0.0, -0.35, 0.35)  # radians
_TRIAL_CROPS = 4  # if no mesh fits in these, the other crops are skipped
_MIN_VOTES = 8  # fitting meshes among the 24 crops: halves of real faces get nearly all, hands and ears up to 7
_MIN_MESH_IOU = 0.15  # of mesh and hint, where the hint's centre lies outside the mesh


@dataclass(frozen=True)
class View:
    """A region of a photo, resized, rotated by quarter turns and padded.

    Args:
        x0, y0, x1, y1: the region, in photo pixels.
        width, height: size after resizing, before rotation, in view pixels.
        turns: quarter turns anticlockwise, 0 to 3.
        padding: width of the padding, in view pixels.
        mirror: pad with the mirror image rather than with black.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int
    turns: int = 0
    padding: int = 0
    mirror: bool = False

    def render(self, image: np.ndarray) -> np.ndarray:
        """Return the view of `image`, (H, W, 3) uint8.

        Returns:
            (height, width, 3) uint8, sides swapped by an odd number of turns, plus the padding.
        """
        region = image[self.y0 : self.y1, self.x0 : self.x1]
        if (self.height, self.width) != region.shape[:2]:
            shrinks = self.width < region.shape[1]
            interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            region = cv2.resize(region, (self.width, self.height), interpolation=interpolation)
        region = np.rot90(region, self.turns)
        if self.padding == 0:
            return np.ascontiguousarray(region)
        sides = (self.padding, self.padding)
        return np.pad(region, (sides, sides, (0, 0)), mode="symmetric" if self.mirror else "constant")

    def to_photo(self, face: Detection) -> Detection:
        """Map a detection in the view to photo pixels, with its box clipped to the view's region."""
        corners = self._points_to_photo(np.array(face.box, dtype=np.float64).reshape(2, 2))
        low, high = np.array([self.x0, self.y0]), np.array([self.x1, self.y1])
        x0, y0 = np.clip(corners.min(axis=0), low, high).tolist()
        x1, y1 = np.clip(corners.max(axis=0), low, high).tolist()
        points = None if face.points is None else self._points_to_photo(face.points).astype(np.float32)
        return Detection((x0, y0, x1, y1), face.score, face.detector, points)

    def visible_share(self, face: Detection) -> float:
        """Return the share, 0 to 1, of a detection's box inside the padding; for upright views only."""
        x0, y0, x1, y1 = (side - self.padding for side in face.box)
        width, height = min(x1, self.width) - max(x0, 0), min(y1, self.height) - max(y0, 0)
        return max(0.0, width) * max(0.0, height) / ((x1 - x0) * (y1 - y0))

    def _points_to_photo(self, points: np.ndarray) -> np.ndarray:
        """Map (N, 2) view pixels to photo pixels."""
        x, y = points[:, 0] - self.padding, points[:, 1] - self.padding
        if self.turns == 1:
            x, y = self.width - y, x
        elif self.turns == 2:
            x, y = self.width - x, self.height - y
        elif self.turns == 3:
            x, y = y, self.height - x
        scale_x, scale_y = (self.x1 - self.x0) / self.width, (self.y1 - self.y0) / self.height
        return np.stack([x * scale_x + self.x0, y * scale_y + self.y0], axis=1)


def tiled_views(height: int, width: int) -> Iterator[View]:
    """Yield upright tiles at several scales, so that every face lies inside some tile at a detectable size."""
    scale = FINEST_SCALE
    while True:
        for y0, y1 in _spans(height, scale):
            for x0, x1 in _spans(width, scale):
                yield View(x0, y0, x1, y1, _scaled(x1 - x0, scale), _scaled(y1 - y0, scale))
        if max(height, width) * scale <= MAX_COARSEST_SIDE:
            return
        scale /= SCALE_STEP


def rotated_views(height: int, width: int) -> Iterator[View]:
    """Yield the full photo rotated by one to three quarter turns, for lying and upside-down heads."""
    scale = min(1.0, MAX_FULL_VIEW_SIDE / max(height, width))
    for turns in (1, 2, 3):
        yield View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), turns)


def mirrored_view(height: int, width: int) -> View:
    """Return the full photo padded with its mirror image, which completes faces that the photo's edge cuts."""
    scale = min(1.0, MAX_FULL_VIEW_SIDE / max(height, width))
    padding = _scaled(max(height, width), scale / 6)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), padding=padding, mirror=True)


def padded_view(height: int, width: int) -> View:
    """Return the full photo, shrunk and padded with black, for a face larger than the photo."""
    scale = PADDED_PHOTO_SIDE / max(height, width)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), padding=PADDED_PHOTO_SIDE // 3)


def _scaled(length: int, scale: float) -> int:
    """Return a length in view pixels, at least 1."""
    return max(1, round(length * scale))


def _spans(length: int, scale: float) -> list[tuple[int, int]]:
    """Return start and end, in photo pixels, of evenly spaced tiles along one side of a photo."""
    tile, overlap = round(TILE_SIDE / scale), round(TILE_OVERLAP / scale)
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]


def confirm_by_mesh(
    photo: np.ndarray, hint: Detection, landmarker: Landmarker, known: Callable[[Box], bool]
) -> Detection | None:
    """Confirm a weak detection by the face meshes in several crops around it.

    On 180 FairFace photos 247 weak lay outside the detected faces. The mesh confirmed 29 of them, of which about a
    dozen were parts of real faces; the others were ears, hands and folds.

    Args:
        photo: (H, W, 3) uint8 RGB.
        hint: weak detection in the photo.
        landmarker: returns the mesh of a crop.
        known: whether a box, x0, y0, x1, y1 in photo pixels, is of a face that has been handled; weak next to a face
            lead to that face's mesh.

    Returns:
        The hint, its box extended to the median of the meshes' boxes; None if too few meshes fit.
    """
    x0, y0, x1, y1 = hint.box
    if any(side < limit for side, limit in zip(sorted((x1 - x0, y1 - y0)), _MIN_HINT_SIDES, strict=True)):
        return None
    boxes: list[Box] = []
    candidates = (box for roll in _CROP_ROLLS for box in _mesh_boxes(photo, hint.box, roll, landmarker))
    for count, box in enumerate(candidates, 1):
        if box is not None and _mesh_fits(box, hint.box) and not known(box):
            boxes.append(box)
        if count >= _TRIAL_CROPS and not boxes:
            return None
    if len(boxes) < _MIN_VOTES:
        return None
    low, high = np.median([box[:2] for box in boxes], axis=0), np.median([box[2:] for box in boxes], axis=0)
    left, top = np.minimum(low, (x0, y0)).tolist()
    right, bottom = np.maximum(high, (x1, y1)).tolist()
    return Detection((left, top, right, bottom), hint.score, f"{hint.detector}+mesh")


def _mesh_boxes(photo: np.ndarray, box: Box, roll: float, landmarker: Landmarker) -> Iterator[Box | None]:
    """Yield the mesh's box, in photo pixels, per crop width, plain and flipped; None for a crop without a mesh."""
    height, width = photo.shape[:2]
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    for factor in _CROP_WIDTHS:
        matrix = similarity(centre, factor * max(box[2] - box[0], box[3] - box[1]), roll, _CROP_SIDE)
        crop = extract_mirrored(photo, matrix, _CROP_SIDE)
        for flip in (False, True):
            mesh = landmarker(crop[:, ::-1] if flip else crop)
            if mesh is None:
                yield None
                continue
            mesh = np.column_stack([_CROP_SIDE - 1 - mesh[:, 0], mesh[:, 1]]) if flip else mesh
            points = transform(mesh, cv2.invertAffineTransform(matrix))
            x0, y0, x1, y1 = np.concatenate([points.min(0), points.max(0)]).clip(0, (width, height) * 2).tolist()
            yield (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _mesh_fits(box: Box, hint: Box) -> bool:
    """Return whether a mesh's box holds the hint's centre or overlaps the hint."""
    x, y = (hint[0] + hint[2]) / 2, (hint[1] + hint[3]) / 2
    centred = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return centred or bool(overlaps(np.array(box), np.array([hint]))[0][0] > _MIN_MESH_IOU)


@dataclass(frozen=True)
class DetectionResult:
    """Detections of a search, highest score first.

    Attributes:
        faces: one detection per face.
        weak: weak detections, most of them false; see `confirm_by_mesh`.
    """

    faces: list[Detection]
    weak: list[Detection]


class EnsembleDetector:
    """Union of several detectors over scales and views, merged by overlap.

    The photo is searched at one and a half times its size in overlapping tiles, so that faces of 24 pixels are found
    in a photo of any size, and at coarser scales up to the full photo, for larger ones. Two more searches run at no
    more than 1,024 pixels: the first detector on the photo rotated by quarter turns, for lying and upside-down heads,
    and all detectors on the photo padded with its mirror image, for cut faces. If there is no detection, all detectors
    search the photo shrunk and padded with black, for a face larger than the photo.

    Args:
        detectors: run on each view, the best for small faces first; CenterFace and MediaPipe when None.

    Example:
        >>> from skimage.data import astronaut
        >>> [face.detector for face in EnsembleDetector()(astronaut())]
        ['centerface+mediapipe']
    """

    def __init__(self, detectors: Sequence[FaceDetector] | None = None) -> None:
        self.detectors = (
            (CenterFaceDetector(HINT_SCORE), MediapipeDetector()) if detectors is None else tuple(detectors)
        )
        self._max_hint_score = FACE_SCORE if detectors is None else 0.0
        if not self.detectors:
            raise ValueError("detectors: expected at least one face detector, got none")

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Return one detection per face, highest score first; none if a side is under 8 pixels.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            ValueError: an array of another shape or type.
        """
        return self.search(image).faces

    def search(self, image: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
        """Detect as `__call__` does and return, with the default detectors, CenterFace's weak as well.

        Args:
            image: (H, W, 3) uint8 RGB.
            upright_only: skip the rotated views, as for a photo that has been searched with them before.

        Raises:
            ValueError: an array of another shape or type.
        """
        check_image(image)
        height, width = image.shape[:2]
        if min(height, width) < MIN_PHOTO_SIDE:
            return DetectionResult([], [])
        upright, weak = self._split(_search(image, tiled_views(height, width), self.detectors))
        views = () if upright_only else rotated_views(height, width)
        rotated, _ = self._split(_search(image, views, self.detectors[:1]))
        view = mirrored_view(height, width)
        picture = view.render(image)
        edge_faces, edge_hints = self._split([face for detector in self.detectors for face in detector(picture)])
        # the mirror image completes a cut face; its box keeps the part inside the photo
        cut = [view.to_photo(face) for face in edge_faces if CUT_SHARES[0] <= view.visible_share(face) <= CUT_SHARES[1]]
        faces = add_cut(add_rotated(merge_faces(upright), merge_faces(rotated)), merge_faces(cut))
        if not faces:
            faces = merge_faces(self._split(_search(image, [padded_view(height, width)], self.detectors))[0])
        return DetectionResult(faces, _suppress_hints([*weak, *map(view.to_photo, edge_hints)]))

    def _split(self, detections: Sequence[Detection]) -> tuple[list[Detection], list[Detection]]:
        """Split detections into faces and weak by score."""
        faces = [face for face in detections if face.score > self._max_hint_score]
        return faces, [face for face in detections if face.score <= self._max_hint_score]


def add_rotated(upright: Sequence[Detection], rotated: Sequence[Detection]) -> list[Detection]:
    """Merge faces of the rotated views into those of the upright ones, highest score first.

    A rotated view's face counts if its score is high and clearly above that of any upright detection of the same face:
    then the merged box covers both, and the points are its own. Otherwise it repeats the upright face and would only
    widen the box.
    """
    faces = list(upright)
    for face in rotated:
        matches = [other for other in faces if same_face(face.box, other.box)]
        if face.score >= max([MIN_EXTRA_SCORE, *(other.score + MIN_ROTATED_LEAD for other in matches)]):
            others = [other for other in faces if not any(other is match for match in matches)]
            faces = [*others, *merge_faces([face, *matches])]
    return _best_first(faces)


def add_cut(faces: Sequence[Detection], cut: Sequence[Detection]) -> list[Detection]:
    """Add faces cut by the photo's edge that score high and overlap no other face, highest score first."""
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    new = [
        face
        for face in cut
        if face.score >= MIN_EXTRA_SCORE and not (overlaps(np.array(face.box), boxes)[1] > MAX_KNOWN_SHARE).any()
    ]
    return _best_first([*faces, *new])


def _suppress_hints(weak: Sequence[Detection]) -> list[Detection]:
    """Return the highest-scoring of overlapping weak; a merged box would be too large to localise a weak face."""
    boxes, scores = np.array([hint.box for hint in weak]).reshape(-1, 4), np.array([hint.score for hint in weak])
    return [weak[k] for k in suppress(boxes, scores, MERGE_IOU)]


def _best_first(faces: Iterable[Detection]) -> list[Detection]:
    return sorted(faces, key=lambda face: -face.score)


def _search(image: np.ndarray, views: Iterable[View], detectors: Sequence[FaceDetector]) -> list[Detection]:
    """Return the detections of all detectors in all views, in photo pixels."""
    detections: list[Detection] = []
    for view in views:
        picture = view.render(image)
        detections += (view.to_photo(face) for detector in detectors for face in detector(picture))
    return detections
