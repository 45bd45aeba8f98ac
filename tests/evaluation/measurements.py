"""Measurements made by hand, for tests of their summaries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from deid_diffusion.evaluation import measure
from deid_diffusion.evaluation.attacks import reidentify
from deid_diffusion.evaluation.evaluate import Evaluation, summarize
from deid_diffusion.evaluation.onnx import Reading
from deid_diffusion.evaluation.pairing import Labels, Matching, Pair
from deid_diffusion.faces.landmarks import FaceMeasures

NO_METER = SimpleNamespace(
    missing=dict.fromkeys(("FID", "KID", "LPIPS"), "not here"), fid=lambda: None, kid=lambda: None, add=lambda *_: None
)


def network(threshold: float = 0.9) -> SimpleNamespace:
    """Return a recogniser or reader of which only name and threshold are used."""
    return SimpleNamespace(name="planted", threshold=threshold)


def evaluators(*, reader: bool = False) -> measure.Evaluators:
    return measure.Evaluators(None, None, (network(),), network() if reader else None, NO_METER)


def errors(**values: float | None) -> measure.MeshErrors:
    names = ("yaw", "pitch", "roll", "gaze", "smile", "mouth_open", "eyes_open", "landmarks")
    return measure.MeshErrors(**{**dict.fromkeys(names, 0.0), **values})


def state(yaw: float = 0.0) -> measure.FaceState:
    return measure.FaceState(measure.HeadPose(yaw, 0.0, 0.0), (0.0, 0.0), FaceMeasures(0.0, 0.0, 0.3, 0.0, 0.6))


def face(
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
    *,
    unchanged: bool = False,
    detected: bool = True,
    mesh: measure.MeshErrors | None = None,
    readings: tuple[Reading, Reading] | None = None,
) -> measure.FaceMeasurement:
    mesh = mesh or errors()
    crop = np.full((8, 8, 3), 90, np.uint8)
    return measure.FaceMeasurement(
        unchanged=unchanged,
        detected=detected,
        embeddings=((before, after),),
        before=state(),
        after=state(mesh.yaw) if detected else None,
        errors=mesh if detected else None,
        readings=readings,
        sharpness_ratio=2.0 if detected else None,
        score_ratio=0.5 if detected else None,
        ssim=0.7 if detected else None,
        lpips=None,
        crops=(crop, crop),
    )


def photo(
    name: str, person: str, face: measure.FaceMeasurement | None, *, faces: int = 1, outside: float = 0.0
) -> measure.PairMeasurement:
    unchanged = int(face is not None and face.unchanged)
    pair = Pair(name, person, Path(f"in/{name}.jpg"), Path(f"out/{name}.png"))
    return measure.PairMeasurement(pair, faces, unchanged, False, measure.Outside(outside, outside / 10), 0.5, face)


def evaluation(
    photos: Sequence[measure.PairMeasurement],
    *,
    labels: Labels | None = None,
    without_original: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Summarise photos by `network` as recogniser and reader."""
    matching = Matching(tuple(photo.pair for photo in photos), (), tuple(without_original), True)
    identities = [reidentify(photos, 0, network())]
    return summarize(photos, identities, evaluators(reader=True), matching, roles or {}, labels=labels, notes=notes)


def unit_vectors(*shape: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
