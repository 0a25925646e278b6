#!/bin/sh
# Several processes of one machine train a classifier, as one would (docs/finetuning.md):
#
#     sh examples/distributed.sh --dataset DATASET --output_dir RUN [other settings of finetune]
set -eu
torchrun --standalone --nproc_per_node "${PROCESSES:-2}" -m wave_network finetune "$@"
