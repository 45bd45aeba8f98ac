"""Mesh editing: neutral pose, gaze and expression, shaped expressions, and other proportions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_LIPS, MESH_MOUTH, MESH_OVAL, measure
from .semantic_map import mean_faces, mean_mesh

EYE_CORNERS = ((33, 133), (362, 263))
MOUTH_CORNERS = (61, 291)
MOUTH = (*MESH_LIPS, *MESH_MOUTH)
_LOWER_LIP = (*MESH_LIPS[len(MESH_LIPS) // 2 + 1 :], *MESH_MOUTH[len(MESH_MOUTH) // 2 + 1 :])
_FOREHEAD, _UNDER_NOSE = 10, 2
#: Points that no expression moves: forehead, temples, eye corners, bridge and base of the nose.
_RIGID_LANDMARKS = (10, 109, 338, 127, 356, 234, 454, 33, 133, 362, 263, 168, 6, 1, 2, 98, 327)
#: Field of `ExpressionParams` -> largest magnitude, beyond which the mesh is wrong, and step, which hides the person's
#: own small deviations.
_QUANTIZATION = {
    "smile": (0.25, 0.05),
    "mouth_open": (0.7, 0.1),
    "eyes_open": (1.5, 0.5),
    "brow_raise": (0.1, 0.05),
    "gaze": (0.35, 0.05),
}
_MIN_EYES_OPEN = 0.2  # height of closed eyes' openings, over that at rest
_MIN_VISIBLE_WIDTH = 0.03  # distance, in face heights, of the corners of a part that faces the camera

_MAX_CLOSED_EYES_OPEN = 0.16  # `FaceMeasures.eyes_open`
_MAX_STRETCH = 2.0  # of a part that is moved to another face, along each axis
#: Word -> `FaceMeasures.smile` and `FaceMeasures.mouth_open`; None leaves them unchanged.
_MOUTH_SHAPES: Mapping[str, tuple[float | None, float | None]] = {
    "smiling": (0.15, None),
    "serious": (0.0, 0.0),
    "neutral": (0.06, 0.0),
    "mouth open": (None, 0.35),
    "teeth showing": (0.1, 0.2),
    "mouth closed": (None, 0.0),
}
_LID_SCALES: Mapping[str, float] = {"eyes closed": 0.2, "eyes open": 1.0}  # word -> factor on the opening's height

_TOP, _CHIN, _NOSE_TIP = 10, 152, 1
_CHEEKS = (234, 454)  # outermost points, right and left
_MIDLINE = (
    10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200, 199, 175, 152,
)  # fmt: skip
_VERTICAL_SHARE = 0.65  # of a displacement along the face, as the height of features also encodes the head's pitch
_OUTLINE_MARGIN = 0.12  # distance to the outline, in crop sides, over which displacements rise to their full length
_SMILE_GAIN, _MAX_AMPLIFIED_SMILE = 1.4, 0.25  # other people's cheeks fold less; `FaceMeasures.smile`
_BROAD_SMILE, _WIDE_MOUTH_OPEN = 0.12, 0.25  # `FaceMeasures.smile` and `mouth_open` at which the mouth stays as wide
_MOUTH_SIGMA = 0.09  # standard deviation, in crop sides, of the region around the mouth that stays with it
_TURNED_YAW, _PROFILE_YAW = 0.5, 0.9  # `FaceMeasures.yaw` between which displacements shrink
_PROFILE_REDUCTION = 0.6  # share that profiles lose: measured depth is inaccurate, and noses become beaks
_MAX_SHUT_EYES_OPEN, _MIN_NARROW_EYES_OPEN = (
    0.13,
    0.19,
)  # `FaceMeasures.eyes_open` of eyes that are shut, and that stay open
_MIN_IRIS_TO_CORNER, _MAX_IRIS_OFF_AXIS = 0.28, 0.12  # of an iris, along and across the line of the corners, eye widths
_MIN_OVERHANG = 0.12  # of a profile's nose past its far cheek, in crop sides: less turned faces show both eyes
_HIDING_DEPTH = 0.015  # of hidden points behind the contour, in crop sides
_HIDDEN_SCALE = 0.3  # of their distance to it
_MIDLINE_TOLERANCE = 0.005  # crop sides
_MAX_DISPLACEMENT = 0.2  # crop sides
_MAX_OVERSHOOT = 0.02  # of a displacement past the shape, likewise


@dataclass(frozen=True)
class ExpressionParams:
    """Quantised expression and gaze of a face relative to a face at rest.

    Attributes:
        smile: `FaceMeasures.smile`.
        mouth_open: `FaceMeasures.mouth_open`.
        eyes_open: height of the eyes' openings, 1 at rest.
        brow_raise: height of the brows above rest, in face heights.
        gaze: offset of the irises to the right and down, in eye widths.
    """

    smile: float
    mouth_open: float
    eyes_open: float
    brow_raise: float
    gaze: tuple[float, float]


def fit_mean_face(mesh: np.ndarray) -> np.ndarray:
    """Return (478, 2) the mean face of the mesh's yaw, affinely fitted to the points that no expression moves."""
    return _nearest_mean_face(mesh)[1]


