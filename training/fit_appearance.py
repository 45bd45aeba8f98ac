"""Find how faces look: python training/fit_appearance.py --train_data_dir CACHE --output_dir OUT.

Writes OUT/appearance.npz; the package's own lies in deid_diffusion/faces.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.training.appearance import fit_appearance
from deid_diffusion.training.config import parse, run_script
from deid_diffusion.training.data import FaceCache


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """Attributes:
    train_data_dir: cache made by deid-diffusion prepare.
    output_dir: gets appearance.npz.
    seed: of the choice of faces.
    """

    train_data_dir: Path
    output_dir: Path
    seed: int = 0


def main() -> None:
    config = parse(AppearanceConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    found = fit_appearance(cache.crops, cache.meshes, cache.rows, seed=config.seed)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(config.output_dir / "appearance.npz", **found)


if __name__ == "__main__":
    run_script(main)
