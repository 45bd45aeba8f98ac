"""Measurements on originals and results: coverage, pose, expression, image quality, blending.

All of them apply to the results of any tool: the only masks used are the face boxes of a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..faces.boxes import Detection, FaceDetector
from ..faces.landmarks import MESH_EYES, MESH_IRISES, FaceMeasures, Landmarker, five_points, measure
from ..faces.mesh_editing import EYE_CORNERS, axes_along
from ..identity.recognition import Recogniser
from .onnx import AttributeReader, Reading, face_square
from .pairing import Pair, embed, face_mesh, largest, nearest

Box = tuple[float, float, float, float]

_QUALITY_MARGIN, _QUALITY_SIDE = 1.3, 128  # crop for quality metrics: side in box sides, and in pixels
_THUMBNAIL_MARGIN, _THUMBNAIL_SIDE = 1.9, 160  # crop on the contact sheet, likewise


@dataclass(frozen=True)
class Evaluators:
    """Networks that measure the results; none should have been used to generate them.

    Attributes:
        detector: detects faces in originals and results.
        landmarker: fits meshes.
        recognisers: one or more attackers.
        reader: estimates age and sex; None for neither.
        meter: computes FID, KID and LPIPS; None for none of them.
    """

    detector: FaceDetector
    landmarker: Landmarker
    recognisers: tuple[Recogniser, ...]
    reader: AttributeReader | None = None
    meter: PerceptualMeter | None = None


@dataclass(frozen=True, eq=False)
class FaceMeasurement:
    """Largest face of an original, and the face in its place in the result.

    Attributes:
        unchanged: the result still shows the original face.
        detected: a face is detected in the result, in the place of the original; if not, its measurements are None.
        embeddings: (D,) of original and result, for all recognisers. If no face is detected in the result, the
            recogniser reads it at the original's points, as an attacker would. None without points.
        before, after: states of the meshes of original and result; None without a mesh.
        errors: differences of the two meshes.
        readings: of original and result; None without a reader.
        sharpness_ratio: result over original; None if the original is flat.
        score_ratio: detector score of the result over that of the original.
        ssim, lpips: of the crops; the latter may not be available.
        crops: (S, S, 3) uint8 RGB of original and result for a contact sheet, or None.
    """

    unchanged: bool
    detected: bool
    embeddings: tuple[tuple[np.ndarray | None, np.ndarray | None], ...]
    before: FaceState | None
    after: FaceState | None
    errors: MeshErrors | None
    readings: tuple[Reading, Reading] | None
    sharpness_ratio: float | None
    score_ratio: float | None
    ssim: float | None
    lpips: float | None
    crops: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class PairMeasurement:
    """One photo and its result.

    Attributes:
        pair: the two files.
        faces, unchanged: number of faces in the original, and of those that the result still shows.
        resized: the result had another size, and was scaled to the original's.
        outside: difference outside all faces.
        rim: colour step at the boundary of the changed region; None without one.
        face: the largest face; None if the original has none.
    """

    pair: Pair
    faces: int
    unchanged: int
    resized: bool
    outside: Outside
    rim: float | None
    face: FaceMeasurement | None


def measure_pair(
    pair: Pair,
    photo: np.ndarray,
    result: np.ndarray,
    evaluators: Evaluators,
    *,
    more_boxes: Sequence[Box] = (),
    keep_crops: bool = False,
) -> PairMeasurement:
    """Measure a photo, (H, W, 3) uint8 RGB, and its result, (h, w, 3).

    `more_boxes` are x0, y0, x1, y1 in photo pixels of further faces that were changed, from the run's records; crops of
    the largest face are kept for a contact sheet.
    """
    resized = result.shape != photo.shape
    if resized:
        result = cv2.resize(result, (photo.shape[1], photo.shape[0]), interpolation=cv2.INTER_AREA)
    before, after = evaluators.detector(photo), evaluators.detector(result)
    unchanged = [is_unchanged(photo, result, face.box) for face in before]
    main = largest(before)
    return PairMeasurement(
        pair=pair,
        faces=len(before),
        unchanged=sum(unchanged),
        resized=resized,
        outside=outside_faces(photo, result, [*(face.box for face in before), *more_boxes]),
        rim=rim_step(photo, result),
        face=None if main is None else _measure_face(photo, result, main, after, evaluators, keep_crops),
    )


def _measure_face(
    photo: np.ndarray,
    result: np.ndarray,
    face: Detection,
    detections: Sequence[Detection],
    evaluators: Evaluators,
    keep_crops: bool,
) -> FaceMeasurement:
    """Measure the largest face of a photo, given the detections in the result."""
    after = nearest(detections, np.array(face.box))
    mesh = face_mesh(photo, face, evaluators.landmarker)
    mesh_after = None if after is None else face_mesh(result, after, evaluators.landmarker)
    points = face.points if mesh is None else five_points(mesh)
    points_after = points if after is None else after.points if mesh_after is None else five_points(mesh_after)

    def crops(margin: float, side: int) -> tuple[np.ndarray, np.ndarray]:
        return face_square(photo, face.box, margin, side), face_square(result, face.box, margin, side)

    readings = lpips = None
    if after is not None and evaluators.meter is not None:
        lpips = evaluators.meter.add(*crops(_QUALITY_MARGIN, _FACE_SIDE))
    if after is not None and evaluators.reader is not None:
        readings = evaluators.reader(photo, face.box), evaluators.reader(result, face.box)
    quality = crops(_QUALITY_MARGIN, _QUALITY_SIDE)
    sharpness_before = sharpness(quality[0])
    return FaceMeasurement(
        unchanged=is_unchanged(photo, result, face.box),
        detected=after is not None,
        embeddings=tuple(
            (embed(photo, points, recogniser), embed(result, points_after, recogniser))
            for recogniser in evaluators.recognisers
        ),
        before=None if mesh is None else face_state(mesh),
        after=None if mesh_after is None else face_state(mesh_after),
        errors=None if mesh is None or mesh_after is None else mesh_errors(mesh, mesh_after),
        readings=readings,
        sharpness_ratio=None if after is None or sharpness_before < 1 else sharpness(quality[1]) / sharpness_before,
        score_ratio=None if after is None else after.score / max(face.score, 1e-6),
        ssim=None if after is None else ssim(*quality),
        lpips=lpips,
        crops=crops(_THUMBNAIL_MARGIN, _THUMBNAIL_SIDE) if keep_crops else None,
    )


UNCHANGED_SSIM = 0.9
"""Structural similarity above which a face counts as unchanged. Measured on 30 faces in 20 photographs: above 0.90 for
all of them after JPEG at quality 30, at most 0.71 after replacement by the built-in model; after a blur of a tenth of
the face width the median is 0.54, and only faces that were blurred before exceed 0.9."""

BOX_GROWTH = 0.6  # growth of face boxes on every side, in box widths and heights; pixels beyond count as outside

_COMPARISON_SIDE = 64  # pixels to which faces are scaled to tell unchanged ones
_CHANGED_LEVELS = 2  # difference above which a value belongs to the changed region
_RIM_DISTANCE = 3.0  # pixels from the boundary at which colours are compared


@dataclass(frozen=True)
class Outside:
    """Largest and mean absolute difference of the pixels outside all faces, in levels of 0 to 255."""

    largest: float
    mean: float


def is_unchanged(photo: np.ndarray, result: np.ndarray, box: Box) -> bool:
    """Return whether the result still shows the face in a box, x0, y0, x1, y1 in pixels: SSIM above `UNCHANGED_SSIM`.

    Photo and result are (H, W, 3) uint8 RGB.
    """
    x0, y0, x1, y1 = (round(v) for v in box)
    rows, columns = slice(max(0, y0), max(y1, y0 + 1)), slice(max(0, x0), max(x1, x0 + 1))
    faces = [
        cv2.resize(image[rows, columns], (_COMPARISON_SIDE, _COMPARISON_SIDE), interpolation=cv2.INTER_AREA)
        for image in (photo, result)
    ]
    return ssim(*faces) > UNCHANGED_SSIM


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the structural similarity, -1 to 1, of two (H, W, 3) uint8 RGB images of at least 11 pixels a side.

    The window is a Gaussian of 1.5 pixels (Wang et al., "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004).
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            first, second, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def outside_faces(photo: np.ndarray, result: np.ndarray, boxes: Sequence[Box]) -> Outside:
    """Measure the difference of two (H, W, 3) uint8 RGB images outside all boxes, x0, y0, x1, y1 in pixels.

    Boxes are grown by `BOX_GROWTH`; 0 if they cover the image.
    """
    outside = np.ones(photo.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        dx, dy = BOX_GROWTH * (x1 - x0), BOX_GROWTH * (y1 - y0)
        outside[max(0, int(y0 - dy)) : int(y1 + dy) + 1, max(0, int(x0 - dx)) : int(x1 + dx) + 1] = False
    difference = cv2.absdiff(photo, result)[outside]
    return Outside(float(difference.max(initial=0)), float(difference.mean()) if difference.size else 0.0)


def rim_step(photo: np.ndarray, result: np.ndarray) -> float | None:
    """Measure the colour step that the result adds at the boundary of the changed region; both (H, W, 3) uint8 RGB.

    At every pixel of the region's contour, the colour 3 pixels inside is compared with the colour 3 pixels outside,
    both averaged over 3 x 3 pixels.

    Returns:
        Mean difference in CIELAB units (about 2 is visible to a trained eye); negative if a real edge was smoothed.
        None if nothing, or next to nothing, was changed.
    """
    changed = (cv2.absdiff(photo, result).max(axis=2) > _CHANGED_LEVELS).astype(np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    inside, outside = (
        cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1] for mask in (changed, 1 - changed)
    )
    distance = (inside - outside).astype(np.float32)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1)
    normal = np.stack([cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)], axis=-1)
    length = np.linalg.norm(normal, axis=-1)
    rows, columns = np.nonzero((changed > 0) & (distance <= 1) & (length > 1e-3))
    height, width = changed.shape
    margin = int(_RIM_DISTANCE) + 1  # no rim where the region touches the image border
    inner = (rows >= margin) & (rows < height - margin) & (columns >= margin) & (columns < width - margin)
    rows, columns = rows[inner], columns[inner]
    if len(rows) < 16:
        return None
    inward = normal[rows, columns] / length[rows, columns, None] * _RIM_DISTANCE
    contour = np.stack([columns, rows], axis=-1).astype(np.float32)
    steps = []
    for image in (photo, result):
        lab = cv2.cvtColor(cv2.blur(image, (3, 3)).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        points = [(contour + sign * inward).astype(np.float32).T[:, None] for sign in (1, -1)]
        sides = [cv2.remap(lab, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for x, y in points]
        steps.append(float(np.linalg.norm(sides[0] - sides[1], axis=-1).mean()))
    return steps[1] - steps[0]


def sharpness(face: np.ndarray) -> float:
    """Compute the variance of the Laplacian of a crop, (S, S, 3) uint8 RGB, in grey levels; 0 for a flat image."""
    return float(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


CANONICAL_POINTS = {
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
"""Expression-invariant points of MediaPipe's canonical face by index, in cm: x right, y up, z to the viewer."""

