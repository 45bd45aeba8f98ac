"""New faces from anywhere go into the photos as the library's own do: judged first, and else covered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from PIL import Image

from ..anonymizer import AnonymizedImage
from ..errors import UsageError
from ..faces.analysis import FaceAnalysis
from ..faces.blend import Canvas, erase, match_rim
from ..faces.crop import extract
from ..faces.detected_face import FaceDetector
from ..identity.verify import Gate, Verdict, Verifier
from ..report import FaceRecord
from ..second_look import missed_faces
from .found_faces import FaceCrops, shared_landmarker


@cache
def shared_gate() -> Gate:
    """The library's gate, loaded once."""
    return Gate()


def stitch(crops: FaceCrops, made: torch.Tensor, gate: Verifier, detector: FaceDetector) -> list[AnonymizedImage]:
    """Put new faces in the places of the old ones.

    A face that the gate refuses, that cannot be judged or that is no picture stays covered, and the
    finished pictures are searched once more. No path leaves an original face.

    Args:
        crops: where the N faces were cut from.
        made: (N, S', S', 3) in 0..1, in the crops' order; of any size. Not read where there are no faces.
        gate: judges each face in the finished picture.
        detector: takes the second look.

    Raises:
        UsageError: when there are not as many new faces, or they are not square.
    """
    square = made.ndim == 4 and made.shape[1] == made.shape[2] and made.shape[3] == 3
    if crops.faces and (len(made) != len(crops.faces) or not square):
        raise UsageError(
            f"image: expected {len(crops.faces)} square face crops, one a face, got a batch of {tuple(made.shape)}: "
            "connect what was made of Crop Faces' images, all of them and in order"
        )
    pictures = [_picture(one) for one in made[: len(crops.faces)]]
    results = []
    for k, photo in enumerate(crops.photos):
        mine = [picture for (owner, _), picture in zip(crops.faces, pictures, strict=True) if owner == k]
        results.append(_stitch_one(photo, crops.gone[k], crops.of(k), mine, gate, detector))
    return results


def _stitch_one(
    photo: np.ndarray,
    gone: np.ndarray,
    faces: Sequence[FaceAnalysis],
    pictures: Sequence[np.ndarray | None],
    gate: Verifier,
    detector: FaceDetector,
) -> AnonymizedImage:
    canvas = Canvas(photo, [face.mask for face in faces])
    records = []
    for k, (face, picture) in enumerate(zip(faces, pictures, strict=True)):
        try:
            verdict = _place(canvas, k, photo, gone, face, picture, gate)
        except Exception as error:  # whatever it was, the face is covered and the record says why
            verdict = Verdict(None, f"stitching failed: {type(error).__name__}")
        if verdict.reason is not None:
            canvas.cover(k)
        records.append(_record(face, verdict))
    landmarker = shared_landmarker()
    records += missed_faces(detector, canvas, gone, [], landmarker=landmarker, min_face=0, only=None)
    return AnonymizedImage(Image.fromarray(canvas.pixels), tuple(records))


def _place(
    canvas: Canvas,
    k: int,
    photo: np.ndarray,
    gone: np.ndarray,
    face: FaceAnalysis,
    picture: np.ndarray | None,
    gate: Verifier,
) -> Verdict:
    """Paste one new face if the gate lets it pass."""
    if picture is None:
        return Verdict(None, "generation gave no picture")
    size, matrix = len(picture), _resized(face, len(picture))
    context = extract(erase(photo, gone), matrix, size)
    crop = match_rim(picture, context, extract(gone.astype(np.float32), matrix, size) > 1e-3)
    original = gate.look(photo, face)
    with canvas.trial(k, crop, matrix) as finished:
        verdict = gate.judge(finished, face, original)
    if verdict.reason is None and not verdict.seen:
        return replace(verdict, reason="no face can be found in the result")
    if verdict.reason is None and verdict.similarity is None:  # nobody knows where the picture came from
        return Verdict(None, "cannot be compared with the original")
    if verdict.reason is None:
        canvas.paste(k, crop, matrix)
    return verdict


def _picture(made: torch.Tensor) -> np.ndarray | None:
    """(S, S, 3) uint8; None for what holds values that are no numbers."""
    if not torch.isfinite(made).all():
        return None
    return (made.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def _resized(face: FaceAnalysis, size: int) -> np.ndarray:
    """The face's (2, 3) crop matrix for a crop of another size."""
    scale = size / len(face.semantic_map)
    half = (scale - 1) / 2  # pixel centres
    return np.column_stack([face.matrix[:, :2] * scale, face.matrix[:, 2] * scale + half]).astype(np.float32)


def _record(face: FaceAnalysis, verdict: Verdict) -> FaceRecord:
    finite = verdict.similarity is not None and np.isfinite(verdict.similarity)
    return FaceRecord(
        box=face.face.box,
        detector=face.face.detector,
        score=face.face.score,
        action="replaced" if verdict.reason is None else "covered",
        seed=None,
        mesh=face.mesh is not None,
        reason=verdict.reason,
        similarity=verdict.similarity if finite else None,
        attempts=1,
    )
