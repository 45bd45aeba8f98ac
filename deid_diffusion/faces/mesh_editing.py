"""Another person's shape in a face's pose and expression."""

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
#: Points that stay where they are whatever the face expresses: forehead, temples, eye corners, ridge and foot of the
#: nose.
_STABLE = (10, 109, 338, 127, 356, 234, 454, 33, 133, 362, 263, 168, 6, 1, 2, 98, 327)
#: Number -> the most of it, as more is a mesh that went wrong, and its steps, as small differences are a person's own.
_NUMBERS = {
    "smile": (0.25, 0.05),
    "gap": (0.7, 0.1),
    "lids": (1.5, 0.5),
    "brows": (0.1, 0.05),
    "glance": (0.35, 0.05),
}
_LEAST_OPEN = 0.2  # height of closed eyes' openings, 1 at rest
_LEAST_SEEN = 0.03  # face heights


@dataclass(frozen=True)
class ExpressionParams:
    """Expression and gaze of a face as differences from a resting face, in coarse steps.

    Attributes:
        smile: `measures.FaceMeasures.smile`.
        gap: `measures.FaceMeasures.mouth_open`.
        lids: how far the eyes are open, 1 at rest.
        brows: how far they are raised, in face heights.
        glance: how far the irises stand to the right and below, in widths of an eye.
    """

    smile: float
    gap: float
    lids: float
    brows: float
    glance: tuple[float, float]


def fit_mean_face(mesh: np.ndarray) -> np.ndarray:
    """(478, 2) the mean face of the yaw that suits a mesh best, fitted to what no expression moves."""
    return _nearest(mesh)[1]


def mean_face_in_box(mesh: np.ndarray, *, frontal: bool) -> np.ndarray:
    """(478, 2) the mean face, frontal or of the yaw that suits a mesh best, of the mesh's width and height."""
    mean = mean_faces()[len(mean_faces()) // 2 if frontal else _nearest(mesh)[0]]
    low, high = mesh.min(0), mesh.max(0)
    return (mean - mean.min(0)) / np.ptp(mean, axis=0) * (high - low) + low


def estimate_expression(mesh: np.ndarray, rest: np.ndarray) -> ExpressionParams:
    """What a mesh expresses, as far as a few numbers tell.

    Args:
        mesh: (478, 2), in any pixels.
        rest: (478, 2), a resting face of the same pose.
    """
    found, still = measure(mesh), measure(rest)
    glance = np.mean([_glance(mesh, k) - _glance(rest, k) for k in _seen(mesh, rest)] or [(0.0, 0.0)], axis=0)
    return ExpressionParams(
        smile=_coarse("smile", found.smile),
        gap=_coarse("gap", found.mouth_open),
        lids=max(_LEAST_OPEN, _coarse("lids", found.eyes_open / max(still.eyes_open, 1e-3))),
        brows=_coarse("brows", _brows(mesh) - _brows(rest)),
        glance=(_coarse("glance", float(glance[0])), _coarse("glance", float(glance[1]))),
    )


def _coarse(name: str, value: float) -> float:
    most, step = _NUMBERS[name]
    return float(np.round(np.clip(value, -most, most) / step) * step)


def shape_mouth(mesh: np.ndarray, smile: float | None, gap: float | None) -> None:
    """Raise a mouth's corners and part its lips, in place, until `measures.measure` finds so much; None: as it is."""
    rows, corners = list(MOUTH), mesh[list(MOUTH_CORNERS)]
    axes, middle = frame(corners[1] - corners[0]), corners.mean(0)
    width = max(float(np.linalg.norm(corners[1] - corners[0])), 1e-6)
    local, found = (mesh[rows] - middle) @ axes.T, measure(mesh)
    side = np.clip(2 * local[:, 0] / width, -1, 1) ** 2  # 0 in the middle, 1 at the corners
    parted = 0.0 if gap is None else gap - found.mouth_open
    raised = (found.smile if smile is None else smile) - found.smile - parted / 2  # parted lips move the middle, too
    local[:, 1] += parted * width * (1 - side) * np.isin(rows, _LOWER_LIP) - raised * width * side
    mesh[rows] = local @ axes + middle


def shape_lids(mesh: np.ndarray, share: float) -> None:
    """Make the eyes' openings so much higher, in place."""
    for corners, eye in zip(EYE_CORNERS, MESH_EYES, strict=True):
        ends, rows = mesh[list(corners)], list(eye)
        axes, middle = frame(ends[1] - ends[0]), ends.mean(0)
        mesh[rows] = (mesh[rows] - middle) @ axes.T * (1.0, share) @ axes + middle


def raise_brows(mesh: np.ndarray, height: float) -> None:
    """Raise the brows by so many face heights, in place."""
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS, strict=True):
        down = frame(mesh[corners[1]] - mesh[corners[0]])[1]
        mesh[list(brow)] -= height * tallness(mesh) * down


