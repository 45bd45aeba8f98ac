"""New faces from anywhere go into the photos as the library's own do: judged first, and else covered."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
import torch
from PIL import Image

from ..anonymizer import AnonymizedImage
from ..errors import UsageError
from ..faces.alignment import extract
from ..faces.analysis import FaceAnalysis, analyse_face
from ..faces.boxes import Detection, FaceDetector
from ..faces.compositing import FILL, Canvas, erase, match_boundary_colour
from ..faces.detection import EnsembleDetector
from ..faces.donors import draw_donors
from ..faces.landmarks import FaceMesh, measure
from ..faces.masks import union_mask
from ..faces.mesh_editing import reshape_mesh
from ..faces.residual_scan import cover_residual_faces
from ..faces.semantic_map import draw_control, draw_semantic_map, map_in_photo
from ..identity.verification import FaceVerifier, VerificationResult, Verifier
from ..models.identity_model import IdentityModel
from ..pipelines.loading import BUILTIN
from ..results import FaceRecord

Proportions = Literal["another person's", "the photo's"]
"""Whose eyes, brows, nose and mouth a map shows. The photo's own tell who somebody is."""

_MAP_SIZE = 512  # side of the crops that maps of whole photos are drawn in, in pixels


@cache
def shared_detector() -> EnsembleDetector:
    """The library's detector, loaded once."""
    return EnsembleDetector()


@cache
def shared_landmarker() -> FaceMesh:
    """The library's face mesh, loaded once."""
    return FaceMesh()


@dataclass(frozen=True, eq=False)
class DetectedFaces:
    """The faces of a batch of photos.

    Attributes:
        faces: of each photo, in the detector's order.
        shape: (height, width) of the photos.
    """

    faces: tuple[tuple[FaceAnalysis, ...], ...]
    shape: tuple[int, int]

    def of(self, photos: Sequence[np.ndarray]) -> tuple[tuple[FaceAnalysis, ...], ...]:
        """The faces, if these can be the photos that they were found in.

        Raises:
            UsageError: for another number or size of photos.
        """
        if len(photos) != len(self.faces) or photos[0].shape[:2] != self.shape:
            height, width = photos[0].shape[:2]
            raise UsageError(
                f"faces: found in {len(self.faces)} pictures of {self.shape[1]} x {self.shape[0]}, but the image is a "
                f"batch of {len(photos)} of {width} x {height}: connect the image that Detect Faces got"
            )
        return self.faces

    def boxes(self, photos: Sequence[np.ndarray]) -> list[list[Detection]]:
        """What the detector said, of each photo. Raises UsageError as `of`."""
        return [[face.face for face in faces] for faces in self.of(photos)]


def find_faces(photos: Sequence[np.ndarray]) -> DetectedFaces:
    """Detect and measure the faces of B photos, (H, W, 3) uint8 of one size."""
    detector, landmarker = shared_detector(), shared_landmarker()
    found = (tuple(analyse_face(photo, one, landmarker, _MAP_SIZE) for one in detector(photo)) for photo in photos)
    return DetectedFaces(tuple(found), (photos[0].shape[0], photos[0].shape[1]))


def drawn_mesh(face: FaceAnalysis, proportions: Proportions, seed: int | None) -> np.ndarray:
    """(478, 2) crop pixels, from which a face's map is drawn.

    Args:
        face: the face.
        proportions: whose.
        seed: draws another person's; None is fresh randomness.
    """
    if proportions == "the photo's":
        return face.drawn
    model, own = _people(), secrets.randbits(63) if seed is None else seed
    donors = draw_donors(model, np.zeros(len(model)), measure(face.drawn), own, glasses=False, steady=True)
    return reshape_mesh(face.drawn, model.shape(donors), len(face.semantic_map), share=donors.emphasis / 100)


@cache
def _people() -> IdentityModel:
    """The embedded identity model."""
    return IdentityModel.from_pretrained(BUILTIN / "identity_model")


