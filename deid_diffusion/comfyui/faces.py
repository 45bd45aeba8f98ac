"""Faces of a batch of images: detection, crops for any generator, and stitching with verification."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
import torch

from ..attributes.selection import make_selection
from ..errors import UsageError
from ..faces.alignment import extract
from ..faces.analysis import FaceAnalysis, analyse_face
from ..faces.boxes import Detection, FaceDetector
from ..faces.compositing import FILL, match_boundary_colour
from ..faces.detection import EnsembleDetector
from ..faces.donors import draw_donors
from ..faces.face import Candidate, Face, PreparedImage
from ..faces.finalization import AnonymizedImage, finalize
from ..faces.landmarks import FaceMesh, measure
from ..faces.mesh_editing import reshape_mesh
from ..faces.semantic_map import draw_control, draw_semantic_map, map_in_photo
from ..generation import NO_PICTURE
from ..identity.verification import FaceVerifier, VerificationResult, Verifier
from ..models.identity_model import IdentityModel
from ..options import Options
from ..pipelines.loading import BUILTIN

Proportions = Literal["another person's", "the photo's"]
"""Whose eyes, brows, nose and mouth a map shows; the photo's own identify the person."""

_MAP_SIZE = 512  # side of the crops that maps of whole photos are drawn in, in pixels


@cache
def shared_detector() -> EnsembleDetector:
    """Return the default detector, loaded once."""
    return EnsembleDetector()


