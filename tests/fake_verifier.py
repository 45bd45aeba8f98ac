"""Gates that need no recogniser: one that lets everything pass, and one that follows a script."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.identity.verification import FaceReference, VerificationResult

PASS, FAIL = VerificationResult(0.1, None), VerificationResult(0.99, "too like the original (cosine 0.990)")


class FakeVerifier:
    """Attributes: what it says of the n-th result that it is shown, from 0 on; an embedding for every original."""

    description = "fake gate"

    def __init__(
        self, says: Callable[[int], VerificationResult] = lambda n: PASS, embedding: np.ndarray | None = None
    ) -> None:
        self.says, self.embedding = says, embedding
        self.seen: list[np.ndarray] = []

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        return FaceReference(self.embedding, None, None, 0)

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        self.seen.append(picture[face.mask.window].copy())
        return self.says(len(self.seen) - 1)