_CLOSED_EYES = 0.12  # eye opening, in eye widths, below which there is no gaze
_MAX_GAZE_YAW = 40.0  # degrees beyond which one eye is hidden
_ANGLES, _RATIOS = ("yaw", "pitch", "roll"), ("smile", "mouth_open", "eyes_open")  # compared by `mesh_errors`


@dataclass(frozen=True)
class HeadPose:
    """Angles in degrees, in image coordinates: yaw to the right, pitch upwards, roll clockwise."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class FaceState:
    """Pose of the head, gaze and expression of a mesh.

    `gaze` is the offset of the irises from the middle of the eye corners, right and down, in eye widths; 0.1 is about
    15 degrees (an eyeball of 12 mm radius behind an opening of 30 mm). None for closed eyes and large yaw.
    """

    pose: HeadPose
    gaze: tuple[float, float] | None
    expression: FaceMeasures


@dataclass(frozen=True)
class MeshErrors:
    """Absolute differences between two meshes.

    Attributes:
        yaw, pitch, roll: degrees.
        gaze: distance in eye widths; None if either face has none.
        smile, mouth_open: in mouth widths.
        eyes_open: in eye widths.
        landmarks: mean distance of the points over the distance between the outer eye corners.
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
    """Measure a (478, 2) mesh in photo pixels."""
    expression, pose = measure(mesh), head_pose(mesh)
    visible = expression.eyes_open > _CLOSED_EYES and abs(pose.yaw) < _MAX_GAZE_YAW
    return FaceState(pose, _gaze(mesh) if visible else None, expression)