def turn_eyes(mesh: np.ndarray, glance: tuple[float, float]) -> None:
    """Move the irises by so many widths of an eye, to the right and down, in place."""
    for corners, iris in zip(EYE_CORNERS, MESH_IRISES, strict=True):
        across = mesh[corners[1]] - mesh[corners[0]]
        mesh[list(iris)] += np.array(glance) @ frame(across) * np.linalg.norm(across)


def frame(across: np.ndarray) -> np.ndarray:
    """(2, 2) rows: the unit vectors along a direction and at a right angle to it, down the face."""
    x, y = across / max(float(np.linalg.norm(across)), 1e-6)
    return np.array([[x, y], [-y, x]])


def tallness(mesh: np.ndarray) -> float:
    """Distance from the forehead's top to the foot of the nose, which no expression moves, in the mesh's pixels."""
    return max(float(np.linalg.norm(mesh[_UNDER_NOSE] - mesh[_FOREHEAD])), 1e-6)


def _nearest(mesh: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of the mean face of the yaw that suits a mesh best, and that face fitted to the mesh."""
    stable = list(_STABLE)
    best, error = (len(mean_faces()) // 2, mesh), np.inf
    for index, mean in enumerate(mean_faces()):
        known = np.column_stack([mean[stable], np.ones(len(stable), np.float32)])
        matrix, *_ = np.linalg.lstsq(known, mesh[stable], rcond=None)
        off = float(np.linalg.norm(known @ matrix - mesh[stable], axis=1).mean())
        if off < error:
            best, error = (index, mean @ matrix[:2] + matrix[2]), off
    return best


def _seen(*meshes: np.ndarray) -> list[int]:
    """Which of the eyes no mesh hides."""
    return [k for k in range(2) if all(is_seen(mesh, EYE_CORNERS[k]) for mesh in meshes)]


def is_seen(mesh: np.ndarray, corners: tuple[int, int]) -> bool:
    """Whether what lies between two corners is turned to the camera: if they are 0.03 face heights apart."""
    return float(np.linalg.norm(mesh[corners[1]] - mesh[corners[0]])) >= _LEAST_SEEN * tallness(mesh)


def _glance(mesh: np.ndarray, eye: int) -> np.ndarray:
    """(2,) where an iris stands between the eye's corners, in widths of the eye."""
    start, end = mesh[list(EYE_CORNERS[eye])]
    middle = mesh[list(MESH_IRISES[eye])].mean(0) - (start + end) / 2
    return frame(end - start) @ middle / np.linalg.norm(end - start)


def _brows(mesh: np.ndarray) -> float:
    """Height of the brows above the eyes' corners, in face heights."""
    heights = []
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS, strict=True):
        ends = mesh[list(corners)]
        heights.append(-frame(ends[1] - ends[0])[1] @ (mesh[list(brow)].mean(0) - ends.mean(0)))
    return float(np.mean(heights)) / tallness(mesh)