def photo_map(
    faces: Sequence[FaceAnalysis], shape: tuple[int, int], proportions: Proportions, seed: int | None
) -> np.ndarray:
    """(height, width) uint8 labels of all faces of a photo, in their places; 0 where there is none.

    Args:
        faces: of the photo.
        shape: (height, width).
        proportions, seed: as in `drawn_mesh`; the k-th face takes the seed k places on.
    """
    labels = np.zeros(shape, np.uint8)
    for k, face in enumerate(faces):
        mesh = drawn_mesh(face, proportions, None if seed is None else seed + k)
        drawn = map_in_photo(draw_semantic_map(mesh, len(face.semantic_map)), face.matrix, shape)
        labels = np.where(drawn > 0, drawn, labels)
    return labels


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """The aligned face crops of a batch of photos, and what is needed to put others in their place.

    Attributes:
        photos: B of them, (H, W, 3) uint8.
        faces: N pairs of a photo's index and a face of it, in order; their maps are S pixels wide.
        size: S.
    """

    photos: tuple[np.ndarray, ...]
    faces: tuple[tuple[int, FaceAnalysis], ...]
    size: int

    @cached_property
    def gone(self) -> list[np.ndarray]:
        """(H, W) bool of each photo: every pixel that the mask of any face touches."""
        return [union_mask(self._shape, [face.mask for face in self.of(k)]) for k in range(len(self.photos))]

    def of(self, photo: int) -> list[FaceAnalysis]:
        """The faces of one photo."""
        return [face for k, face in self.faces if k == photo]

    def originals(self) -> list[np.ndarray]:
        """N crops, (S, S, 3) uint8, with the faces still in them."""
        return [extract(self.photos[k], face.matrix, self.size) for k, face in self.faces]

    def erased(self) -> list[np.ndarray]:
        """N crops, (S, S, 3) uint8, every masked pixel of every face grey; all that a generator may see."""
        grey = [erase(photo, gone) for photo, gone in zip(self.photos, self.gone, strict=True)]
        return [extract(grey[k], face.matrix, self.size) for k, face in self.faces]

    def masks(self) -> list[np.ndarray]:
        """N masks, (S, S) bool, True where a crop is erased."""
        return [extract(self.gone[k].astype(np.float32), face.matrix, self.size) > 1e-3 for k, face in self.faces]

    def control_images(self, kind: str, proportions: Proportions, seed: int | None) -> list[np.ndarray]:
        """N control images, (S, S, 3) uint8.

        Args:
            kind: of `faces.controls.CONTROLS`.
            proportions: whose eyes, brows, nose and mouth they show.
            seed: draws another person's; the k-th face takes the seed k places on.
                None is fresh randomness.
        """
        drawn = []
        for k, (_, face) in enumerate(self.faces):
            own = secrets.randbits(63) if seed is None else seed + k
            drawn.append(draw_control(drawn_mesh(face, proportions, own), self.size, kind))
        return drawn

    def blank(self) -> np.ndarray:
        """(S, S, 3) uint8, grey: what stands for the crops of photos without faces, since no batch may be empty."""
        return np.full((self.size, self.size, 3), FILL, np.uint8)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.photos[0].shape[0], self.photos[0].shape[1]


def crop_faces(photos: Sequence[np.ndarray], found: DetectedFaces, size: int) -> FaceCrops:
    """The crops of the found faces, S x S pixels each. Raises UsageError when they are of other photos."""
    landmarker = shared_landmarker()
    faces = [
        (k, analyse_face(photos[k], one, landmarker, size))
        for k, boxes in enumerate(found.boxes(photos))
        for one in boxes
    ]
    return FaceCrops(tuple(photos), tuple(faces), size)


@cache
def shared_verifier() -> FaceVerifier:
    """The library's gate, loaded once."""
    return FaceVerifier()


def stitch(crops: FaceCrops, made: torch.Tensor, verifier: Verifier, detector: FaceDetector) -> list[AnonymizedImage]:
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
        results.append(_stitch_one(photo, crops.gone[k], crops.of(k), mine, verifier, detector))
    return results


def _stitch_one(
    photo: np.ndarray,
    gone: np.ndarray,
    faces: Sequence[FaceAnalysis],
    pictures: Sequence[np.ndarray | None],
    verifier: Verifier,
    detector: FaceDetector,
) -> AnonymizedImage:
    canvas = Canvas(photo, [face.mask for face in faces])
    records = []
    for k, (face, picture) in enumerate(zip(faces, pictures, strict=True)):
        try:
            verdict = _place(canvas, k, photo, gone, face, picture, verifier)
        except Exception as error:  # whatever it was, the face is covered and the record says why
            verdict = VerificationResult(None, f"stitching failed: {type(error).__name__}")
        if verdict.reason is not None:
            canvas.cover(k)
        records.append(_record(face, verdict))
    landmarker = shared_landmarker()
    records += cover_residual_faces(detector, canvas, gone, [], landmarker=landmarker, min_face=0, only=None)
    return AnonymizedImage(Image.fromarray(canvas.pixels), tuple(records))


def _place(
    canvas: Canvas,
    k: int,
    photo: np.ndarray,
    gone: np.ndarray,
    face: FaceAnalysis,
    picture: np.ndarray | None,
    verifier: Verifier,
) -> VerificationResult:
    """Paste one new face if the gate lets it pass."""
    if picture is None:
        return VerificationResult(None, "generation gave no picture")
    size, matrix = len(picture), _resized(face, len(picture))
    context = extract(erase(photo, gone), matrix, size)
    crop = match_boundary_colour(picture, context, extract(gone.astype(np.float32), matrix, size) > 1e-3)
    original = verifier.reference(photo, face)
    with canvas.preview(k, crop, matrix) as finished:
        verdict = verifier.verify(finished, face, original)
    if verdict.reason is None and not verdict.seen:
        return replace(verdict, reason="no face can be found in the result")
    if verdict.reason is None and verdict.similarity is None:  # nobody knows where the picture came from
        return VerificationResult(None, "cannot be compared with the original")
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


def _record(face: FaceAnalysis, verdict: VerificationResult) -> FaceRecord:
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