def mean_face_in_box(mesh: np.ndarray, *, frontal: bool) -> np.ndarray:
    """Return (478, 2) the mean face, frontal or of the mesh's yaw, scaled to the mesh's bounding box."""
    mean = mean_faces()[len(mean_faces()) // 2 if frontal else _nearest_mean_face(mesh)[0]]
    low, high = mesh.min(0), mesh.max(0)
    return (mean - mean.min(0)) / np.ptp(mean, axis=0) * (high - low) + low


def estimate_expression(mesh: np.ndarray, rest: np.ndarray) -> ExpressionParams:
    """Estimate a mesh's expression and gaze, quantised so that they do not identify the person.

    Args:
        mesh: (478, 2), in pixels of any scale.
        rest: (478, 2), a face at rest in the same pose.
    """
    measures, rest_measures = measure(mesh), measure(rest)
    eyes = _visible_eyes(mesh, rest)
    gaze = np.mean([_gaze_offset(mesh, eye) - _gaze_offset(rest, eye) for eye in eyes] or [(0.0, 0.0)], axis=0)
    eyes_open = measures.eyes_open / max(rest_measures.eyes_open, 1e-3)
    return ExpressionParams(
        smile=_quantize("smile", measures.smile),
        mouth_open=_quantize("mouth_open", measures.mouth_open),
        eyes_open=max(_MIN_EYES_OPEN, _quantize("eyes_open", eyes_open)),
        brow_raise=_quantize("brow_raise", _brow_height(mesh) - _brow_height(rest)),
        gaze=(_quantize("gaze", float(gaze[0])), _quantize("gaze", float(gaze[1]))),
    )


def _quantize(name: str, value: float) -> float:
    limit, step = _QUANTIZATION[name]
    return float(np.round(np.clip(value, -limit, limit) / step) * step)


def shape_mouth(mesh: np.ndarray, smile: float | None, mouth_open: float | None) -> None:
    """Move a mouth's corners and lower lip, in place, to given `FaceMeasures`; None leaves a measure unchanged."""
    rows, corners = list(MOUTH), mesh[list(MOUTH_CORNERS)]
    axes, middle = axes_along(corners[1] - corners[0]), corners.mean(0)
    width = max(float(np.linalg.norm(corners[1] - corners[0])), 1e-6)
    local, measures = (mesh[rows] - middle) @ axes.T, measure(mesh)
    side = np.clip(2 * local[:, 0] / width, -1, 1) ** 2  # 0 at the centre, 1 at the corners
    parted = 0.0 if mouth_open is None else mouth_open - measures.mouth_open
    # parted lips also lower the centre
    raised = (measures.smile if smile is None else smile) - measures.smile - parted / 2
    local[:, 1] += parted * width * (1 - side) * np.isin(rows, _LOWER_LIP) - raised * width * side
    mesh[rows] = local @ axes + middle


def shape_lids(mesh: np.ndarray, scale: float) -> None:
    """Scale the height of the eyes' openings, in place."""
    for corners, eye in zip(EYE_CORNERS, MESH_EYES, strict=True):
        ends, rows = mesh[list(corners)], list(eye)
        axes, middle = axes_along(ends[1] - ends[0]), ends.mean(0)
        mesh[rows] = (mesh[rows] - middle) @ axes.T * (1.0, scale) @ axes + middle


def raise_brows(mesh: np.ndarray, height: float) -> None:
    """Raise the brows by a height in face heights, in place."""
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS, strict=True):
        down = axes_along(mesh[corners[1]] - mesh[corners[0]])[1]
        mesh[list(brow)] -= height * rigid_height(mesh) * down