_CLOSED = 0.16  # `measures.FaceMeasures.eyes_open` under which eyes are closed
_MOST_STRETCHED = 2.0
#: Word -> height of the mouth's corners and gap between the lips, both in mouth widths; None leaves it as it is.
_MOUTHS: Mapping[str, tuple[float | None, float | None]] = {
    "smiling": (0.15, None),
    "serious": (0.0, 0.0),
    "neutral": (0.06, 0.0),
    "mouth open": (None, 0.35),
    "teeth showing": (0.1, 0.2),
    "mouth closed": (None, 0.0),
}
_LIDS: Mapping[str, float] = {"eyes closed": 0.2, "eyes open": 1.0}  # word -> height of the opening, 1 at rest


def neutralize_mesh(
    mesh: np.ndarray,
    keep: Sequence[str],
    change: Mapping[str, str],
    privacy: float = 0.0,
) -> np.ndarray:
    """A mesh that shows of a face what is kept, and of the rest what the mean face shows.

    Args:
        mesh: (478, 2) float32 crop pixels of an aligned crop: the eyes are level.
        keep: of "pose", "gaze" and "expression" those that stay; other names do not matter. Without the pose, it is a
            frontal face in the same place; without the gaze, the irises rest in the middle; without the expression,
            mouth, brows and eyelids are at rest (with the gaze, closed eyes stay closed).
        change: "expression" or "gaze" -> one of its words in `vocabulary.VOCABULARY`; other names do not matter.
        privacy: how far it goes towards the mean face of the same yaw, width and height, 0 (not) to 1 (all the way).
            What is kept of gaze and expression is put on that in a few numbers (`resting_face.FewNumbers`).

    Returns:
        (478, 2) float32 crop pixels.
    """
    pose, gaze, expression = (name in keep for name in ("pose", "gaze", "expression"))
    made = mesh
    if not (pose and gaze and expression):
        made = _composed(mesh, pose, gaze, expression)
    if privacy:
        made = (1 - privacy) * made + privacy * _mesh_from_params(mesh, pose, gaze, expression)
    if not change.keys() & {"expression", "gaze"}:
        return made if made is mesh else made.astype(np.float32)
    made = made.astype(np.float32)
    if word := change.get("expression"):
        shape_mouth(made, *_MOUTHS[word])
    if word := change.get("gaze"):
        shape_lids(made, _LIDS[word])
    return made


