"""One detected face on its way to the output image, and the image that it is part of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..attributes.selection import AttributeSelection
from .alignment import resized
from .analysis import FaceAnalysis
from .boxes import Detection
from .compositing import Canvas, CoverColour, erase
from .masks import PasteMask, union_mask

if TYPE_CHECKING:
    from ..generation import GeneratorInput
    from ..identity.assignment import Identity
    from ..identity.verification import FaceReference, VerificationResult, Verifier
    from ..models.identity_model import Donors
    from ..results import Action
    from .detection import DetectionResult


@dataclass(frozen=True, eq=False)
class Candidate:
    """A generated face and what its verification said.

    Attributes:
        crop: (S, S, 3) uint8, or None where generation returned no usable picture.
        seed: of the noise and, unless they were chosen before, of the donors; None for a face from elsewhere.
        donors: the synthetic people that the face is mixed from, likewise.
        result: of the verification.
    """

    crop: np.ndarray | None
    seed: int | None
    donors: Donors | None
    result: VerificationResult


@dataclass(eq=False)
class Face:
    """One detected face and everything that is known of it.

    Attributes:
        image: the image that it is part of.
        index: its place among the image's faces, and on the canvas.
        detection: box, score and five points.
        selection: attributes that the new face keeps and changes.
        analysis: crop, mesh, semantic map and paste mask; None where the face is not processed.
        cover_mask: pixels that a cover hides: all of the face, also the parts that the paste mask spares.
        reference: of the original, for the verifier.
        identity: who replaces it.
        inputs: what the generator saw of it, once it ran.
        candidates: generated so far, in order.
        chosen: the candidate that stands in the image.
        action: what was done; None while the face waits for generation.
        reason: why the face was covered or kept.
    """

    image: PreparedImage
    index: int
    detection: Detection
    selection: AttributeSelection
    cover_mask: PasteMask
    analysis: FaceAnalysis | None = None
    reference: FaceReference | None = None
    identity: Identity | None = None
    inputs: GeneratorInput | None = None
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Candidate | None = None
    action: Action | None = None
    reason: str | None = None

    @property
    def geometry(self) -> FaceAnalysis:
        """The analysis of a face that has one. Raises ValueError for any other."""
        if self.analysis is None:
            raise ValueError(f"face {self.index}: was not analysed")
        return self.analysis

    def finish(self, action: Action, reason: str | None = None) -> None:
        """Record what was done to the face."""
        self.action, self.reason = action, reason

    def fail(self, error: Exception, stage: str) -> None:
        """Cover the face because a stage failed."""
        self.candidates.clear()
        self.cover(f"{stage} failed: {type(error).__name__}")

    def cover(self, reason: str) -> None:
        """Hide the face, its ring included."""
        self.image.canvas.cover(self.index)
        self.finish("covered", reason)

    def verify(self, crop: np.ndarray | None, verifier: Verifier, no_picture: VerificationResult) -> VerificationResult:
        """Verify a candidate in the image as it would be written, without leaving it there.

        Args:
            crop: (S, S, 3) uint8 of the face's square, or None.
            verifier: compares it with the original.
            no_picture: the result for a crop that is None.
        """
        if crop is None or self.reference is None:
            return no_picture
        with self._preview(crop) as pixels:
            return verifier.verify(pixels, self.geometry, self.reference)

    def paste(self, candidate: Candidate) -> None:
        """Put a verified candidate into the image."""
        assert candidate.crop is not None
        self.image.canvas.paste(self.index, candidate.crop, self.matrix_of(candidate.crop))
        self.chosen = candidate
        self.finish("replaced")

    def matrix_of(self, crop: np.ndarray) -> np.ndarray:
        """Return the (2, 3) crop matrix for a crop of another size than the generator's."""
        return resized(self.geometry.matrix, len(crop) / len(self.geometry.semantic_map))

    @contextmanager
    def _preview(self, crop: np.ndarray) -> Iterator[np.ndarray]:
        with self.image.canvas.preview(self.index, crop, self.matrix_of(crop)) as pixels:
            yield pixels


@dataclass(eq=False)
class PreparedImage:
    """An image whose faces are detected, analysed and opaque, and wait for generation.

    Attributes:
        photo: (H, W, 3) uint8 RGB, the original.
        faces: in the order of detection.
        fill_colour: of covers.
        only: places to which the work is limited; None is no limit.
        detected: what the search of the photo found; None where somebody else brought the boxes.
        canvas: the output image in the making.
        erase_mask: (H, W) bool, every pixel that the mask of any face touches.
    """

    photo: np.ndarray
    faces: list[Face] = field(default_factory=list)
    fill_colour: CoverColour = "surroundings"
    only: Sequence[Detection] | None = None
    detected: DetectionResult | None = None
    canvas: Canvas = field(init=False)
    erase_mask: np.ndarray = field(init=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.photo.shape[0], self.photo.shape[1]

    @property
    def pending(self) -> list[Face]:
        """Faces that wait for generation. The best detected comes last: it is pasted over those that it overlaps."""
        return sorted((face for face in self.faces if face.action is None), key=lambda face: face.detection.score)

    def mask_faces(self) -> None:
        """Make the canvas, every face opaque, and the mask of what is erased, once all faces were analysed."""
        masks = [
            face.analysis.mask if face.action is None and face.analysis is not None else face.cover_mask
            for face in self.faces
        ]
        self.canvas = Canvas(self.photo, masks, self.fill_colour)
        self.erase_mask = union_mask(self.shape, masks)

    @cached_property
    def erased(self) -> np.ndarray:
        """(H, W, 3) uint8, the photo without any face: all of it that a generator sees."""
        return erase(self.photo, self.erase_mask)

    @cached_property
    def erase_weights(self) -> np.ndarray:
        """(H, W) float32, 1 where the photo is erased and 0 elsewhere."""
        return self.erase_mask.astype(np.float32)
