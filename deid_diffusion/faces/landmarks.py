"""MediaPipe's 478-point face mesh, named groups of its points, and pose and expression measures.

Point numbers are those of MediaPipe Face Mesh with refined irises (Kartynnik et al., "Real-time Facial Surface Geometry
from Monocular Video on Mobile GPUs", 2019; Ablavatski et al., "Real-time Pupil Tracking", 2020).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, Protocol

import numpy as np

from ..errors import MEDIAPIPE, needed_for


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to the null device within the context.

    MediaPipe's graphs log from C++ on their start and first run, before any log level is read (GLOG_minloglevel and
    TF_CPP_MIN_LOG_LEVEL have no effect), and TensorFlow Lite has no log level. Other threads' error output is lost
    meanwhile.
    """
    try:
        saved = os.dup(2)
    except OSError:  # the process has no error stream
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


@dataclass(frozen=True)
class FaceMeasures:
    """Ratios of lengths on a mesh, invariant to scale and roll.

    Attributes:
        smile: height of the mouth's corners above its middle, in mouth widths; about 0 at rest, 0.15 in a smile.
        mouth_open: gap between the lips, in mouth widths; 0 when closed.
        eyes_open: height of the eyes' opening over their width; about 0.1 when closed, 0.3 at rest.
        yaw: -1 (subject looks to the picture's left) to 1 (right); 0 is frontal.
        pitch: position of the nose tip between eyes (0) and mouth (1); about 0.6 when level, less when looking up.
    """

    smile: float
    mouth_open: float
    eyes_open: float
    yaw: float
    pitch: float


def measure(mesh: np.ndarray) -> FaceMeasures:
    """Measure a (478, 2) mesh, in pixels of any scale."""
    eyes = mesh[263] - mesh[33]
    across = eyes / max(float(np.linalg.norm(eyes)), 1e-6)
    down = np.array([-across[1], across[0]])
    x, y = mesh @ across, mesh @ down
    width = max(float(x[291] - x[61]), 1e-6)
    openings = [
        (y[145] - y[159]) / max(float(x[133] - x[33]), 1e-6),
        (y[374] - y[386]) / max(float(x[263] - x[362]), 1e-6),
    ]
    eye_line, mouth_line = (y[33] + y[263]) / 2, (y[13] + y[14]) / 2
    return FaceMeasures(
        smile=float(((y[13] + y[14]) / 2 - (y[61] + y[291]) / 2) / width),
        mouth_open=max(0.0, float((y[14] - y[13]) / width)),
        eyes_open=float(max(openings)),  # in a profile the far eye is hidden
        yaw=float(np.clip(2 * (x[1] - x[234]) / max(float(x[454] - x[234]), 1e-6) - 1, -1, 1)),
        pitch=float((y[1] - eye_line) / max(float(mouth_line - eye_line), 1e-6)),
    )


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
MESH_NOSE = (193, 168, 417, 351, 420, 279, 358, 327, 326, 2, 97, 98, 129, 49, 198, 122)  # to be filled by its hull
_NOSE_TIP, _MOUTH_CORNERS = 1, (61, 291)


def five_points(mesh: np.ndarray) -> np.ndarray:
    """Return (5, 2) right eye, left eye, nose tip, right and left mouth corner of a (478, 2) mesh."""
    eyes = [mesh[list(eye)].mean(0) for eye in MESH_EYES]
    return np.stack([*eyes, mesh[_NOSE_TIP], *mesh[list(_MOUTH_CORNERS)]]).astype(np.float32)


class Landmarker(Protocol):
    """Callable that returns the mesh of the face at a crop's centre."""

    def __call__(self, crop: np.ndarray) -> np.ndarray | None:
        """Return (478, 2) float32 crop pixels for (S, S, 3) uint8 RGB, or None without a mesh."""
        ...


class FaceMesh:
    """Thread-safe MediaPipe face mesh; the model ships in the mediapipe wheel."""

    def __init__(self) -> None:
        self._initialized = False
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
        # the face meant is at the centre; neighbours often score higher
        mesh = min(meshes, key=lambda points: float(np.linalg.norm((points.min(0) + points.max(0)) / 2 - centre)))
        return mesh if np.isfinite(mesh).all() else None

    def meshes(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return (478, 2) float32 meshes, in pixels, of up to four faces in (H, W, 3) uint8 RGB."""
        return [solid[:, :2] for solid in self.meshes_3d(picture)]

    def low_score_meshes(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return meshes as `meshes` does, at low thresholds: profiles are included, and so are false meshes."""
        return [solid[:, :2] for solid in self._solids(picture, lenient=True)]

    def meshes_3d(self, picture: np.ndarray) -> list[np.ndarray]:
        """Return (478, 3) float32 meshes as `meshes` does, with depth: z, away from the camera, in pixels."""
        return self._solids(picture, lenient=False)

    def _solids(self, picture: np.ndarray, *, lenient: bool) -> list[np.ndarray]:
        with self._lock:
            graph = self._lenient_graph if lenient else self._graph
            with nullcontext() if self._initialized else quiet_stderr():  # it logs until the first face
                faces = graph.process(np.ascontiguousarray(picture)).multi_face_landmarks
            if not faces:
                return []
            self._initialized = True
        size = np.array([picture.shape[1], picture.shape[0], picture.shape[1]], np.float32)
        return [np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * size for face in faces]


def _graph(detection: float, presence: float) -> Any:
    """Build MediaPipe's graph with thresholds, 0 to 1, on the scores of its face detector and its mesh."""
    with needed_for("the face mesh", MEDIAPIPE), quiet_stderr():
        from mediapipe.python.solutions.face_mesh import FaceMesh as Graph

        return Graph(
            static_image_mode=True,
            max_num_faces=4,
            refine_landmarks=True,
            min_detection_confidence=detection,
            min_tracking_confidence=presence,
        )
