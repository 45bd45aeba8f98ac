"""What a result did to the pixels: was the face touched at all, is the rest as it was, does the rim show?

Every figure is of any tool: the only masks used are the boxes in which a detector sees faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..faces.boxes import Detection, FaceDetector
from ..faces.landmarks import MESH_EYES, MESH_IRISES, FaceMeasures, Landmarker, five_points, measure
from ..faces.mesh_editing import EYE_CORNERS, frame
from ..identity.recognition import Recogniser
from .onnx import AttributeReader, Reading, face_square
from .pairing import Pair, embed, face_mesh, largest, nearest
from .perceptual import FACE_SIDE, PerceptualMeter

if TYPE_CHECKING:
    pass


_MARGIN = 1.3  # side of the crop that quality is judged on, in sides of the face's box
_QUALITY_SIDE = 128  # pixels of that crop
_SHOWN_MARGIN, _SHOWN_SIDE = 1.9, 160  # of the crops on the contact sheet


@dataclass(frozen=True)
class Evaluators:
    """Who looks. None of them should have had a part in making the results.

    Attributes:
        detector: finds faces, in originals and results.
        landmarker: fits meshes.
        recognisers: one or more attackers.
        reader: of age and sex; None for nobody.
        meter: of perceptual distances.
    """

    detector: FaceDetector
    landmarker: Landmarker
    recognisers: tuple[Recogniser, ...]
    reader: AttributeReader | None
    meter: PerceptualMeter


@dataclass(frozen=True, eq=False)
class FaceMeasurement:
    """The largest face of an original, and what stands in its place.

    Attributes:
        left: it is still the original face.
        embeddings: of each recogniser: original's and result's, (D,) each. A result in which no face is found is read
            at the original's points, as an attacker would who knows the place. None where there are no points.
        before: what the original's mesh says, or None without one.
        after: likewise of the result; None also where no face is found there.
        errors: of the two meshes; None without both.
        readings: of original and result; None without a reader, and for a face that is not found in the result.
        found: whether a face is found in the result, in the original's place.
        sharpness_ratio: of result and original; None if not found, or if the original is flat.
        score_ratio: of the detector's scores; None if not found.
        ssim: structural similarity of the crops; None if not found.
        lpips: None likewise, or where it cannot be had.
        shown: (S, S, 3) uint8 RGB crops of both for a contact sheet, or None.
    """

    left: bool
    embeddings: tuple[tuple[np.ndarray | None, np.ndarray | None], ...]
    before: FaceState | None
    after: FaceState | None
    errors: MeshErrors | None
    readings: tuple[Reading, Reading] | None
    found: bool
    sharpness_ratio: float | None
    score_ratio: float | None
    ssim: float | None
    lpips: float | None
    shown: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class PairMeasurement:
    """One photo and its result.

    Attributes:
        pair: which.
        faces: found in the original.
        left: of them, still there as they were.
        resized: the result has another size, and was scaled to the original's to be compared.
        outside: how it differs outside all faces.
        rim: step at the rim of what was changed; None without a rim.
        face: the largest; None where no face was found in the original.
    """

    pair: Pair
    faces: int
    left: int
    resized: bool
    outside: Outside
    rim: float | None
    face: FaceMeasurement | None


def measure_pair(
    pair: Pair,
    photo: np.ndarray,
    result: np.ndarray,
    judges: Evaluators,
    *,
    more_boxes: Sequence[Box] = (),
    keep_pictures: bool = False,
) -> PairMeasurement:
    """Measure one photo and its result.

    Args:
        pair: which they are.
        photo: (H, W, 3) uint8 RGB.
        result: (h, w, 3) uint8 RGB.
        judges: who looks.
        more_boxes: x0, y0, x1, y1 in photo pixels of further faces that were changed, by the record of who did it.
        keep_pictures: keep crops for a contact sheet.
    """
    resized = result.shape != photo.shape
    if resized:
        result = cv2.resize(result, (photo.shape[1], photo.shape[0]), interpolation=cv2.INTER_AREA)
    before, after = judges.detector(photo), judges.detector(result)
    there = [nearest(after, np.array(face.box)) for face in before]
    left = [left_as_it_was(photo, result, face.box) for face in before]
    main = largest(before)
    face = None
    if main is not None:
        place = next(k for k, one in enumerate(before) if one is main)
        face = _measure_face(photo, result, main, there[place], left[place], judges, keep_pictures)
    return PairMeasurement(
        pair=pair,
        faces=len(before),
        left=sum(left),
        resized=resized,
        outside=outside_faces(photo, result, [*(one.box for one in before), *more_boxes]),
        rim=rim_step(photo, result),
        face=face,
    )


def _measure_face(
    photo: np.ndarray,
    result: np.ndarray,
    face: Detection,
    after: Detection | None,
    left: bool,
    judges: Evaluators,
    keep_pictures: bool,
) -> FaceMeasurement:
    """The largest face of a photo, and the face in its place in the result if there is one."""
    mesh = face_mesh(photo, face, judges.landmarker)
    mesh_after = None if after is None else face_mesh(result, after, judges.landmarker)
    points = face.points if mesh is None else five_points(mesh)
    points_after = points if after is None else after.points if mesh_after is None else five_points(mesh_after)
    crops = [face_square(image, face.box, _MARGIN, _QUALITY_SIDE) for image in (photo, result)]
    sharp = sharpness(crops[0])
    readings = lpips = None
    if after is not None:
        large = [face_square(image, face.box, _MARGIN, FACE_SIDE) for image in (photo, result)]
        lpips = judges.meter.add(large[0], large[1])
        if judges.reader is not None:
            readings = judges.reader(photo, face.box), judges.reader(result, face.box)
    shown = [face_square(image, face.box, _SHOWN_MARGIN, _SHOWN_SIDE) for image in (photo, result)]
    return FaceMeasurement(
        left=left,
        embeddings=tuple((embed(photo, points, one), embed(result, points_after, one)) for one in judges.recognisers),
        before=None if mesh is None else face_state(mesh),
        after=None if mesh_after is None else face_state(mesh_after),
        errors=None if mesh is None or mesh_after is None else mesh_errors(mesh, mesh_after),
        readings=readings,
        found=after is not None,
        sharpness_ratio=None if after is None or sharp < 1 else sharpness(crops[1]) / sharp,
        score_ratio=None if after is None else after.score / max(face.score, 1e-6),
        ssim=None if after is None else ssim(crops[0], crops[1]),
        lpips=lpips,
        shown=(shown[0], shown[1]) if keep_pictures else None,
    )


Box = tuple[float, float, float, float]

LEFT_SSIM = 0.9
"""Structural similarity of a face over which it counts as left as it was. Of 30 faces in 20 photographs, JPEG at
quality 30 left each over 0.90, a replacement by the embedded model none over 0.71; a blur of a tenth of a face's width
leaves 0.54 in the median, and over 0.9 only faces that were blurred before."""

REACH = 0.6
"""How far, in box widths and heights, a face's box is grown on every side before the rest counts as outside."""

