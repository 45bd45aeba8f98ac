"""MediaPipe's short-range face detector (BlazeFace): fast, for faces that fill a good part of the picture.

Source: Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs" (2019). The model ships in
the `mediapipe` package up to 0.10.21 (Apache-2.0). The full-range model finds fewer faces and is not used.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from deid_diffusion.faces.detected_face import DetectedFace, check_image
from deid_diffusion.faces.quiet import quiet_stderr
from deid_diffusion.requirements import MEDIAPIPE, needed_for

if TYPE_CHECKING:
    from mediapipe.python.solutions.face_detection import FaceDetection

MOUTH_HALF_WIDTH = 0.415  # of the distance between the eyes: the ratio in ArcFace's five-point template


class MediapipeDetector:
    """MediaPipe's short-range detector on the CPU, safe to call from several threads.

    Args:
        threshold: lowest score of a face, 0.5 to 1; the graph itself drops what is below 0.5, whatever it is told.
    """

    def __init__(self, threshold: float = 0.6) -> None:
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        """Faces in `image`, (H, W, 3) uint8 RGB. Raises ValueError for another array.

        The model gives the centre of the mouth only: the corners are placed beside it, along the eyes' axis.
        """
        check_image(image)
        graph, lock = _graph()
        with lock:
            detections = graph.process(np.ascontiguousarray(image)).detections
        size = np.array([image.shape[1], image.shape[0]])
        faces: list[DetectedFace] = []
        for detection in detections or ():
            frame = detection.location_data.relative_bounding_box
            corners = np.array([[frame.xmin, frame.ymin], [frame.xmin + frame.width, frame.ymin + frame.height]])
            (x0, y0), (x1, y1) = (np.clip(corners, 0, 1) * size).tolist()
            if detection.score[0] < self.threshold or x1 <= x0 or y1 <= y0:
                continue
            keypoints = [(point.x, point.y) for point in detection.location_data.relative_keypoints]
            right_eye, left_eye, nose, mouth = np.array(keypoints[:4]) * size
            corner = (left_eye - right_eye) * MOUTH_HALF_WIDTH
            points = np.array([right_eye, left_eye, nose, mouth - corner, mouth + corner], dtype=np.float32)
            faces.append(DetectedFace((x0, y0, x1, y1), min(1.0, detection.score[0]), "mediapipe", points))
        return faces


@cache
def _graph() -> tuple[FaceDetection, Lock]:
    """The running graph, started once per process, and the lock that keeps it to one caller at a time."""
    with needed_for("face detection", MEDIAPIPE), quiet_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        graph = FaceDetection(model_selection=0)
        graph.process(np.zeros((128, 128, 3), np.uint8))
    return graph, Lock()