def turn_eyes(mesh: np.ndarray, offset: tuple[float, float]) -> None:
    """Move the irises by an offset to the right and down, in eye widths, in place."""
    for corners, iris in zip(EYE_CORNERS, MESH_IRISES, strict=True):
        across = mesh[corners[1]] - mesh[corners[0]]
        mesh[list(iris)] += np.array(offset) @ axes_along(across) * np.linalg.norm(across)


def axes_along(across: np.ndarray) -> np.ndarray:
    """Return (2, 2): unit vectors, as rows, along a direction and perpendicular to it, down the face."""
    x, y = across / max(float(np.linalg.norm(across)), 1e-6)
    return np.array([[x, y], [-y, x]])


def face_axes(mesh: np.ndarray) -> np.ndarray:
    """Return (2, 2): unit vectors, as rows, along the line of the eyes and down the face."""
    return axes_along(mesh[EYE_CORNERS[1][1]] - mesh[EYE_CORNERS[0][0]])


def rigid_height(mesh: np.ndarray) -> float:
    """Return the distance, in pixels, from the top of the forehead to the nose's base, which no expression moves."""
    return max(float(np.linalg.norm(mesh[_UNDER_NOSE] - mesh[_FOREHEAD])), 1e-6)


def _nearest_mean_face(mesh: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the index of the mean face whose yaw is nearest to a mesh's, and that face fitted to the mesh."""
    rows = list(_RIGID_LANDMARKS)
    best, least_error = (len(mean_faces()) // 2, mesh), np.inf
    for index, mean in enumerate(mean_faces()):
        source = np.column_stack([mean[rows], np.ones(len(rows), np.float32)])
        matrix, *_ = np.linalg.lstsq(source, mesh[rows], rcond=None)
        error = float(np.linalg.norm(source @ matrix - mesh[rows], axis=1).mean())
        if error < least_error:
            best, least_error = (index, mean @ matrix[:2] + matrix[2]), error
    return best


def _visible_eyes(*meshes: np.ndarray) -> list[int]:
    """Return the indices of the eyes that are visible in all meshes."""
    return [eye for eye in range(2) if all(is_visible(mesh, EYE_CORNERS[eye]) for mesh in meshes)]


def is_visible(mesh: np.ndarray, corners: tuple[int, int]) -> bool:
    """Return whether the part between two corners faces the camera: they are at least 0.03 face heights apart."""
    return float(np.linalg.norm(mesh[corners[1]] - mesh[corners[0]])) >= _MIN_VISIBLE_WIDTH * rigid_height(mesh)


def _gaze_offset(mesh: np.ndarray, eye: int) -> np.ndarray:
    """Return (2,) the iris' offset from the centre of the eye's corners, in eye widths."""
    start, end = mesh[list(EYE_CORNERS[eye])]
    offset = mesh[list(MESH_IRISES[eye])].mean(0) - (start + end) / 2
    return axes_along(end - start) @ offset / np.linalg.norm(end - start)


def _brow_height(mesh: np.ndarray) -> float:
    """Return the height of the brows above the eyes' corners, in face heights."""
    heights = []
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS, strict=True):
        ends = mesh[list(corners)]
        heights.append(-axes_along(ends[1] - ends[0])[1] @ (mesh[list(brow)].mean(0) - ends.mean(0)))
    return float(np.mean(heights)) / rigid_height(mesh)


def neutralize_mesh(
    mesh: np.ndarray,
    keep: Sequence[str],
    change: Mapping[str, str],
    privacy: float = 0.0,
) -> np.ndarray:
    """Replace the pose, gaze and expression of a mesh by the mean face's, except for those that are kept.

    Args:
        mesh: (478, 2) float32 crop pixels of an aligned crop: the eyes are level.
        keep: those of "pose", "gaze" and "expression" to keep; other names are ignored. Without the pose the result is
            frontal and in the same place; without the gaze, the irises are centred; without the expression, mouth,
            brows and eyelids are at rest (with the gaze, closed eyes stay closed).
        change: "expression" or "gaze" -> a word of `vocabulary.VOCABULARY`; other names are ignored.
        privacy: blend weight, 0 to 1, of the mean face of the same yaw, width and height, on which kept gaze and
            expression are reduced to `ExpressionParams`.

    Returns:
        (478, 2) float32 crop pixels.
    """
    pose, gaze, expression = (name in keep for name in ("pose", "gaze", "expression"))
    edited = mesh
    if not (pose and gaze and expression):
        edited = _neutralize_parts(mesh, pose, gaze, expression)
    if privacy:
        edited = (1 - privacy) * edited + privacy * _mesh_from_params(mesh, pose, gaze, expression)
    if not change.keys() & {"expression", "gaze"}:
        return edited if edited is mesh else edited.astype(np.float32)
    edited = edited.astype(np.float32)
    if word := change.get("expression"):
        shape_mouth(edited, *_MOUTH_SHAPES[word])
    if word := change.get("gaze"):
        shape_lids(edited, _LID_SCALES[word])
    return edited


def _neutralize_parts(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """Return (478, 2) the kept parts' own shapes, on the mesh or, without the pose, on the frontal mean face."""
    rest = fit_mean_face(mesh) if pose else mean_face_in_box(mesh, frontal=True)
    target = mesh if pose else rest
    edited, mouth = target.copy(), list(MOUTH)
    edited[mouth] = shift_points(mesh, mouth, MOUTH_CORNERS, target, rest) if expression else rest[mouth]
    closed = gaze and measure(mesh).eyes_open < _MAX_CLOSED_EYES_OPEN
    for corners, eye, brow, iris in zip(EYE_CORNERS, MESH_EYES, MESH_BROWS, MESH_IRISES, strict=True):
        for rows, stays in ((list(eye), expression or closed), (list(brow), expression), (list(iris), gaze)):
            edited[rows] = shift_points(mesh if stays else rest, rows, corners, target, rest)
    return edited


def _mesh_from_params(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """Return (478, 2) the mean face with the kept attributes reduced to `ExpressionParams`."""
    params, edited = estimate_expression(mesh, fit_mean_face(mesh)), mean_face_in_box(mesh, frontal=not pose)
    if expression:
        shape_mouth(edited, params.smile, params.mouth_open)
        raise_brows(edited, params.brow_raise)
    if expression or (gaze and measure(mesh).eyes_open < _MAX_CLOSED_EYES_OPEN):
        shape_lids(edited, params.eyes_open)
    if gaze:
        turn_eyes(edited, params.gaze)
    return edited


def shift_points(
    source: np.ndarray, rows: list[int], corners: tuple[int, int], target: np.ndarray, rest: np.ndarray
) -> np.ndarray:
    """Transfer points of a mesh to another mesh, relative to the same two corners.

    Args:
        source: (478, 2), the mesh that has the points.
        rows: K indices of points.
        corners: indices of the two corners.
        target: (478, 2), the mesh that receives them.
        rest: (478, 2), copied where a mesh hides the corners, as the far eye in a profile.

    Returns:
        (K, 2) in the target's pixels.
    """
    if source is target:
        return target[rows]
    if not (is_visible(source, corners) and is_visible(target, corners)):
        return rest[rows]
    source_axis, target_axis = (mesh[corners[1]] - mesh[corners[0]] for mesh in (source, target))
    width_ratio = np.linalg.norm(target_axis) / np.linalg.norm(source_axis)
    scale = np.array([width_ratio, rigid_height(target) / rigid_height(source)]).clip(1 / _MAX_STRETCH, _MAX_STRETCH)
    centres = [(mesh[corners[0]] + mesh[corners[1]]) / 2 for mesh in (source, target)]
    return (source[rows] - centres[0]) @ axes_along(source_axis).T * scale @ axes_along(target_axis) + centres[1]


def reshape_mesh(
    mesh: np.ndarray, shape: np.ndarray, size: int, *, share: float = 1.0, own_eyes: bool = False
) -> np.ndarray:
    """Give a mesh another person's proportions; outline, pose, gaze and expression stay.

    Args:
        mesh: (478, 2) crop pixels.
        shape: (478, 3) frontal shape with depth, in any unit.
        size: side of the crop, in pixels.
        share: of the displacement to the shape that inner points take, less in profiles. The outline stays: it has to
            match the photo, and recognisers hardly use it.
        own_eyes: keep the lids and brows of the shape, as behind glasses, whose frames must not bend.

    Returns:
        (478, 2) float32 crop pixels.
    """
    other = with_expression(mesh, project_shape(shape, mesh), eyes=not own_eyes)
    inner = _inner_weights()[:, None]
    share *= 1 - _PROFILE_REDUCTION * _profile_share(mesh)
    beyond = max(share - 1, 0.0) * (other - mesh)  # bounded, as odd faces would become caricatures
    length = np.linalg.norm(beyond, axis=1, keepdims=True).clip(1e-6)
    beyond *= _MAX_OVERSHOOT * size * np.tanh(length / (_MAX_OVERSHOOT * size)) / length
    step = inner * (min(share, 1.0) * (other - mesh) + beyond)
    step *= 1 - _mouth_stretch(mesh) * _mouth_weights()[:, None]
    down = face_axes(mesh)[1]
    step -= (1 - _VERTICAL_SHARE) * (step @ down)[:, None] * down
    length = np.linalg.norm(step, axis=1, keepdims=True)
    step *= np.minimum(1, _MAX_DISPLACEMENT * inner * size / length.clip(1e-6))
    reshaped = (mesh + step).astype(np.float32)
    keep_irises_inside(reshaped)
    close_lids(reshaped)
    hide_far_side(reshaped, size)
    return reshaped


def hide_far_side(mesh: np.ndarray, size: int) -> None:
    """Move the far side of a profile behind its midline, the contour, in place.

    Landmarkers put the far eye in front of the bridge of the nose, where it would be drawn.

    Args:
        mesh: (478, 2) crop pixels.
        size: side of the crop, in pixels.
    """
    yaw = measure(mesh).yaw
    axis = mesh[_CHIN] - mesh[_TOP]
    down = axis / max(float(np.linalg.norm(axis)), 1e-6)
    across = np.array([down[1], -down[0]]) * np.sign(yaw)  # towards the far side
    height, reach = mesh @ down, mesh @ across
    if abs(yaw) < 1 or reach[_NOSE_TIP] - reach[_CHEEKS[int(yaw > 0)]] < _MIN_OVERHANG * size:
        return
    order = np.argsort(height[list(_MIDLINE)])
    midline = np.array(_MIDLINE)[order]
    contour = np.interp(height, height[midline], reach[midline])
    mean = mean_mesh(1)[:, 0]
    beyond = (mean - mean[_TOP]) * np.sign(yaw)
    hidden = contour - (_HIDING_DEPTH + _HIDDEN_SCALE * beyond) * size  # mirrored: triangles between them face away
    mesh -= ((reach - hidden)[:, None] * across * (beyond > _MIDLINE_TOLERANCE)[:, None]).astype(mesh.dtype)


def _profile_share(mesh: np.ndarray) -> float:
    """Return 0 for faces up to half turned, rising to 1 for profiles."""
    return float(np.clip((abs(measure(mesh).yaw) - _TURNED_YAW) / (_PROFILE_YAW - _TURNED_YAW), 0, 1))


def close_lids(mesh: np.ndarray) -> None:
    """Close eyes that are nearly closed, in place.

    Landmarkers leave a gap between closed lids, in which the other person's eyes would show.

    Args:
        mesh: (478, 2), in pixels of any scale.
    """
    eyes_open = measure(mesh).eyes_open
    share = float(np.clip((eyes_open - _MAX_SHUT_EYES_OPEN) / (_MIN_NARROW_EYES_OPEN - _MAX_SHUT_EYES_OPEN), 0, 1))
    if share == 1:
        return
    for eye in MESH_EYES:
        half = len(eye) // 2
        upper, lower = list(eye[1:half]), list(eye[:half:-1])
        mesh[upper] = mesh[lower] + share * (mesh[upper] - mesh[lower])


def keep_irises_inside(mesh: np.ndarray) -> None:
    """Move irises at or past a corner of the eye back into its opening, in place.

    Landmarkers misplace irises in profiles, and an eye without an iris would be white.

    Args:
        mesh: (478, 2), in pixels of any scale.
    """
    for corners, iris in zip(EYE_CORNERS, MESH_IRISES, strict=True):
        rows, start, across = list(iris), mesh[corners[0]], mesh[corners[1]] - mesh[corners[0]]
        width = max(float(np.linalg.norm(across)), 1e-6)
        position = (mesh[rows].mean(0) - start) @ axes_along(across).T / width
        inside = position.clip(
            (_MIN_IRIS_TO_CORNER, -_MAX_IRIS_OFF_AXIS), (1 - _MIN_IRIS_TO_CORNER, _MAX_IRIS_OFF_AXIS)
        )
        mesh[rows] += (inside - position) * width @ axes_along(across)


def project_shape(shape: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Project a shape with depth into a mesh's pose by the best-fitting scaled orthographic camera.

    For profiles it is an affine camera, which does not depend on the scale of the measured depth.

    Args:
        shape: (478, 3).
        mesh: (478, 2) pixels.

    Returns:
        (478, 2) pixels.
    """
    rows = _upper_face_points()
    source, target = shape[rows] - shape[rows].mean(0), mesh[rows] - mesh[rows].mean(0)
    affine, *_ = np.linalg.lstsq(source, target, rcond=None)
    u, singular, vt = np.linalg.svd(affine.T, full_matrices=False)  # the nearest scaled rotation
    camera = singular.mean() * u @ vt
    camera += _profile_share(mesh) * (affine.T - camera)
    return (shape - shape[rows].mean(0)) @ camera.T + mesh[rows].mean(0)


def with_expression(mesh: np.ndarray, target: np.ndarray, *, eyes: bool = True) -> np.ndarray:
    """Transfer a mesh's mouth, with amplified smiles, and irises to another mesh.

    Args:
        mesh: (478, 2), the mesh that has the expression.
        target: (478, 2), the mesh that receives it.
        eyes: transfer lids and brows, too.

    Returns:
        (478, 2) in the target's pixels.
    """
    posed = target.copy()
    groups = [(list(MOUTH), MOUTH_CORNERS)]
    for corners, *points in zip(EYE_CORNERS, MESH_EYES, MESH_IRISES, strict=True):
        groups += [(list(rows), corners) for rows in points[0 if eyes else 1 :]]
    for rows, corners in groups:
        posed[rows] = shift_points(mesh, rows, corners, target, target)
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS if eyes else ((), ()), strict=True):
        rows = list(brow)  # averaged, as raised brows are expression and their resting height is identity
        posed[rows] = (shift_points(mesh, rows, corners, target, target) + target[rows]) / 2
    smile = measure(mesh).smile
    if smile > 0 and is_visible(mesh, MOUTH_CORNERS) and is_visible(posed, MOUTH_CORNERS):
        shape_mouth(posed, min(_SMILE_GAIN * smile, max(smile, _MAX_AMPLIFIED_SMILE)), None)
    return posed


def _mouth_stretch(mesh: np.ndarray) -> float:
    """Return 0 for a mouth at rest to 1 for a wide one, which would look round between a resting mouth's corners."""
    measures = measure(mesh)
    return float(np.clip(max(measures.smile / _BROAD_SMILE, measures.mouth_open / _WIDE_MOUTH_OPEN), 0, 1))


@cache
def _mouth_weights() -> np.ndarray:
    """Return (478,) weights that fall from 1 on the mouth to 0 with the distance to it."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MOUTH)], axis=2).min(1)
    return np.exp(-0.5 * (distance / _MOUTH_SIGMA) ** 2)


@cache
def _upper_face_points() -> np.ndarray:
    """Return the indices of points that expressions move little: neither lips, eyes, brows, irises nor chin."""
    moving = {*MOUTH, *(p for group in (*MESH_EYES, *MESH_IRISES, *MESH_BROWS) for p in group)}
    mean = mean_mesh(1)
    return np.array([k for k in range(468) if k not in moving and mean[k, 1] < mean[17, 1]])


@cache
def _inner_weights() -> np.ndarray:
    """Return (478,) weights that rise from 0 on the outline to 1 inside."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MESH_OVAL)], axis=2).min(1)
    inner = (distance / _OUTLINE_MARGIN).clip(0, 1)
    return inner * inner * (3 - 2 * inner)
