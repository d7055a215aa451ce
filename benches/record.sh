#!/usr/bin/env bash
# Records the kernel grid and the training step of one build, one JSON object a line: what benches/results holds.
#
#   benches/record.sh RIGL ISA [DLMC_FOLDER] > FILE.jsonl
#
# RIGL is the command to measure and ISA its --isa. With a folder of DLMC patterns (*.smtx.xz, Deep Learning Matrix
# Collection) they are measured too, each before a uniform pattern of its shape and density. Takes about ten minutes on
# an idle machine; other load shows.
set -euo pipefail
rigl=$1 isa=$2 dlmc=${3:-}
kernel() { "$rigl" bench kernel --json --isa "$isa" --threads 1 "$@"; }

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
if [ -n "$dlmc" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    find "$dlmc" -name '*.smtx.xz' | sort | while read -r packed; do
        # DENSITY_NAME.smtx, so that names stay apart.
        file=$work/$(basename "$(dirname "$packed")")_$(basename "$packed" .xz)
        xz -dc "$packed" > "$file"
        read -r rows columns nnz < <(head -1 "$file" | tr ',' ' ')
        density=$(awk "BEGIN { print $nnz / $rows / $columns }")
        for op in spmm spmm_t sddmm; do
            (cd "$work" && kernel --op $op --shape "${rows}x${columns}x256" --pattern "$(basename "$file")")
            kernel --op $op --shape "${rows}x${columns}x256" --density "$density"
        done
    done
fi
"$rigl" bench step --json --isa "$isa" --model 3072-4096-4096-10 --batch-size 256 --density 1,0.2,0.1,0.05,0.02 --threads 1
for format in bsr8x8 bsr4x4; do
    "$rigl" bench step --json --isa "$isa" --model 3072-4096-4096-10 --batch-size 256 --density 0.2,0.1,0.05 --threads 1 \
        --format $format
done
