"""Find the looks of faces: python training/fit_looks.py --train_data_dir CACHE --output_dir OUT writes OUT/looks.npz.

The package's own lie in deid_diffusion/faces. A generator has to be trained with the looks that it is to be used with.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deid_diffusion.training.attribute_encoder import all_facts
from deid_diffusion.training.config import parse, run_script
from deid_diffusion.training.data import FaceCache
from deid_diffusion.training.erasure import one_hot
from deid_diffusion.training.look_reader import fit_looks


@dataclass(frozen=True, kw_only=True)
class LooksConfig:
    """Attributes:
    train_data_dir: cache made by deid-diffusion prepare.
    output_dir: gets looks.npz.
    seed: of the choice of faces and of the disturbances.
    """

    train_data_dir: Path
    output_dir: Path
    seed: int = 0


def main() -> None:
    config = parse(LooksConfig, __doc__ or "")
    cache = FaceCache(config.train_data_dir)
    looks = fit_looks(cache.crops, cache.meshes, one_hot(all_facts(cache)).numpy(), config.seed)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(config.output_dir / "looks.npz", **looks)


if __name__ == "__main__":
    run_script(main)
