"""FID, KID and LPIPS of face crops, if their weights are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""File of torch-fidelity's Inception, for FID and KID, among the checkpoints of `torch.hub`."""

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"  # file of torchvision's AlexNet, for LPIPS, likewise
FACE_SIDE = 299  # side of the face crops, in pixels

_KID_SUBSETS, _KID_SUBSET_SIZE = 50, 100


class PerceptualMeter:
    """Accumulates pairs of face crops and computes FID, KID and LPIPS. Nothing is downloaded.

    Attributes:
        missing: metrics that cannot be computed, name to reason.
    """

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}
        self._features: dict[str, Any] = {}
        self._lpips: Any = None
        self._pairs = 0
        if find_spec("torchmetrics") is None:
            self.missing = dict.fromkeys(("FID", "KID", "LPIPS"), "torchmetrics is not installed")
            return
        if find_spec("torch_fidelity") is None or not _has(INCEPTION_FILE):
            reason = f"torch-fidelity or its weights ({INCEPTION_FILE}) are not installed"
            self.missing |= dict.fromkeys(("FID", "KID"), reason)
        else:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.kid import KernelInceptionDistance

            self._features["FID"] = FrechetInceptionDistance(feature=2048)
            self._features["KID"] = KernelInceptionDistance(feature=2048, subsets=_KID_SUBSETS)
        if not _has(ALEXNET_FILE):
            self.missing["LPIPS"] = f"torchvision's weights ({ALEXNET_FILE}) are not installed"
        else:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._lpips = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)

    def add(self, original: np.ndarray, result: np.ndarray) -> float | None:
        """Add the crops of a face before and after, (S, S, 3) uint8 RGB, and return their LPIPS, or None without it."""
        if not self._features and self._lpips is None:
            return None
        import torch

        pair = [_batch(crop) for crop in (original, result)]
        self._pairs += 1
        with torch.inference_mode():
            for metric in self._features.values():
                metric.update(pair[0], real=True)
                metric.update(pair[1], real=False)
            if self._lpips is None:
                return None
            return float(self._lpips(pair[0].float() / 255, pair[1].float() / 255))

    def fid(self) -> float | None:
        """Compute the FID of all pairs so far, or return None."""
        metric = self._features.get("FID")
        return None if metric is None or self._pairs < 2 else float(metric.compute())

    def kid(self) -> float | None:
        """Compute the KID of all pairs so far, a mean over subsets of up to 100 faces, or return None."""
        metric = self._features.get("KID")
        if metric is None or self._pairs < 2:
            return None
        metric.subset_size = min(_KID_SUBSET_SIZE, self._pairs)  # the metric refuses subsets larger than the set
        return float(metric.compute()[0])


def _has(file: str) -> bool:
    """Return whether a file is among the checkpoints of `torch.hub`."""
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / file).is_file()


def _batch(crop: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None]
