#!/bin/sh
# Several processes of one machine train a classifier, and then classify a file with it (docs/distributed.md):
#
#     sh examples/distributed.sh DATASET TEXTS [settings of finetune, such as --fsdp or --use_cpu]
#
# PROCESSES says how many, RUN where the run folder shall be.
set -eu
dataset=$1
texts=$2
shift 2
run=${RUN:-runs/distributed}

in_all_processes() {
    torchrun --standalone --nproc_per_node "${PROCESSES:-2}" -m wave_network.training.cli "$@"
}

in_all_processes finetune --dataset "$dataset" --output_dir "$run" "$@"
in_all_processes predict "$run" --file "$texts"