_SIDE = 64  # pixels to which a face is scaled before it is compared
_CHANGED = 2  # levels over which a value counts as changed, for the rim
_RIM = 3.0  # pixels on either side of the rim that are compared


@dataclass(frozen=True)
class Outside:
    """How pixels outside every face differ, in levels of 0 to 255.

    Attributes:
        largest: the largest difference of a value.
        mean: the mean absolute difference.
    """

    largest: float
    mean: float


def left_as_it_was(photo: np.ndarray, result: np.ndarray, box: Box) -> bool:
    """Whether the face in a box was left: its structural similarity (`ssim`) is over `LEFT_SSIM`.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.
        box: x0, y0, x1, y1 in pixels.
    """
    x0, y0, x1, y1 = (round(v) for v in box)
    rows, columns = slice(max(0, y0), max(y1, y0 + 1)), slice(max(0, x0), max(x1, x0 + 1))
    faces = [
        cv2.resize(image[rows, columns], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in (photo, result)
    ]
    return ssim(*faces) > LEFT_SSIM


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two pictures, Gaussian window of 1.5 pixels (Wang et al., "Image Quality Assessment:
    From Error Visibility to Structural Similarity", 2004).

    Args:
        first: (H, W, 3) uint8 RGB, both sides over 10.
        second: likewise, of the same shape.

    Returns:
        -1 to 1; 1 for equal pictures.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            first, second, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def outside_faces(photo: np.ndarray, result: np.ndarray, boxes: Sequence[Box]) -> Outside:
    """How a result differs outside all boxes, each grown by `REACH`; nothing where the boxes cover all.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.
        boxes: x0, y0, x1, y1 in pixels.
    """
    outside = np.ones(photo.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        dx, dy = REACH * (x1 - x0), REACH * (y1 - y0)
        outside[max(0, int(y0 - dy)) : int(y1 + dy) + 1, max(0, int(x0 - dx)) : int(x1 + dx) + 1] = False
    away = cv2.absdiff(photo, result)[outside]
    return Outside(float(away.max(initial=0)), float(away.mean()) if away.size else 0.0)


def rim_step(photo: np.ndarray, result: np.ndarray) -> float | None:
    """How much more the colours jump across the rim of what was changed than they did in the photo.

    At every pixel of the contour of the changed region, the colour 3 pixels further in is compared with that 3 pixels
    further out, both averaged over 3 pixels.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.

    Returns:
        Mean difference in CIE Lab units (a trained eye sees about 2); below 0 where a real edge was smoothed. None
        where nothing, or next to nothing, was changed.
    """
    changed = (cv2.absdiff(photo, result).max(axis=2) > _CHANGED).astype(np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    inside, outside = (
        cv2.distanceTransform(np.pad(one, 1), cv2.DIST_L2, 5)[1:-1, 1:-1] for one in (changed, 1 - changed)
    )
    distance = (inside - outside).astype(np.float32)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1)
    normal = np.stack([cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)], axis=-1)
    length = np.linalg.norm(normal, axis=-1)
    rows, columns = np.nonzero((changed > 0) & (distance <= 1) & (length > 1e-3))
    height, width = changed.shape
    margin = int(_RIM) + 1  # a region that the picture's edge cuts has no rim there
    inner = (rows >= margin) & (rows < height - margin) & (columns >= margin) & (columns < width - margin)
    rows, columns = rows[inner], columns[inner]
    if len(rows) < 16:
        return None
    towards = normal[rows, columns] / length[rows, columns, None] * _RIM
    at = np.stack([columns, rows], axis=-1).astype(np.float32)
    steps = []
    for image in (photo, result):
        lab = cv2.cvtColor(cv2.blur(image, (3, 3)).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        sides = [_sample(lab, at + sign * towards) for sign in (1, -1)]
        steps.append(float(np.linalg.norm(sides[0] - sides[1], axis=-1).mean()))
    return steps[1] - steps[0]


def sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian of a face crop, (S, S, 3) uint8 RGB, in grey levels: 0 for a flat picture."""
    return float(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _sample(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N, 3) values of a (H, W, 3) float32 image at (N, 2) x, y, interpolated."""
    points = at.astype(np.float32)[None]
    return cv2.remap(image, points[..., 0], points[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


#: Where points of MediaPipe's canonical face lie, in centimetres: x to the picture's right, y up, z towards the viewer.
#: They are the ones that hardly move with the expression.
_CANONICAL = {
    1: (0.0, -1.127, 7.476),
    10: (0.0, 8.262, 4.482),
    168: (0.0, 3.271, 5.236),
    33: (-4.446, 2.664, 3.173),
    133: (-1.856, 2.585, 3.758),
    362: (1.856, 2.585, 3.758),
    263: (4.446, 2.664, 3.173),
    234: (-7.664, 0.673, -2.436),
    454: (7.664, 0.673, -2.436),
}


_CLOSED = 0.12  # opening of the eyes, in their widths, under which nothing is said of the gaze


_PROFILE = 40.0  # degrees of yaw beyond which one eye hides, likewise


@dataclass(frozen=True)
class HeadPose:
    """Angles in degrees, as the picture shows them.

    Attributes:
        yaw: the face looks to the picture's right.
        pitch: it looks up.
        roll: it leans to the picture's right, clockwise.
    """

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class FaceState:
    """What a mesh says of a face.

    Attributes:
        pose: of the head.
        gaze: right and down, where the irises stand between the eyes' corners, in eye widths; 0.1 is about 15 degrees
            (an eyeball of 12 mm radius behind an opening of 30 mm). None for closed eyes, or a head turned far.
        expression: ratios of lengths.
    """

    pose: HeadPose
    gaze: tuple[float, float] | None
    expression: FaceMeasures


@dataclass(frozen=True)
class MeshErrors:
    """Absolute differences between two meshes of one place.

    Attributes:
        yaw, pitch, roll: degrees.
        gaze: distance in eye widths; None where one of the two faces has none.
        smile, mouth_open: in mouth widths.
        eyes_open: in eye widths.
        landmarks: mean distance of the points, as a share of the distance between the outer corners of the eyes.
    """

    yaw: float
    pitch: float
    roll: float
    gaze: float | None
    smile: float
    mouth_open: float
    eyes_open: float
    landmarks: float


def face_state(mesh: np.ndarray) -> FaceState:
    """Read a (478, 2) mesh in photo pixels."""
    expression, pose = measure(mesh), head_pose(mesh)
    open_and_seen = expression.eyes_open > _CLOSED and abs(pose.yaw) < _PROFILE
    return FaceState(pose, _gaze(mesh) if open_and_seen else None, expression)


def head_pose(mesh: np.ndarray) -> HeadPose:
    """The turn of the canonical face that puts it nearest to a (478, 2) mesh, in weak perspective (scaled orthography).

    Least squares for the affine camera, then the nearest scaled rotation (Tomasi and Kanade, "Shape and Motion from
    Image Streams under Orthography", 1992, give the model).
    """
    model = np.array(list(_CANONICAL.values())) * (1, -1, -1)  # y down, z away from the viewer, as in pictures
    points = mesh[list(_CANONICAL)].astype(np.float64)
    affine = np.linalg.lstsq(model - model.mean(0), points - points.mean(0), rcond=None)[0].T
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    first, second = left @ right
    rotation = np.stack([first, second, np.cross(first, second)])
    nose = -rotation[:, 2]  # the model's nose points to the viewer
    yaw = np.degrees(np.arctan2(nose[0], -nose[2]))
    pitch = np.degrees(np.arcsin(np.clip(-nose[1], -1, 1)))
    roll = np.degrees(np.arctan2(rotation[1, 0], rotation[1, 1]))
    return HeadPose(float(yaw), float(pitch), float(roll))


def mesh_errors(first: np.ndarray, second: np.ndarray) -> MeshErrors:
    """Differences between the meshes, (478, 2) in the pixels of one photo, of an original and of its result."""
    a, b = face_state(first), face_state(second)
    gaze = None if a.gaze is None or b.gaze is None else float(np.hypot(*np.subtract(a.gaze, b.gaze)))
    span = max(float(np.linalg.norm(first[263] - first[33])), 1e-6)
    return MeshErrors(
        yaw=_turn(a.pose.yaw, b.pose.yaw),
        pitch=_turn(a.pose.pitch, b.pose.pitch),
        roll=_turn(a.pose.roll, b.pose.roll),
        gaze=gaze,
        smile=abs(a.expression.smile - b.expression.smile),
        mouth_open=abs(a.expression.mouth_open - b.expression.mouth_open),
        eyes_open=abs(a.expression.eyes_open - b.expression.eyes_open),
        landmarks=float(np.linalg.norm(first - second, axis=1).mean()) / span,
    )


def _turn(first: float, second: float) -> float:
    """The smaller angle between two directions, in degrees."""
    return abs((first - second + 180) % 360 - 180)


def _gaze(mesh: np.ndarray) -> tuple[float, float]:
    """Mean over both eyes of where the iris's middle lies from the middle of the corners, in eye widths."""
    offsets = []
    for (start, end), eye, iris in zip(EYE_CORNERS, MESH_EYES, MESH_IRISES, strict=True):
        corner = mesh[end] - mesh[start]
        width = max(float(np.linalg.norm(corner)), 1e-6)
        across, down = frame(corner)
        away = mesh[list(iris)].mean(0) - (mesh[start] + mesh[end]) / 2
        lids = mesh[list(eye)].mean(0) - (mesh[start] + mesh[end]) / 2
        offsets.append((away @ across / width, (away - lids) @ down / width))
    x, y = np.mean(offsets, axis=0)
    return float(x), float(y)
