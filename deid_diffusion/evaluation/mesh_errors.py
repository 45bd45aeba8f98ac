"""How far pose, gaze, expression and landmarks of a result are from the original's, by their 478-point meshes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..faces.landmarks import MESH_EYES, MESH_IRISES
from ..faces.measures import FaceMeasures, measure
from ..faces.resting_face import EYE_CORNERS, frame

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
