"""The data sets that the objectives learn from, all read from a cache made by ``prepare``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset


class FaceCache:
    """A prepared cache on disk.

    Attributes:
        crops: (N, S, S, 3) uint8 RGB, memory-mapped.
        meshes: (N, 478, 2) float32 crop pixels.
        rows: N dictionaries: the file's name, whether it is grey, and the manifest's columns.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "crops.npy").is_file():
            raise FileNotFoundError(f"{folder} is no cache of faces; make one: deid-diffusion prepare DATA -o CACHE")
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")
        self.meshes = np.load(folder / "meshes.npy")
        self.rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def size(self) -> int:
        return int(self.crops.shape[1])


class FaceDataset(Dataset[dict[str, torch.Tensor]]):
    """A data set over a cache whose random choices follow from seed, epoch and index alone.

    So a resumed training sees what the uninterrupted one would have seen.
    """

    def __init__(self, cache: FaceCache, seed: int) -> None:
        self.cache, self.seed, self.epoch = cache, seed, 0

    def __len__(self) -> int:
        return len(self.cache)

    def set_epoch(self, epoch: int) -> None:
        """Called by the loop before each epoch."""
        self.epoch = epoch

    def rng(self, index: int) -> np.random.Generator:
        """The random generator of one item in this epoch."""
        return np.random.default_rng((self.seed, self.epoch, index))


class CropDataset(FaceDataset):
    """Face crops alone: ``pixels`` (3, S, S) float32 in -1..1."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixels": to_tensor(self.cache.crops[index])}


def to_tensor(crop: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in -1..1."""
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 127.5 - 1
