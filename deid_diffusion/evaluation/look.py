"""Everything that is measured on one photo and its result, before any of it is averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..faces.detected_face import DetectedFace, FaceDetector
from ..faces.landmarks import Landmarker, five_points
from ..identity.recognition import Recogniser
from .changes import Box, Outside, left_as_it_was, outside_faces, rim_step, sharpness, ssim
from .mesh_errors import FaceState, MeshErrors, face_state, mesh_errors
from .onnx_judges import AttributeReader, Reading, face_square
from .pairing import Pair
from .perceptual import FACE_SIDE, PerceptualMeter
from .same_place import embed, face_mesh, largest, nearest

_MARGIN = 1.3  # side of the crop that quality is judged on, in sides of the face's box
_QUALITY_SIDE = 128  # pixels of that crop
_SHOWN_MARGIN, _SHOWN_SIDE = 1.9, 160  # of the crops on the contact sheet


@dataclass(frozen=True)
class Judges:
    """Who looks. None of them should have had a part in making the results.

    Attributes:
        detector: finds faces, in originals and results.
        landmarker: fits meshes.
        recognisers: one or more attackers.
        reader: of age and sex; None for nobody.
        meter: of perceptual distances.
    """

    detector: FaceDetector
    landmarker: Landmarker
    recognisers: tuple[Recogniser, ...]
    reader: AttributeReader | None
    meter: PerceptualMeter


@dataclass(frozen=True, eq=False)
class FaceLook:
    """The largest face of an original, and what stands in its place.

    Attributes:
        left: it is still the original face.
        embeddings: of each recogniser: original's and result's, (D,) each. A result in which no face is found is read
            at the original's points, as an attacker would who knows the place. None where there are no points.
        before: what the original's mesh says, or None without one.
        after: likewise of the result; None also where no face is found there.
        errors: of the two meshes; None without both.
        readings: of original and result; None without a reader, and for a face that is not found in the result.
        found: whether a face is found in the result, in the original's place.
        sharpness_ratio: of result and original; None if not found, or if the original is flat.
        score_ratio: of the detector's scores; None if not found.
        ssim: structural similarity of the crops; None if not found.
        lpips: None likewise, or where it cannot be had.
        shown: (S, S, 3) uint8 RGB crops of both for a contact sheet, or None.
    """

    left: bool
    embeddings: tuple[tuple[np.ndarray | None, np.ndarray | None], ...]
    before: FaceState | None
    after: FaceState | None
    errors: MeshErrors | None
    readings: tuple[Reading, Reading] | None
    found: bool
    sharpness_ratio: float | None
    score_ratio: float | None
    ssim: float | None
    lpips: float | None
    shown: tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class PhotoLook:
    """One photo and its result.

    Attributes:
        pair: which.
        faces: found in the original.
        left: of them, still there as they were.
        resized: the result has another size, and was scaled to the original's to be compared.
        outside: how it differs outside all faces.
        rim: step at the rim of what was changed; None without a rim.
        face: the largest; None where no face was found in the original.
    """

    pair: Pair
    faces: int
    left: int
    resized: bool
    outside: Outside
    rim: float | None
    face: FaceLook | None


def look(
    pair: Pair,
    photo: np.ndarray,
    result: np.ndarray,
    judges: Judges,
    *,
    more_boxes: Sequence[Box] = (),
    keep_pictures: bool = False,
) -> PhotoLook:
    """Measure one photo and its result.

    Args:
        pair: which they are.
        photo: (H, W, 3) uint8 RGB.
        result: (h, w, 3) uint8 RGB.
        judges: who looks.
        more_boxes: x0, y0, x1, y1 in photo pixels of further faces that were changed, by the record of who did it.
        keep_pictures: keep crops for a contact sheet.
    """
    resized = result.shape != photo.shape
    if resized:
        result = cv2.resize(result, (photo.shape[1], photo.shape[0]), interpolation=cv2.INTER_AREA)
    before, after = judges.detector(photo), judges.detector(result)
    there = [nearest(after, np.array(face.box)) for face in before]
    left = [left_as_it_was(photo, result, face.box) for face in before]
    main = largest(before)
    face = None
    if main is not None:
        place = next(k for k, one in enumerate(before) if one is main)
        face = _look_at(photo, result, main, there[place], left[place], judges, keep_pictures)
    return PhotoLook(
        pair=pair,
        faces=len(before),
        left=sum(left),
        resized=resized,
        outside=outside_faces(photo, result, [*(one.box for one in before), *more_boxes]),
        rim=rim_step(photo, result),
        face=face,
    )


def _look_at(
    photo: np.ndarray,
    result: np.ndarray,
    face: DetectedFace,
    after: DetectedFace | None,
    left: bool,
    judges: Judges,
    keep_pictures: bool,
) -> FaceLook:
    """The largest face of a photo, and the face in its place in the result if there is one."""
    mesh = face_mesh(photo, face, judges.landmarker)
    mesh_after = None if after is None else face_mesh(result, after, judges.landmarker)
    points = face.points if mesh is None else five_points(mesh)
    points_after = points if after is None else after.points if mesh_after is None else five_points(mesh_after)
    crops = [face_square(image, face.box, _MARGIN, _QUALITY_SIDE) for image in (photo, result)]
    sharp = sharpness(crops[0])
    readings = lpips = None
    if after is not None:
        large = [face_square(image, face.box, _MARGIN, FACE_SIDE) for image in (photo, result)]
        lpips = judges.meter.add(large[0], large[1])
        if judges.reader is not None:
            readings = judges.reader(photo, face.box), judges.reader(result, face.box)
    shown = [face_square(image, face.box, _SHOWN_MARGIN, _SHOWN_SIDE) for image in (photo, result)]
    return FaceLook(
        left=left,
        embeddings=tuple((embed(photo, points, one), embed(result, points_after, one)) for one in judges.recognisers),
        before=None if mesh is None else face_state(mesh),
        after=None if mesh_after is None else face_state(mesh_after),
        errors=None if mesh is None or mesh_after is None else mesh_errors(mesh, mesh_after),
        readings=readings,
        found=after is not None,
        sharpness_ratio=None if after is None or sharp < 1 else sharpness(crops[1]) / sharp,
        score_ratio=None if after is None else after.score / max(face.score, 1e-6),
        ssim=None if after is None else ssim(crops[0], crops[1]),
        lpips=lpips,
        shown=(shown[0], shown[1]) if keep_pictures else None,
    )
