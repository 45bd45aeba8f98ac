"""Put the trained parts together as one pipeline folder, in float16 safetensors.

python training/assemble.py --vae OUT/vae --clip OUT/clip --generator OUT/generator --output_dir MODEL
"""

import argparse
from pathlib import Path

from deid_diffusion.training.builtin import assemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vae", "clip", "generator", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--default_steps", type=int, default=12)
    parser.add_argument("--default_guidance", type=float, default=1.0)
    args = parser.parse_args()
    assemble(
        args.vae,
        args.clip,
        args.generator,
        args.output_dir,
        default_steps=args.default_steps,
        default_guidance=args.default_guidance,
    )


if __name__ == "__main__":
    main()
