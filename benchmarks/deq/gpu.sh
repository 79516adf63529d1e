#!/bin/sh
# The figures that need a GPU, in at most ten minutes:
#
#     sh benchmarks/deq/gpu.sh DATA OUTPUT
#
# 1. Times of the forward and of every backward pass, with bfloat16 and peak memory, of the large
#    CIFAR-10 model at batch 128, whose ratios the paper gives for a V100 (full 209 ms, SHINE 16,
#    Jacobian-free 12.9), and of the tiny one.
# 2. The tiny model trained on CIFAR-10 with three backward passes: test accuracy, and in the
#    log.csv of each run the loss against seconds.
#
# Variables size it: DEVICE, CONFIGS, BATCH, STEPS, ROUNDS, TRAINED, EPOCHS, LIMIT,
# TEST_LIMIT.
set -e
data=$1
output=$2
here=$(dirname "$0")
device=${DEVICE:-cuda}
mkdir -p "$output"

timeout 240 python "$here/costs.py" --config ${CONFIGS:-cifar10-large cifar10-tiny} --amp no bf16 \
    --batch "${BATCH:-128}" --steps "${STEPS:-18}" --rounds "${ROUNDS:-5}" \
    --device "$device" > "$output/costs.txt"
cat "$output/costs.txt"

timeout 340 python "$here/paper.py" accuracy --data "$data" --output "$output" \
    --config "${TRAINED:-cifar10-tiny}" --epochs "${EPOCHS:-2}" --limit "${LIMIT:-50000}" \
    --test-limit "${TEST_LIMIT:-10000}" \
    --methods full shine jacobian-free --seeds 1 --device "$device"
