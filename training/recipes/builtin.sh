#!/usr/bin/env bash
# The embedded model, from face photographs to a pipeline folder: bash training/recipes/builtin.sh DATA OUT [cpu|gpu]
# DATA holds faces_colour.tar, faces_grey.tar and manifest.csv (columns file, predicted_age, predicted_male, text).
# Run it again to continue where it was stopped; every checkpoint is usable.
#
# cpu (the default): two cores, about 3 minutes of preparation, 30 of autoencoder, 5 of attribute encoder, 2 hours of
# generator, 40 minutes of its distillation to four steps. The shipped weights came from this one, except that their
# generator's first 4,000 steps were learned beside an earlier attribute encoder, that rates were stepped by hand, that
# the attribute encoder is the mean of those after steps 450 and 600, with an average of 0.99, and that the distillation
# took several runs, each of which went on from the one before, as the scripts learned of choices, looks and attributes:
# 2,100 steps of them beside an earlier attribute encoder, then 1,000, in 750 of which reading attributes again weighed
# three times as much, and at last 250 with the scripts as they are, with --attribute_weight 1 and six variants of each
# photo. The decoder learned alone for another 500 steps (train_vae.py --initial_vae, --adversarial_start 200).
# gpu: crops of 256 px and larger models, sized for 25 minutes on one 80 GB GPU. Only its parts were tried, on a CPU.
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
        --num_cpu_threads_per_process "$(nproc)") # left to itself, it takes one thread
    vae=(--block_out_channels 24,48,96 --train_batch_size 8 --learning_rate 5e-4)
    clip=(--train_batch_size 64 --learning_rate 1.5e-3) generator=(--block_out_channels 48,96,160 --train_batch_size 16)
    steps=(1600 600 8000 2500)
fi
common=(--train_data_dir "$cache" --mixed_precision bf16 --resume_from_checkpoint latest)

deid-diffusion prepare "$data"/faces_colour.tar "$data"/faces_grey.tar --manifest "$data/manifest.csv" -o "$cache" \
    --resolution "$resolution" --variants "$variants"

# who is painted: not a training, but a fit of some minutes; the package's own lies in deid_diffusion/faces
deid-diffusion prepare "$data"/faces_colour.tar --manifest "$data/manifest.csv" -o "$out/cache_fine" --resolution 256 \
    --variants 2
python training/fit_appearance.py --train_data_dir "$out/cache_fine" --output_dir "$out/appearance"

"${launch[@]}" training/train_vae.py "${common[@]}" "${vae[@]}" --output_dir "$out/vae" --ema_decay 0.995 \
    --adversarial_start $((steps[0] * 3 / 4)) --max_train_steps "${steps[0]}" --checkpointing_steps 400 \
    --validation_steps 400

"${launch[@]}" training/train_attribute_encoder.py "${common[@]}" "${clip[@]}" --output_dir "$out/clip" \
    --lr_scheduler constant_with_warmup --lr_warmup_steps 100 --adam_weight_decay 0.1 --max_grad_norm 5 \
    --ema_decay 0.995 \
    --max_train_steps "${steps[1]}" --checkpointing_steps 400

"${launch[@]}" training/train_face_deid.py "${common[@]}" "${generator[@]}" --output_dir "$out/generator" \
    --vae "$out/vae" --clip "$out/clip" --learning_rate 6e-4 --lr_scheduler cosine --lr_warmup_steps 150 \
    --ema_decay 0.999 --max_train_steps "${steps[2]}" --checkpointing_steps 500 --validation_steps 500

"${launch[@]}" training/train_face_deid.py "${common[@]}" "${generator[@]}" --output_dir "$out/few_steps" \
    --vae "$out/vae" --clip "$out/clip" --initial_generator "$out/generator" --distil_steps 4 --learning_rate 1.5e-4 \
    --lr_warmup_steps 50 --adam_beta1 0.5 --adam_beta2 0.99 --ema_decay 0.995 --max_train_steps "${steps[3]}" \
    --checkpointing_steps 250 --validation_steps 250

python training/assemble.py --vae "$out/vae" --clip "$out/clip" --generator "$out/few_steps" --output_dir "$out/model"
