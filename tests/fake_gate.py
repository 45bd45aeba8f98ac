"""Gates that need no recogniser: one that lets everything pass, and one that follows a script."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.identity.verification import Reference, Verdict

PASS, FAIL = Verdict(0.1, None), Verdict(0.99, "too like the original (cosine 0.990)")


class FakeGate:
    """Attributes: what it says of the n-th result that it is shown, from 0 on; an embedding for every original."""

    description = "fake gate"

    def __init__(self, says: Callable[[int], Verdict] = lambda n: PASS, embedding: np.ndarray | None = None) -> None:
        self.says, self.embedding = says, embedding
        self.seen: list[np.ndarray] = []

    def look(self, photo: np.ndarray, face: FaceAnalysis) -> Reference:
        return Reference(self.embedding, None, None, 0)

    def judge(self, picture: np.ndarray, face: FaceAnalysis, original: Reference) -> Verdict:
        self.seen.append(picture[face.mask.window].copy())
        return self.says(len(self.seen) - 1)
