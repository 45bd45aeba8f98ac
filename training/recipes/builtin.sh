#!/usr/bin/env bash
# Train the built-in model, from face photographs to a pipeline folder: bash training/recipes/builtin.sh DATA OUT [cpu|gpu]
# DATA holds faces_colour.tar, faces_grey.tar and manifest.csv (columns file, predicted_age, predicted_male, text), and a
# folder portraits/ of synthetic people with its own manifest.csv (file, age, male, text).
# Run it again to resume; every checkpoint is usable.
#
# cpu (default): on two cores about 3 minutes for the cache, 30 for the autoencoder, 10 for the attribute encoder, 4 for
# the identity model, 2 hours for the generator and 30 minutes for its last steps. The shipped attribute encoder and
# identity model came from this recipe, except that the encoder's crops had 160 px and that the synthetic people's ages
# and sexes were those of portraits/. The shipped autoencoder and generator are older and leave composites unchanged
# (--default_strength 0).
# gpu: crops of 256 px and larger models, sized for 25 minutes on one 80 GB GPU; only its parts were tested, on a CPU.
set -euo pipefail
data=$1 out=$2 kind=${3:-cpu}
cache=$out/cache
if [ "$kind" = gpu ]; then
    resolution=256 variants=6 launch=(accelerate launch --num_processes 1 --num_machines 1 --dynamo_backend inductor)
    vae=(--block_out_channels 48,96,128,160 --train_batch_size 32 --learning_rate 4e-4)
    clip=(--train_batch_size 256 --learning_rate 2e-3) generator=(--block_out_channels 128,256,384 --train_batch_size 128)
    steps=(6000 1000 8000 2000)
else
    resolution=128 variants=4 launch=(accelerate launch --num_processes 1 --num_machines 1 --dynamo_backend no
        --num_cpu_threads_per_process "$(nproc)") # the default is one thread
    vae=(--block_out_channels 24,48,96 --train_batch_size 8 --learning_rate 5e-4)
    clip=(--train_batch_size 64 --learning_rate 1.5e-3) generator=(--block_out_channels 48,96,160 --train_batch_size 16)
    steps=(1600 600 8000 2500)
fi
common=(--train_data_dir "$cache" --mixed_precision bf16 --resume_from_checkpoint latest)

deid-diffusion prepare "$data"/faces_colour.tar "$data"/faces_grey.tar --manifest "$data/manifest.csv" -o "$cache" \
    --resolution "$resolution" --variants "$variants"

"${launch[@]}" training/train_vae.py "${common[@]}" "${vae[@]}" --output_dir "$out/vae" --ema_decay 0.995 \
    --adversarial_start $((steps[0] * 3 / 4)) --max_train_steps "${steps[0]}" --checkpointing_steps 400 \
    --validation_steps 400

"${launch[@]}" training/train_attribute_encoder.py "${common[@]}" "${clip[@]}" --output_dir "$out/clip" \
    --lr_scheduler constant_with_warmup --lr_warmup_steps 100 --adam_weight_decay 0.1 --max_grad_norm 5 \
    --ema_decay 0.995 \
    --max_train_steps "${steps[1]}" --checkpointing_steps 400

python training/fit_identity_model.py --train_data_dir "$data/portraits" --encoder "$out/clip/image_encoder" \
    --output_dir "$out/identity_model"

"${launch[@]}" training/train_face_deid.py "${common[@]}" "${generator[@]}" --output_dir "$out/generator" \
    --vae "$out/vae" --clip "$out/clip" --learning_rate 6e-4 --lr_scheduler cosine --lr_warmup_steps 150 \
    --ema_decay 0.999 --max_train_steps "${steps[2]}" --checkpointing_steps 500 --validation_steps 500

"${launch[@]}" training/train_face_deid.py "${common[@]}" "${generator[@]}" --output_dir "$out/last_steps" \
    --vae "$out/vae" --clip "$out/clip" --initial_generator "$out/generator" --start_strength 0.3 \
    --identity_model "$out/identity_model" --learning_rate 1.5e-4 --lr_warmup_steps 50 --ema_decay 0.995 --max_train_steps "${steps[3]}" \
    --checkpointing_steps 250 --validation_steps 250

python training/assemble.py --vae "$out/vae" --clip "$out/clip" --generator "$out/last_steps" \
    --identity_model "$out/identity_model" --default_steps 8 --output_dir "$out/model"
