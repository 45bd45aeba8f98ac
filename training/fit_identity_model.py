r"""Fit the identity model to pictures of synthetic people.

python training/fit_identity_model.py --train_data_dir PORTRAITS --encoder OUT/clip/image_encoder \
    --output_dir OUT/identity_model
"""

import argparse
from pathlib import Path

from deid_diffusion.models.face_encoder import FaceEncoder
from deid_diffusion.training.config import run_script
from deid_diffusion.training.identity_model import PortraitReader, fit_identity_model, read_portraits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", type=Path, required=True, help="pictures and a manifest.csv")
    parser.add_argument("--encoder", type=Path, required=True, help="the pipeline's image_encoder folder")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--texels", type=int, default=256, help="side of the square of textures")
    parser.add_argument("--modes", type=int, default=360, help="principal modes, at most")
    arguments = parser.parse_args()
    reader = PortraitReader(arguments.texels, FaceEncoder.from_pretrained(arguments.encoder))

    def progress(done: int, total: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"{done}/{total} pictures")

    portraits = read_portraits(arguments.train_data_dir, reader, progress)
    model, share = fit_identity_model(portraits, arguments.texels, arguments.modes)
    model.save_pretrained(arguments.output_dir)
    print(f"{len(model)} people of {len(portraits)} faces, {model.config.num_modes} modes: {share:.1%} of the variance")


if __name__ == "__main__":
    run_script(main)
