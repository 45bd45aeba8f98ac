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


# each is loaded once
shared_detector, shared_landmarker, shared_verifier = cache(EnsembleDetector), cache(FaceMesh), cache(FaceVerifier)


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
        """Return the faces. Raises UsageError for another number or size of photos than they were detected in."""
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
    """Return the mesh of a face's map, (478, 2) crop pixels.

    Another person's proportions are drawn by the seed; None is fresh randomness.
    """
    if proportions == "the photo's":
        return face.map_mesh
    model, own = _people(), secrets.randbits(63) if seed is None else seed
    donors = draw_donors(model, np.zeros(len(model)), measure(face.map_mesh), own, glasses=False, steady=True)
    return reshape_mesh(face.map_mesh, model.shape(donors), len(face.semantic_map), share=donors.emphasis / 100)


@cache
def _people() -> IdentityModel:
    """Return the built-in identity model."""
    return IdentityModel.from_pretrained(BUILTIN / "identity_model")


def photo_map(
    faces: Sequence[FaceAnalysis], shape: tuple[int, int], proportions: Proportions, seed: int | None
) -> np.ndarray:
    """Return the labels of all faces of a photo, `shape` uint8; 0 where there is none.

    Proportions and seed are those of `drawn_mesh`; the k-th face takes seed + k.
    """
    labels = np.zeros(shape, np.uint8)
    for k, face in enumerate(faces):
        mesh = drawn_mesh(face, proportions, None if seed is None else seed + k)
        drawn = map_in_photo(draw_semantic_map(mesh, len(face.semantic_map)), face.matrix, shape)
        labels = np.where(drawn > 0, drawn, labels)
    return labels


@dataclass(frozen=True, eq=False)
class FaceCrops:
    """Aligned face crops of a batch of photos, and the photos that they are stitched back into.

    Attributes:
        photos: B photos, (H, W, 3) uint8.
        faces: N pairs of a photo's index and a face of it, in order; their maps are S pixels wide.
        size: S.
    """

    photos: tuple[np.ndarray, ...]
    faces: tuple[tuple[int, FaceAnalysis], ...]
    size: int

    @cached_property
    def _images(self) -> list[PreparedImage]:
        """The photos with opaque faces, which a generator may see."""
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

    def originals(self) -> list[np.ndarray]:
        """Return N crops, (S, S, 3) uint8, with the original faces."""
        return [extract(self.photos[k], face.matrix, self.size) for k, face in self.faces]

    def erased(self) -> list[np.ndarray]:
        """Return N crops, (S, S, 3) uint8, in which every masked pixel of every face is grey."""
        return [extract(self._images[owner].erased, face.matrix, self.size) for owner, face in self.faces]

    def masks(self) -> list[np.ndarray]:
        """Return N masks, (S, S) bool, True where a crop is erased."""
        return [extract(self._images[owner].erase_weights, face.matrix, self.size) > 1e-3 for owner, face in self.faces]

    def control_images(self, kind: str, proportions: Proportions, seed: int | None) -> list[np.ndarray]:
        """Return N control images of a kind of `CONTROLS`, (S, S, 3) uint8; see `photo_map`."""
        seeds = [None if seed is None else seed + k for k in range(len(self.faces))]
        meshes = [drawn_mesh(face, proportions, own) for (_, face), own in zip(self.faces, seeds, strict=True)]
        return [draw_control(mesh, self.size, kind) for mesh in meshes]

    def blank(self) -> np.ndarray:
        """Return (S, S, 3) uint8, grey, for photos without faces: ComfyUI has no empty batches."""
        return np.full((self.size, self.size, 3), FILL, np.uint8)


def crop_faces(photos: Sequence[np.ndarray], detected: DetectedFaces, size: int) -> FaceCrops:
    """Crop the detected faces, S x S pixels each. Raises UsageError if they are of other photos."""
    landmarker = shared_landmarker()
    faces = [
        (k, analyse_face(photos[k], detection, landmarker, size))
        for k, boxes in enumerate(detected.boxes(photos))
        for detection in boxes
    ]
    return FaceCrops(tuple(photos), tuple(faces), size)


def stitch(
    crops: FaceCrops, generated: torch.Tensor, verifier: Verifier, detector: FaceDetector
) -> list[AnonymizedImage]:
    """Paste generated faces over the original ones.

    A face that fails verification, cannot be verified or is not finite stays covered, and the finished images are
    scanned for residual faces. No path leaves an original face.

    Args:
        crops: of the N original faces.
        generated: (N, S', S', 3) in 0..1, in the crops' order, of any size. Not read if there are no faces.
        verifier: compares each face with the original.
        detector: scans the finished images.

    Raises:
        UsageError: the number of generated faces differs, or they are not square.
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
            except Exception as error:  # the face is covered, and the record has the reason
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
