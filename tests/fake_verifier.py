"""Face verifiers without a recogniser: one accepts every result, one follows a script."""

from collections.abc import Callable

import numpy as np

from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.identity.verification import FaceReference, VerificationResult

PASS, FAIL = VerificationResult(0.1, None), VerificationResult(0.99, "too like the original (cosine 0.990)")


class FakeVerifier:
    """Attributes: verdict on the n-th result, from 0 on; embedding of every original; faces that were verified."""

    description = "fake gate"

    def __init__(
        self, verdict: Callable[[int], VerificationResult] = lambda n: PASS, embedding: np.ndarray | None = None
    ) -> None:
        self.verdict, self.embedding = verdict, embedding
        self.verified: list[np.ndarray] = []

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        return FaceReference(self.embedding, None, None, 0)

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        self.verified.append(picture[face.mask.window].copy())
        return self.verdict(len(self.verified) - 1)