@cache
def shared_landmarker() -> FaceMesh:
    """Return the default landmarker, loaded once."""
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
        """Return the faces, if these can be the photos that they were detected in.

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
        """Return the detections of each photo. Raises UsageError as `of`."""
        return [[face.detection for face in faces] for faces in self.of(photos)]


def find_faces(photos: Sequence[np.ndarray]) -> DetectedFaces:
    """Detect and measure the faces of B photos, (H, W, 3) uint8 of one size."""
    detector, landmarker = shared_detector(), shared_landmarker()
    faces = (tuple(analyse_face(photo, face, landmarker, _MAP_SIZE) for face in detector(photo)) for photo in photos)
    return DetectedFaces(tuple(faces), (photos[0].shape[0], photos[0].shape[1]))


def drawn_mesh(face: FaceAnalysis, proportions: Proportions, seed: int | None) -> np.ndarray:
    """Return the mesh, (478, 2) crop pixels, that a face's map is drawn from.

    Args:
        face: the face.
        proportions: whose.
        seed: draws another person's; None is fresh randomness.
    """
    if proportions == "the photo's":
        return face.map_mesh
    model, own = _people(), secrets.randbits(63) if seed is None else seed
    donors = draw_donors(model, np.zeros(len(model)), measure(face.map_mesh), own, glasses=False, steady=True)
    return reshape_mesh(face.map_mesh, model.shape(donors), len(face.semantic_map), share=donors.emphasis / 100)


@cache
def _people() -> IdentityModel:
    """Return the embedded identity model."""
    return IdentityModel.from_pretrained(BUILTIN / "identity_model")


def photo_map(
    faces: Sequence[FaceAnalysis], shape: tuple[int, int], proportions: Proportions, seed: int | None
) -> np.ndarray:
    """Return (height, width) uint8 labels of all faces of a photo, in their places; 0 where there is none.

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
    def _images(self) -> list[PreparedImage]:
        """Of each photo what a generator may see."""
        return [self.prepare(index) for index in range(len(self.photos))]

    def prepare(self, index: int) -> PreparedImage:
        """Return a photo with its faces opaque, as new."""
        image = PreparedImage(self.photos[index])
        analyses = [analysis for owner, analysis in self.faces if owner == index]
        for k, analysis in enumerate(analyses):
            selection = make_selection(())
            image.faces.append(Face(image, k, analysis.detection, selection, analysis.mask, analysis))
        image.mask_faces()
        return image

    def of(self, photo: int) -> list[FaceAnalysis]:
        """Return the faces of one photo."""
        return [face for owner, face in self.faces if owner == photo]

    def originals(self) -> list[np.ndarray]:
        """Return N crops, (S, S, 3) uint8, with the original faces."""
        return [extract(self.photos[k], face.matrix, self.size) for k, face in self.faces]

    def erased(self) -> list[np.ndarray]:
        """Return N crops, (S, S, 3) uint8, every masked pixel of every face grey: all that a generator may see."""
        return [extract(self._images[owner].erased, face.matrix, self.size) for owner, face in self.faces]

    def masks(self) -> list[np.ndarray]:
        """Return N masks, (S, S) bool, True where a crop is erased."""
        return [extract(self._images[owner].erase_weights, face.matrix, self.size) > 1e-3 for owner, face in self.faces]

    def control_images(self, kind: str, proportions: Proportions, seed: int | None) -> list[np.ndarray]:
        """Return N control images, (S, S, 3) uint8.

        Args:
            kind: of `faces.semantic_map.CONTROLS`.
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
        """Return (S, S, 3) uint8, grey, for photos without faces: ComfyUI has no empty batches."""
        return np.full((self.size, self.size, 3), FILL, np.uint8)


def crop_faces(photos: Sequence[np.ndarray], detected: DetectedFaces, size: int) -> FaceCrops:
    """Crop the detected faces, S x S pixels each. Raises UsageError when they are of other photos."""
    landmarker = shared_landmarker()
    faces = [
        (k, analyse_face(photos[k], detection, landmarker, size))
        for k, boxes in enumerate(detected.boxes(photos))
        for detection in boxes
    ]
    return FaceCrops(tuple(photos), tuple(faces), size)


@cache
def shared_verifier() -> FaceVerifier:
    """Return the default verifier, loaded once."""
    return FaceVerifier()


def stitch(
    crops: FaceCrops, generated: torch.Tensor, verifier: Verifier, detector: FaceDetector
) -> list[AnonymizedImage]:
    """Put new faces in the places of the old ones.

    A face that fails verification, that cannot be verified or that is no picture stays covered, and the finished
    images are searched once more. No path leaves an original face.

    Args:
        crops: where the N faces were cropped from.
        generated: (N, S', S', 3) in 0..1, in the crops' order; of any size. Not read where there are no faces.
        verifier: compares each face with the original, in the finished image.
        detector: searches the finished images.

    Raises:
        UsageError: when there are not as many new faces, or they are not square.
    """
    square = generated.ndim == 4 and generated.shape[1] == generated.shape[2] and generated.shape[3] == 3
    if crops.faces and (len(generated) != len(crops.faces) or not square):
        raise UsageError(
            f"image: expected {len(crops.faces)} square face crops, one per face, got a batch of "
            f"{tuple(generated.shape)}: connect what was generated from Crop Faces' images, all of them and in order"
        )
    pictures = iter([_picture(crop) for crop in generated[: len(crops.faces)]])
    results = []
    for index in range(len(crops.photos)):
        image = crops.prepare(index)
        for face in image.faces:
            try:
                _replace(face, next(pictures), verifier)
            except Exception as error:  # whatever it was, the face is covered and the record says why
                face.fail(error, "stitching")
        results.append(finalize(image, Options(), detector=detector, landmarker=shared_landmarker()))
    return results


def _replace(face: Face, picture: np.ndarray | None, verifier: Verifier) -> None:
    """Paste one new face if it passes verification."""
    if picture is None:
        face.cover("generation gave no picture")
        return
    size, matrix = len(picture), face.matrix_of(picture)
    context = extract(face.image.erased, matrix, size)
    mask = extract(face.image.erase_weights, matrix, size) > 1e-3
    crop = match_boundary_colour(picture, context, mask)
    face.reference = verifier.reference(face.image.photo, face.geometry)
    result = face.verify(crop, verifier, NO_PICTURE)
    if result.reason is None and not result.detected:
        result = replace(result, reason="no face can be found in the result")
    elif result.reason is None and result.similarity is None:  # the picture's origin is unknown
        result = VerificationResult(None, "cannot be compared with the original")
    face.candidates.append(Candidate(crop, None, None, result))
    if result.reason is None:
        face.paste(face.candidates[0])
    else:
        face.cover(result.reason)


def _picture(crop: torch.Tensor) -> np.ndarray | None:
    """Return (S, S, 3) uint8; None for values that are not finite."""
    if not torch.isfinite(crop).all():
        return None
    return (crop.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
