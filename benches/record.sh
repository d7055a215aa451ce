#!/usr/bin/env bash
# Records the kernel grid and the training step of one build, one JSON object per line, for benches/results.
#
#   benches/record.sh RIGL ISA [DLMC_FOLDER [REFERENCE.jsonl]] > FILE.jsonl
#
# With ONLY=linear, ONLY=conv, ONLY=step (a perceptron) or ONLY=vision (convolutional networks) in the environment it
# records only that part.
#
# RIGL is the command to measure and ISA its --isa. With a folder of DLMC patterns (*.smtx.xz, Deep Learning Matrix
# Collection; '' for none) it measures those too, each followed by a uniform pattern of its shape and density. Takes about
# a quarter of an hour on an idle machine; other load distorts the result.
#
# REFERENCE.jsonl holds times of another library's dense convolutions (PyTorch's), measured with one thread on the same
# machine, and is passed to the convolutions as --dense-reference. Each convolution must have a record for every pass:
#   {"op": "dense_conv_forward", "shape": [OC, IC, K, H, W, N], "threads": 1, "time_ns": 123456}
# op may also be dense_conv_input_grad or dense_conv_weight_grad, and each may have a suffix for a variant
# (dense_conv_forward_nchw, ..._nhwc): the fastest counts. "stride" and "groups" are optional; a record without them
# matches any. Other fields, and lines without op, are ignored.
set -euo pipefail
rigl=$1 isa=$2 dlmc=${3:-} reference=${4:-}
kernel() { "$rigl" bench kernel --json --isa "$isa" --threads 1 "$@"; }
conv() { kernel ${reference:+--dense-reference "$reference"} --op "$@"; }

part() { [ "${ONLY:-$1}" = "$1" ]; }

if part linear; then
    shapes="512x512x256 1024x1024x256 2048x2048x128 300x784x100 4096x1024x64"
    for shape in $shapes; do
        for op in spmm spmm_t sddmm; do
            kernel --op $op --shape $shape --density 0.5,0.4,0.2,0.1,0.05,0.02
            for format in bsr8x8 bsr4x4; do kernel --op $op --shape $shape --density 0.5,0.2,0.1,0.05 --format $format; done
        done
        kernel --op grow --shape $shape --density 0.2,0.1,0.05
    done
    for op in spmm spmm_t; do
        for lanes in 1 4 8; do kernel --op $op --shape 4096x4096x$lanes --density 0.1,0.05; done
    done
    for op in spmm spmm_t sddmm; do
        for pattern in uniform power-law; do
            kernel --op $op --shape 2048x2048x256 --density 0.2,0.1,0.05 --pattern $pattern
        done
    done
fi
if part conv; then
    passes="conv_forward conv_input_grad conv_weight_grad"
    # Shapes with their strides.
    while read -r shape stride; do
        for op in $passes; do
            conv $op --shape $shape --stride $stride --density 0.5,0.2,0.1,0.05,0.02
            # A block must lie within one tap's channels: three are too few.
            case $shape in
                *x3x7x*) ;;
                *) conv $op --shape $shape --stride $stride --density 0.2,0.1 --format bsr8x8 ;;
            esac
            conv $op --shape $shape --stride $stride --format dense
        done
    done <<'SHAPES'
64x64x3x32x32x32 1
128x128x3x8x8x128 1
256x256x3x14x14x16 1
512x256x1x14x14x16 1
128x64x3x32x32x32 2
64x3x7x224x224x4 2
SHAPES
    for shape in 64x64x3x32x32x32 256x256x3x14x14x16; do conv grow --shape $shape --density 0.2,0.1,0.05; done
    # Single images, as in inference.
    for shape in 64x64x3x32x32x1 256x256x3x14x14x1; do
        conv conv_forward --shape $shape --density 0.1
        conv conv_forward --shape $shape --format dense
    done
    for op in $passes; do
        conv $op --shape 512x512x3x14x14x32 --groups 512 --format dense
        conv $op --shape 64x64x3x112x112x8 --groups 64 --format dense
    done
fi
if part linear && [ -n "$dlmc" ]; then
    find "$dlmc" -name '*.smtx.xz' | sort | while read -r file; do
        read -r rows columns nnz < <(xz -dc "$file" | head -1 | tr ',' ' ')
        density=$(awk "BEGIN { print $nnz / $rows / $columns }")
        for op in spmm spmm_t sddmm; do
            kernel --op $op --shape "${rows}x${columns}x256" --pattern "$file"
            kernel --op $op --shape "${rows}x${columns}x256" --density "$density"
        done
    done
fi
if part step; then
    "$rigl" bench step --json --isa "$isa" --model 3072-4096-4096-10 --batch-size 256 --density 1,0.2,0.1,0.05,0.02 --threads 1
    for format in bsr8x8 bsr4x4; do
        "$rigl" bench step --json --isa "$isa" --model 3072-4096-4096-10 --batch-size 256 --density 0.2,0.1,0.05 --threads 1 \
            --format $format
    done
fi
if part vision; then
    "$rigl" bench step --json --isa "$isa" --model wrn-22-2 --batch-size 128 --density 0.2,0.1,0.05 --threads 1
    "$rigl" bench step --json --isa "$isa" --model resnet-50 --batch-size 8 --distribution uniform --density 0.1 --threads 1
fi