def _composed(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """(478, 2) the mesh's own shapes of what is kept, on the mesh or, without the pose, on the frontal mean face."""
    rest = fit_mean_face(mesh) if pose else mean_face_in_box(mesh, frontal=True)
    target = mesh if pose else rest
    made, mouth = target.copy(), list(MOUTH)
    made[mouth] = shift_points(mesh, mouth, MOUTH_CORNERS, target, rest) if expression else rest[mouth]
    closed = gaze and measure(mesh).eyes_open < _CLOSED
    for corners, eye, brow, iris in zip(EYE_CORNERS, MESH_EYES, MESH_BROWS, MESH_IRISES, strict=True):
        for rows, stays in ((list(eye), expression or closed), (list(brow), expression), (list(iris), gaze)):
            made[rows] = shift_points(mesh if stays else rest, rows, corners, target, rest)
    return made


def _mesh_from_params(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """(478, 2) the mean face with what is kept of the mesh, as a few numbers tell it."""
    told, made = estimate_expression(mesh, fit_mean_face(mesh)), mean_face_in_box(mesh, frontal=not pose)
    if expression:
        shape_mouth(made, told.smile, told.gap)
        raise_brows(made, told.brows)
    if expression or (gaze and measure(mesh).eyes_open < _CLOSED):
        shape_lids(made, told.lids)
    if gaze:
        turn_eyes(made, told.glance)
    return made


def shift_points(
    source: np.ndarray, rows: list[int], corners: tuple[int, int], target: np.ndarray, rest: np.ndarray
) -> np.ndarray:
    """(K, 2) some points of one mesh, where they are on another between the same two corners.

    In a profile one eye is hidden, and its corners say nothing: there it is the resting face's, as it is.
    """
    if source is target:
        return target[rows]
    if not (is_seen(source, corners) and is_seen(target, corners)):
        return rest[rows]
    here, there = (mesh[corners[1]] - mesh[corners[0]] for mesh in (source, target))
    stretched = np.array([np.linalg.norm(there) / np.linalg.norm(here), tallness(target) / tallness(source)])
    scale = stretched.clip(1 / _MOST_STRETCHED, _MOST_STRETCHED)
    middles = [(mesh[corners[0]] + mesh[corners[1]]) / 2 for mesh in (source, target)]
    return (source[rows] - middles[0]) @ frame(here).T * scale @ frame(there) + middles[1]


_DOWN = 0.65  # of that, along the face: how high features sit tells the pitch of the head, too
_REACH = 0.12  # distance to the outline, in crop sides, from which a point goes all the way
_SMILE, _WIDEST = 1.4, 0.25  # how far smiles are overdone, as others' cheeks fold less, and the most of it
_SMILING, _OPEN = 0.12, 0.25  # `measures.FaceMeasures` from which the mouth stays as wide as it is
_AROUND_MOUTH = 0.09  # standard deviation, in crop sides, over which what is around it stays, too
_TURNED, _PROFILE = 0.5, 0.9  # `measures.FaceMeasures.yaw` over which less and less of the way is gone
_KEPT_IN_PROFILES = 0.6  # share of it: depth is measured badly, and noses become beaks
_SHUT, _NARROW = 0.13, 0.19  # `measures.FaceMeasures.eyes_open` of closed eyes, and of narrow ones that stay open
_IRIS_ACROSS, _IRIS_DOWN = 0.28, 0.12  # least distance of an iris to the corners, and most to their line, in eye widths
_MOST = 0.2  # length of the way, in crop sides


def reshape_mesh(
    mesh: np.ndarray, shape: np.ndarray, size: int, *, share: float = 1.0, own_eyes: bool = False
) -> np.ndarray:
    """Give a face another person's proportions; outline, pose, gaze and expression stay.

    Args:
        mesh: (478, 2) crop pixels.
        shape: (478, 3) frontal shape with depth, any units.
        size: of the crop, in pixels.
        share: of the way to the shape that points well inside the face go, less in profiles. The outline stays: it has
            to meet the photo, and recognisers hardly see it.
        own_eyes: whether lids and brows keep the shape's own form, as those behind glasses: frames must not bend.

    Returns:
        (478, 2) float32 crop pixels.
    """
    other = with_expression(mesh, project_shape(shape, mesh), eyes=not own_eyes)
    inner = _inner()[:, None]
    share *= 1 - _KEPT_IN_PROFILES * float(np.clip((abs(measure(mesh).yaw) - _TURNED) / (_PROFILE - _TURNED), 0, 1))
    step = share * inner * (other - mesh) * (1 - _stretched(mesh) * _around_mouth()[:, None])
    down = frame(mesh[EYE_CORNERS[1][1]] - mesh[EYE_CORNERS[0][0]])[1]
    step -= (1 - _DOWN) * (step @ down)[:, None] * down
    length = np.linalg.norm(step, axis=1, keepdims=True)
    step *= np.minimum(1, _MOST * inner * size / length.clip(1e-6))
    reshaped = (mesh + step).astype(np.float32)
    keep_irises_inside(reshaped)
    close_lids(reshaped)
    return reshaped


def close_lids(mesh: np.ndarray) -> None:
    """Bring the upper lids of eyes that are nearly closed down to the lower ones, in place.

    Landmarkers leave a gap between closed lids, through which another person's eyes would look.

    Args:
        mesh: (478, 2), in any pixels.
    """
    share = float(np.clip((measure(mesh).eyes_open - _SHUT) / (_NARROW - _SHUT), 0, 1))
    if share == 1:
        return
    for eye in MESH_EYES:
        half = len(eye) // 2
        upper, lower = list(eye[1:half]), list(eye[:half:-1])
        mesh[upper] = mesh[lower] + share * (mesh[upper] - mesh[lower])


def keep_irises_inside(mesh: np.ndarray) -> None:
    """Move irises that lie in or past a corner of the eye back into its opening, in place; such eyes would be white.

    In profiles the landmarker does not know where they are.

    Args:
        mesh: (478, 2), in any pixels.
    """
    for corners, iris in zip(EYE_CORNERS, MESH_IRISES, strict=True):
        rows, start, across = list(iris), mesh[corners[0]], mesh[corners[1]] - mesh[corners[0]]
        width = max(float(np.linalg.norm(across)), 1e-6)
        place = (mesh[rows].mean(0) - start) @ frame(across).T / width
        inside = place.clip((_IRIS_ACROSS, -_IRIS_DOWN), (1 - _IRIS_ACROSS, _IRIS_DOWN))
        mesh[rows] += (inside - place) * width @ frame(across)


def project_shape(shape: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Project a shape with depth into a mesh's pose by the scaled orthographic camera that fits best.

    Args:
        shape: (478, 3).
        mesh: (478, 2) pixels.

    Returns:
        (478, 2) pixels.
    """
    rows = _rigid_points()
    known, seen = shape[rows] - shape[rows].mean(0), mesh[rows] - mesh[rows].mean(0)
    affine, *_ = np.linalg.lstsq(known, seen, rcond=None)
    u, sizes, vt = np.linalg.svd(affine.T, full_matrices=False)  # the nearest rotation times a scale
    camera = sizes.mean() * u @ vt
    return (shape - shape[rows].mean(0)) @ camera.T + mesh[rows].mean(0)


def with_expression(mesh: np.ndarray, target: np.ndarray, *, eyes: bool = True) -> np.ndarray:
    """Put a mesh's mouth, gaze and, with ``eyes``, lids and brows between the corners of another's mouth and eyes.

    Smiles are widened.
    """
    posed = target.copy()
    groups = [(list(MOUTH), MOUTH_CORNERS)]
    for corners, *points in zip(EYE_CORNERS, MESH_EYES, MESH_IRISES, strict=True):
        groups += [(list(rows), corners) for rows in points[0 if eyes else 1 :]]
    for rows, corners in groups:
        posed[rows] = shift_points(mesh, rows, corners, target, target)
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS if eyes else ((), ()), strict=True):
        rows = list(brow)  # half the other person's: raised brows are expression, their place is not
        posed[rows] = (shift_points(mesh, rows, corners, target, target) + target[rows]) / 2
    smile = measure(mesh).smile
    if smile > 0 and is_seen(mesh, MOUTH_CORNERS) and is_seen(posed, MOUTH_CORNERS):
        shape_mouth(posed, min(_SMILE * smile, max(smile, _WIDEST)), None)
    return posed


def _stretched(mesh: np.ndarray) -> float:
    """Return how far, 0 to 1, a mouth is drawn wide or open: between a resting mouth's corners it would be round."""
    shown = measure(mesh)
    return float(np.clip(max(shown.smile / _SMILING, shown.mouth_open / _OPEN), 0, 1))


@cache
def _around_mouth() -> np.ndarray:
    """Return (478,) weights: 1 on the mouth, falling to 0 with the distance to it."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MOUTH)], axis=2).min(1)
    return np.exp(-0.5 * (distance / _AROUND_MOUTH) ** 2)


@cache
def _rigid_points() -> np.ndarray:
    """Points that expressions move little: neither lips, eyes, irises nor chin."""
    moving = {*MOUTH, *(p for group in (*MESH_EYES, *MESH_IRISES, *MESH_BROWS) for p in group)}
    mean = mean_mesh(1)
    return np.array([k for k in range(468) if k not in moving and mean[k, 1] < mean[17, 1]])


@cache
def _inner() -> np.ndarray:
    """(478,) 0 on the outline to 1 well inside it."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MESH_OVAL)], axis=2).min(1)
    inner = (distance / _REACH).clip(0, 1)
    return inner * inner * (3 - 2 * inner)
