r"""Assemble trained components to a pipeline folder of float16 safetensors.

python training/assemble.py --generator OUT/generator --vae OUT/vae --clip OUT/clip \
    --identity_model OUT/identity_model --output_dir MODEL
python training/assemble.py --generator OUT --pretrained_model_name_or_path SD-INPAINTING --output_dir MODEL
"""

import argparse
from pathlib import Path

from deid_diffusion.training.components import assemble_builtin, assemble_pretrained
from deid_diffusion.training.config import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("generator", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--pretrained_model_name_or_path")
    parser.add_argument("--image_encoder", default="openai/clip-vit-large-patch14")
    parser.add_argument("--default_steps", type=int, default=4)
    parser.add_argument("--default_guidance", type=float, default=1.0)
    parser.add_argument("--identity_model", type=Path, help="of a model with --vae and --clip")
    parser.add_argument("--default_strength", type=float, default=0.25, help="of a model with --vae and --clip")
    args = parser.parse_args()
    sampling = {"steps": args.default_steps, "guidance": args.default_guidance}
    if args.pretrained_model_name_or_path is not None:
        model, encoder = args.pretrained_model_name_or_path, args.image_encoder
        pipeline = assemble_pretrained(model, encoder, args.generator, **sampling)
    elif None not in (args.vae, args.clip, args.identity_model):
        folders = (args.vae, args.clip, args.generator, args.identity_model)
        pipeline = assemble_builtin(*folders, **sampling, strength=args.default_strength)
    else:
        parser.error("give either --pretrained_model_name_or_path, or --vae, --clip and --identity_model")
    pipeline.save_pretrained(args.output_dir)


if __name__ == "__main__":
    run_script(main)
