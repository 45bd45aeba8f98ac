#!/usr/bin/env bash
# The embedded model, from face photographs to a pipeline folder: bash training/recipes/builtin.sh DATA OUT
# DATA holds faces_colour.tar, faces_grey.tar and manifest.csv (columns file, predicted_age, predicted_male, text).
# On two CPU cores: about 3 minutes of preparation, 30 of autoencoder, 15 of attribute encoder, 70 of generator. Every
# checkpoint is usable; run it again to continue where it was stopped. (The shipped weights were trained with these
# options, but for the rates: the encoder stopped at 1,000 of the 1,500 steps that its schedule was made for, and the
# generator's rate was constant for its first 2,000 steps.)
set -euo pipefail
data=$1 out=$2
cache=$out/cache
launch=(accelerate launch --num_processes 1 --num_machines 1 --dynamo_backend no)
common=(--train_data_dir "$cache" --mixed_precision bf16 --resume_from_checkpoint latest)

[ -f "$cache/crops.npy" ] || python training/prepare.py "$data"/faces_colour.tar "$data"/faces_grey.tar \
    --manifest "$data/manifest.csv" --output_dir "$cache" --resolution 128 --variants 3

"${launch[@]}" training/train_vae.py "${common[@]}" --output_dir "$out/vae" --block_out_channels 24,48,96 \
    --train_batch_size 8 --learning_rate 5e-4 --ema_decay 0.995 --adversarial_start 1200 \
    --max_train_steps "${VAE_STEPS:-1600}" --checkpointing_steps 400

"${launch[@]}" training/train_attribute_encoder.py "${common[@]}" --output_dir "$out/clip" \
    --train_batch_size 64 --learning_rate 6e-4 --lr_scheduler cosine --lr_warmup_steps 80 \
    --max_train_steps "${CLIP_STEPS:-1000}" --checkpointing_steps 250

"${launch[@]}" training/train_face_deid.py "${common[@]}" --vae "$out/vae" --clip "$out/clip" \
    --output_dir "$out/generator" --train_unet --block_out_channels 48,96,160 \
    --train_batch_size 16 --learning_rate 6e-4 --lr_scheduler cosine --lr_warmup_steps 150 --ema_decay 0.999 \
    --max_train_steps "${GENERATOR_STEPS:-4000}" --checkpointing_steps 500

python training/assemble.py --vae "$out/vae" --clip "$out/clip" --generator "$out/generator" --output_dir "$out/model"
