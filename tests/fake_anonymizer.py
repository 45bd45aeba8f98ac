"""An `Anonymizer` without models: it inverts the top left quarter of a photo and reports the faces it was given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from PIL import Image

from deid_diffusion.faces.analysis import FaceAnalysis
from deid_diffusion.faces.boxes import Detection
from deid_diffusion.faces.masks import box_mask
from deid_diffusion.results import FaceRecord

REPLACED = FaceRecord((0.0, 0.0, 8.0, 8.0), "fake", 0.9, "replaced", 1, True)
COVERED = FaceRecord((0.0, 0.0, 8.0, 8.0), "fake", 0.9, "covered", None, False, "too similar")


@dataclass
class FakeAnonymizer:
    """Writes and records with the methods of `Anonymizer`, which are imported with the first photo.

    Attributes:
        faces: of every photo.
        hook: called with each photo before it is processed.
        model_name: as records name it.
        calls: arguments of the calls so far.
    """

    faces: tuple[FaceRecord, ...] = (REPLACED,)
    hook: Callable[[np.ndarray], None] | None = None
    model_name: str = "fake"
    calls: list[dict[str, object]] = field(default_factory=list)

    verifier = SimpleNamespace(description="fake gate")

    def detector(self, image):
        return []

    def check(self, options, choices=()):
        pass

    def __call__(self, image, options=None, *, callback_on_step_end=None, **places):
        return self.finalize(self.prepare(image, options, **places), options)

    def prepare(self, image, options=None, *, detections=None, only=None, overrides=()):
        self.calls.append({"options": options, "detections": detections, "only": only, "overrides": overrides})
        if self.hook is not None:
            self.hook(image)
        return SimpleNamespace(image=image, pending=[])

    def generate(self, prepared, options=None, *, callback_on_step_end=None):
        pass

    def finalize(self, prepared, options=None):
        from deid_diffusion.faces.finalization import AnonymizedImage

        result = expected(prepared.image) if self.faces else prepared.image
        return AnonymizedImage(Image.fromarray(result), self.faces)

    def anonymize_bytes(self, *args, **options):
        from deid_diffusion.anonymizer import Anonymizer

        return Anonymizer.anonymize_bytes(self, *args, **options)

    def encode(self, *args, **options):
        from deid_diffusion.anonymizer import Anonymizer

        return Anonymizer.encode(self, *args, **options)

    def analyse(self, image):
        return tuple(analysis(image) for _ in self.faces)


def expected(pixels: np.ndarray) -> np.ndarray:
    """Return the fake's result for a photo with faces."""
    result = pixels.copy()
    height, width = (max(1, side // 2) for side in pixels.shape[:2])
    result[:height, :width] = 255 - result[:height, :width]
    return result


def analysis(pixels: np.ndarray, mesh: bool = True) -> FaceAnalysis:
    """Return a face in the square from (10, 20) to (42, 52), in a 64-pixel crop whose middle half is skin."""
    labels = np.zeros((64, 64), np.uint8)
    labels[16:48, 16:48] = 1
    points = np.array([[20, 30], [32, 30], [26, 36], [21, 42], [31, 42]], np.float32)
    return FaceAnalysis(
        detection=Detection((10.0, 20.0, 42.0, 52.0), 0.9, "fake", points),
        matrix=np.array([[2, 0, -20], [0, 2, -40]], np.float32),
        mesh=np.full((478, 2), 32, np.float32) if mesh else None,
        map_mesh=np.full((478, 2), 32, np.float32),
        semantic_map=labels,
        mask=box_mask((20.0, 30.0, 32.0, 42.0), (pixels.shape[0], pixels.shape[1])),
    )
