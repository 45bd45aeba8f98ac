"""Make the cache that the training scripts read: faces found, aligned and meshed.

    python training/prepare.py DATA... --output_dir CACHE [--manifest manifest.csv] [--resolution 128] [--variants 3]

DATA are image folders or tar files.
"""

import argparse
from pathlib import Path

from deid_diffusion.training.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--variants", type=int, default=3)
    args = parser.parse_args()
    done = prepare(args.data, args.output_dir, size=args.resolution, variants=args.variants, manifest=args.manifest)
    print(f"{done.crops} crops of {done.files} files in {args.output_dir}; {len(done.skipped)} without a usable face")


if __name__ == "__main__":
    main()