def head_pose(mesh: np.ndarray) -> HeadPose:
    """Estimate the head pose from a (478, 2) mesh by fitting the canonical face in weak perspective.

    Least squares for the affine camera, then the nearest scaled rotation (camera model: Tomasi and Kanade, "Shape and
    Motion from Image Streams under Orthography", 1992).
    """
    model = np.array(list(CANONICAL_POINTS.values())) * (1, -1, -1)  # y down, z away from the viewer
    points = mesh[list(CANONICAL_POINTS)].astype(np.float64)
    affine = np.linalg.lstsq(model - model.mean(0), points - points.mean(0), rcond=None)[0].T
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    first, second = left @ right
    rotation = np.stack([first, second, np.cross(first, second)])
    nose = -rotation[:, 2]
    yaw = np.degrees(np.arctan2(nose[0], -nose[2]))
    pitch = np.degrees(np.arcsin(np.clip(-nose[1], -1, 1)))
    roll = np.degrees(np.arctan2(rotation[1, 0], rotation[1, 1]))
    return HeadPose(float(yaw), float(pitch), float(roll))


def mesh_errors(first: np.ndarray, second: np.ndarray) -> MeshErrors:
    """Compare the meshes of an original and its result, (478, 2) in photo pixels."""
    a, b = face_state(first), face_state(second)
    gaze = None if a.gaze is None or b.gaze is None else float(np.hypot(*np.subtract(a.gaze, b.gaze)))
    span = max(float(np.linalg.norm(first[263] - first[33])), 1e-6)
    turns = {name: abs((getattr(a.pose, name) - getattr(b.pose, name) + 180) % 360 - 180) for name in _ANGLES}
    ratios = {name: abs(getattr(a.expression, name) - getattr(b.expression, name)) for name in _RATIOS}
    landmarks = float(np.linalg.norm(first - second, axis=1).mean()) / span
    return MeshErrors(gaze=gaze, landmarks=landmarks, **turns, **ratios)


