"""The 478-point face mesh of one face, and the groups of its points that the rest of the house uses.

Point numbers are those of MediaPipe Face Mesh with refined irises (Kartynnik et al., "Real-time Facial Surface Geometry
from Monocular Video on Mobile GPUs", 2019; Ablavatski et al., "Real-time Pupil Tracking", 2020).
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ..requirements import MEDIAPIPE, needed_for
from .quiet import quiet_stderr

# Closed outlines, in order. Right is the subject's right, the left side of the picture.
MESH_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
MESH_EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
MESH_BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
MESH_IRISES = ((469, 470, 471, 472), (474, 475, 476, 477))
MESH_LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
MESH_MOUTH = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
MESH_NOSE = (193, 168, 417, 351, 420, 279, 358, 327, 326, 2, 97, 98, 129, 49, 198, 122)  # its convex hull is the nose
_NOSE_TIP, _MOUTH_CORNERS = 1, (61, 291)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """(5, 2) right eye, left eye, nose tip, right and left mouth corner of a (478, 2) mesh."""
    eyes = [mesh[list(eye)].mean(0) for eye in MESH_EYES]
    return np.stack([*eyes, mesh[_NOSE_TIP], *mesh[list(_MOUTH_CORNERS)]]).astype(np.float32)


class Landmarker(Protocol):
    """Finds the mesh of the one face that a crop is centred on."""

    def __call__(self, crop: np.ndarray) -> np.ndarray | None:
        """(S, S, 3) uint8 RGB -> (478, 2) float32 crop pixels, or None when there is no mesh to be had."""
        ...


class FaceMesh:
    """MediaPipe's face mesh, safe to call from several threads; the model ships inside the mediapipe wheel."""

    def __init__(self) -> None:
        self._spoken = False
        self._lock = Lock()

    @cached_property
    def _graph(self) -> Any:
        return _graph(detection=0.3, presence=0.5)

    @cached_property
    def _lenient_graph(self) -> Any:
        return _graph(detection=0.05, presence=0.05)

    def __call__(self, crop: np.ndarray) -> np.ndarray | None:
        centre = np.array([crop.shape[1], crop.shape[0]], np.float32) / 2
        meshes = self.meshes(crop)
        if not meshes:
            return None
        # neighbours are often sharper than the face that is meant, which is the one in the middle
        mesh = min(meshes, key=lambda one: float(np.linalg.norm((one.min(0) + one.max(0)) / 2 - centre)))
        return mesh if np.isfinite(mesh).all() else None

    def meshes(self, picture: np.ndarray) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB -> the (478, 2) float32 mesh, in pixels, of each of the up to four faces in it."""
        return [solid[:, :2] for solid in self.solids(picture)]

    def doubtful(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return meshes with low scores, too, as of profiles; many of them fit no face. As `meshes`."""
        return [solid[:, :2] for solid in self._solids(picture, lenient=True)]

    def solids(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return (478, 3) float32 meshes with depth: x, y and z, away from the camera, in pixels; as `meshes`."""
        return self._solids(picture, lenient=False)

    def _solids(self, picture: np.ndarray, *, lenient: bool) -> list[np.ndarray]:
        with self._lock:
            graph = self._lenient_graph if lenient else self._graph
            with nullcontext() if self._spoken else quiet_stderr():  # it logs until it has seen its first face
                found = graph.process(np.ascontiguousarray(picture)).multi_face_landmarks
            if not found:
                return []
            self._spoken = True
        size = np.array([picture.shape[1], picture.shape[0], picture.shape[1]], np.float32)
        return [np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * size for face in found]


def _graph(detection: float, presence: float) -> Any:
    """Build MediaPipe's graph with thresholds, 0 to 1, of its face detector and of the mesh's own score."""
    with needed_for("the face mesh", MEDIAPIPE), quiet_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh as Graph

        return Graph(
            static_image_mode=True,
            max_num_faces=4,
            refine_landmarks=True,
            min_detection_confidence=detection,
            min_tracking_confidence=presence,
        )
