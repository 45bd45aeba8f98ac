"""Looks and judges made by hand, for tests of what is summed up from them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from deid_diffusion.evaluation.measure import (
    Evaluators,
    FaceMeasurement,
    FaceState,
    HeadPose,
    MeshErrors,
    Outside,
    PairMeasurement,
)
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Pair
from deid_diffusion.faces.landmarks import FaceMeasures

NO_METER = SimpleNamespace(
    missing=dict.fromkeys(("FID", "KID", "LPIPS"), "not here"), fid=lambda: None, kid=lambda: None
)


def errors(**values: float | None) -> MeshErrors:
    names = ("yaw", "pitch", "roll", "gaze", "smile", "mouth_open", "eyes_open", "landmarks")
    return MeshErrors(**{**dict.fromkeys(names, 0.0), **values})


def state(yaw: float = 0.0) -> FaceState:
    return FaceState(HeadPose(yaw, 0.0, 0.0), (0.0, 0.0), FaceMeasures(0.0, 0.0, 0.3, 0.0, 0.6))


def face(
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
    *,
    left: bool = False,
    found: bool = True,
    mesh: MeshErrors | None = None,
    readings: tuple[Reading, Reading] | None = None,
) -> FaceMeasurement:
    mesh = mesh or errors()
    picture = np.full((8, 8, 3), 90, np.uint8)
    return FaceMeasurement(
        left=left,
        embeddings=((before, after),),
        before=state(),
        after=state(mesh.yaw) if found else None,
        errors=mesh if found else None,
        readings=readings,
        found=found,
        sharpness_ratio=2.0 if found else None,
        score_ratio=0.5 if found else None,
        ssim=0.7 if found else None,
        lpips=None,
        shown=(picture, picture),
    )


def photo(
    name: str, person: str, look: FaceMeasurement | None, *, faces: int = 1, outside: float = 0.0
) -> PairMeasurement:
    left = int(look is not None and look.left)
    pair = Pair(name, person, Path(f"in/{name}.jpg"), Path(f"out/{name}.png"))
    return PairMeasurement(pair, faces, left, False, Outside(outside, outside / 10), 0.5, look)


def judges(*recognisers) -> Evaluators:
    return Evaluators(None, None, recognisers, None, NO_METER)
