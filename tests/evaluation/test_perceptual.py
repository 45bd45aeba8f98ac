"""The published figures come from torchmetrics where its weights are, and are missing by name where they are not."""

import sys
from importlib import util
from types import ModuleType

import numpy as np
import pytest

from deid_diffusion.evaluation import perceptual
from deid_diffusion.evaluation.perceptual import ALEXNET_FILE, INCEPTION_FILE, PerceptualMeter

CROP = np.zeros((9, 9, 3), np.uint8)


def test_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    meter = PerceptualMeter()
    assert set(meter.missing) == {"FID", "KID", "LPIPS"}
    assert meter.add(CROP, CROP) is meter.fid() is meter.kid() is None
    assert list(tmp_path.iterdir()) == []


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert PerceptualMeter().missing["LPIPS"] == "torchmetrics is not installed"


class Metric:
    """A metric that counts its updates."""

    def __init__(self, **options) -> None:
        self.options, self.seen = options, []

    def update(self, pictures, real):
        self.seen.append((tuple(pictures.shape), real))

    def compute(self):
        return [len(self.seen), 0]

    def __float__(self):
        return 0.0

    def __call__(self, first, second):
        return float((first - second).abs().mean())


class Single(Metric):
    def compute(self):
        return len(self.seen)


def test_with_its_weights(tmp_path, monkeypatch):
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name in (INCEPTION_FILE, ALEXNET_FILE):
        (tmp_path / "hub" / "checkpoints" / name).touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(perceptual, "find_spec", lambda name: util.find_spec("json"))
    metrics = {
        "fid": ("FrechetInceptionDistance", Single),
        "kid": ("KernelInceptionDistance", Metric),
        "lpip": ("LearnedPerceptualImagePatchSimilarity", Metric),
    }
    for name in ("torchmetrics", "torchmetrics.image", *(f"torchmetrics.image.{one}" for one in metrics)):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, (title, kind) in metrics.items():
        setattr(sys.modules[f"torchmetrics.image.{name}"], title, kind)
    meter = PerceptualMeter()
    assert meter.missing == {}
    assert meter.fid() is None
    assert [meter.add(CROP, CROP + 51) for _ in range(3)] == [pytest.approx(0.2)] * 3
    assert (meter.fid(), meter.kid()) == (6, 6)
    assert meter._features["KID"].subset_size == 3
    assert meter._features["FID"].seen[:2] == [((1, 3, 9, 9), True), ((1, 3, 9, 9), False)]
