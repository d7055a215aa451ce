#!/usr/bin/env bash
# Fails if a vector instruction of the kernels was compiled as a function of its own, outside the functions that have the
# processor's features: each use is then a call, up to ten times as slow, while results stay right. It happens where the compiler does not
# inline an iterator's `fold` or `array::from_fn` over vectors.
#
#     tests/inlined.sh target/release/deps/libsparse_kernels-*.rlib
set -euo pipefail
[ $# -gt 0 ] && [ -e "$1" ] || { echo "usage: $0 RLIB..., libraries of sparse-kernels with their symbols" >&2; exit 2; }

functions=$(nm --demangle "$@" 2>/dev/null | sed -n 's/^[0-9a-f]* [tTwW] //p')
if ! grep -q 'cpu::isa::' <<<"$functions"; then
    echo "$*: holds no kernels with their symbols" >&2
    exit 2
fi
# Intrinsics, and the operations of an instruction set but for those that start a kernel.
alone=$(grep -E 'core_arch::|cpu::isa::(x86|aarch64)' <<<"$functions" | grep -vE 'Isa>::call(::run)?$|::detect$' | sort -u || true)
if [ -n "$alone" ]; then
    printf 'not inlined into a kernel:\n%s\n' "$alone" >&2
    exit 1
fi