def _gaze(mesh: np.ndarray) -> tuple[float, float]:
    """Average the offset of the iris centre from the middle of the eye corners over both eyes, in eye widths."""
    offsets = []
    for (start, end), eye, iris in zip(EYE_CORNERS, MESH_EYES, MESH_IRISES, strict=True):
        corner = mesh[end] - mesh[start]
        width = max(float(np.linalg.norm(corner)), 1e-6)
        across, down = axes_along(corner)
        offset = mesh[list(iris)].mean(0) - (mesh[start] + mesh[end]) / 2
        lids = mesh[list(eye)].mean(0) - (mesh[start] + mesh[end]) / 2
        offsets.append((offset @ across / width, (offset - lids) @ down / width))
    x, y = np.mean(offsets, axis=0)
    return float(x), float(y)


INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""File of torch-fidelity's Inception, for FID and KID, among the checkpoints of `torch.hub`."""

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # file of torchvision's AlexNet, for LPIPS, likewise
_FACE_SIDE = 299  # of the crops for these metrics, in pixels
_KID_SUBSETS, _KID_SUBSET_SIZE = 50, 100


class PerceptualMeter:
    """Accumulates pairs of face crops and computes FID, KID and LPIPS. Nothing is downloaded.

    Attributes:
        missing: metrics that cannot be computed, name to reason.
    """

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._features: dict[str, Any] = {}
        self._lpips: Any = None
        self._pairs = 0
        if find_spec("torchmetrics") is None:
            self.missing = dict.fromkeys(("FID", "KID", "LPIPS"), "torchmetrics is not installed")
            return
        if find_spec("torch_fidelity") is None or not _has(INCEPTION_FILE):
            reason = f"torch-fidelity or its weights ({INCEPTION_FILE}) are not installed"
            self.missing |= dict.fromkeys(("FID", "KID"), reason)
        else:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.kid import KernelInceptionDistance

            self._features["FID"] = FrechetInceptionDistance(feature=2048)
            self._features["KID"] = KernelInceptionDistance(feature=2048, subsets=_KID_SUBSETS)
        if not _has(ALEXNET_FILE):
            self.missing["LPIPS"] = f"torchvision's weights ({ALEXNET_FILE}) are not installed"
        else:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def add(self, original: np.ndarray, result: np.ndarray) -> float | None:
        """Add the crops of a face before and after, (S, S, 3) uint8 RGB, and return their LPIPS, or None without it."""
        if not self._features and self._lpips is None:
            return None
        import torch

        pair = [torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None] for crop in (original, result)]
        self._pairs += 1
        with torch.inference_mode():
            for metric in self._features.values():
                metric.update(pair[0], real=True)
                metric.update(pair[1], real=False)
            if self._lpips is None:
                return None
            return float(self._lpips(pair[0].float() / 255, pair[1].float() / 255))

    def fid(self) -> float | None:
        """Compute the FID of all pairs so far, or return None."""
        metric = self._features.get("FID")
        return None if metric is None or self._pairs < 2 else float(metric.compute())

    def kid(self) -> float | None:
        """Compute the KID of all pairs so far, a mean over subsets of up to 100 faces, or return None."""
        metric = self._features.get("KID")
        if metric is None or self._pairs < 2:
            return None
        metric.subset_size = min(_KID_SUBSET_SIZE, self._pairs)  # the metric refuses subsets larger than the set
        return float(metric.compute()[0])


def _has(file: str) -> bool:
    """Return whether a file is among the checkpoints of `torch.hub`."""
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()
