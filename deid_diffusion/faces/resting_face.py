"""The mean face in a face's place, and its features shaped by a few numbers: a mouth, eyelids, brows and a glance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_LIPS, MESH_MOUTH
from .measures import measure
from .semantic_map import mean_faces

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
class FewNumbers:
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


def fitted_face(mesh: np.ndarray) -> np.ndarray:
    """(478, 2) the mean face of the yaw that suits a mesh best, fitted to what no expression moves."""
    return _nearest(mesh)[1]


def boxed_face(mesh: np.ndarray, *, frontal: bool) -> np.ndarray:
    """(478, 2) the mean face, frontal or of the yaw that suits a mesh best, of the mesh's width and height."""
    mean = mean_faces()[len(mean_faces()) // 2 if frontal else _nearest(mesh)[0]]
    low, high = mesh.min(0), mesh.max(0)
    return (mean - mean.min(0)) / np.ptp(mean, axis=0) * (high - low) + low


def few_numbers(mesh: np.ndarray, rest: np.ndarray) -> FewNumbers:
    """What a mesh expresses, as far as a few numbers tell.

    Args:
        mesh: (478, 2), in any pixels.
        rest: (478, 2), a resting face of the same pose.
    """
    found, still = measure(mesh), measure(rest)
    glance = np.mean([_glance(mesh, k) - _glance(rest, k) for k in _seen(mesh, rest)] or [(0.0, 0.0)], axis=0)
    return FewNumbers(
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
