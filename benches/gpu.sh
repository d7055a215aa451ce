#!/usr/bin/env bash
# Records, on a machine with an NVIDIA card: cuSPARSE and cuBLAS through PyTorch (TF32 off), PyTorch's dense WRN-22-2 step, and
# ours, in one go: one JSON object per line, and the ratios on standard error.
#
#   benches/gpu.sh RIGL [DEVICE] > FILE.jsonl
#
# RIGL is the command to measure, DEVICE its --device (gpu). Needs no network and no data folder. Without PyTorch or
# CUDA, it skips their side and says so. SMALL=1 uses small shapes, to try the script on a software driver.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
rigl=$1 device=${2:-gpu}
if [ -n "${SMALL:-}" ]; then
    shapes="256x256x64" densities=0.1,0.05 batch=2 conv="16x16x3x16x16x32"
else
    shapes="4096x4096x1024 4096x4096x4096 4096x4096x128" densities=0.5,0.4,0.3,0.2,0.1,0.05,0.02 batch=128 conv="32x32x3x32x32x128"
fi
records=$(mktemp)
trap 'rm -f "$records"' EXIT

"$rigl" devices --json | tee -a "$records"
for shape in $shapes; do
    for op in spmm spmm_t sddmm; do
        "$rigl" bench kernel --json --device "$device" --op $op --shape "$shape" --density $densities | tee -a "$records"
    done
    # The gain from activations in 16 bits and from subgroup operations.
    for op in spmm sddmm; do
        "$rigl" bench kernel --json --device "$device" --op $op --dtype f16 --shape "$shape" --density 0.1,0.05 | tee -a "$records"
    done
    "$rigl" bench kernel --json --device "$device" --op sddmm --isa portable --shape "$shape" --density 0.1,0.05 | tee -a "$records"
    "$rigl" bench kernel --json --device "$device" --op spmm --format bsr8x8 --shape "$shape" --density 0.1,0.05 | tee -a "$records"
done
for op in conv_forward conv_input_grad conv_weight_grad; do
    "$rigl" bench kernel --json --device "$device" --op $op --shape "$conv" --density 0.1,0.05 | tee -a "$records"
done
"$rigl" bench step --json --device "$device" --model wrn-22-2 --batch-size $batch --density 0.2,0.1,0.05 | tee -a "$records"

python=${PYTHON:-python3}
if "$python" -c 'import torch' 2>/dev/null; then
    "$python" "$here/gpu_torch.py" --shapes "$shapes" --densities "$densities" --batch-size "$batch" | tee -a "$records"
else
    echo '{"event":"torch","available":false,"reason":"no PyTorch"}' | tee -a "$records"
fi
"$python" "$here/gpu_ratios.py" "$records" >&2
