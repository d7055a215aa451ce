// keys[block] = one more than the bits of the Frobenius norm of each R × C block of some rows of a matrix; a norm that is NaN
// counts as 0, and what of a block lies outside the matrix is none of it. An invocation has one block, neighbours have
// neighbouring blocks of a row of blocks.
//
// Norms are as those of sums in f64 that are rounded once: a power of two brings the block's largest entry near 1, so that
// no square overflows or vanishes that matters; squares are sums of three exact products of halves of the digits; they add
// up in pairs of f32, the second of which holds what was rounded off the first; and one step of Newton's takes that into
// the root.

override R: u32 = 4u;
override C: u32 = 4u;

struct Parameters {
    // Blocks of the rows, and of one row of blocks.
    blocks: u32,
    across: u32,
    // Rows and columns of the matrix.
    rows: u32,
    columns: u32,
    // Always 0, which no compiler knows.
    zero: u32,
}

@group(0) @binding(0) var<storage, read> gradient: array<u32>;
@group(0) @binding(1) var<storage, read_write> keys: array<u32>;
@group(1) @binding(0) var<uniform> p: Parameters;

const INFINITY: u32 = 0x7f800000u;

// The first 12 digits of a number.
fn upper(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

// The same number, of which compilers do not know where it comes from: Mesa's take (a + b) - a for b, without rounding.
fn sealed(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ p.zero);
}

// sum + x, exactly but for the last digits of the second part.
fn add(sum: vec2<f32>, x: f32) -> vec2<f32> {
    let total = sealed(sum.x + x);
    let part = sealed(total - sum.x);
    return vec2<f32>(total, sum.y + ((sum.x - (total - part)) + (x - part)));
}

fn root(sum: vec2<f32>) -> f32 {
    let total = sealed(sum.x + sum.y);
    if (!(total > 0.0)) {
        return 0.0;
    }
    let rest = sum.y - (total - sum.x);
    let near = sqrt(total);
    let high = upper(near);
    let low = near - high;
    let off = (((total - high * high) - 2.0 * high * low) - low * low) + rest;
    return near + off / (2.0 * near);
}

fn norm(block: u32) -> u32 {
    let row = block / p.across * R;
    let column = block % p.across * C;
    let height = min(R, p.rows - row);
    let width = min(C, p.columns - column);
    var largest = 0u;
    for (var i = 0u; i < height; i++) {
        for (var j = 0u; j < width; j++) {
            largest = max(largest, gradient[(row + i) * p.columns + column + j] & 0x7fffffffu);
        }
    }
    if (largest >= INFINITY) {
        return select(0u, INFINITY, largest == INFINITY);
    }
    let exponent = clamp(largest >> 23u, 1u, 253u);
    let scale = bitcast<f32>((254u - exponent) << 23u);
    var sum = vec2<f32>(0.0);
    for (var i = 0u; i < height; i++) {
        for (var j = 0u; j < width; j++) {
            let x = bitcast<f32>(gradient[(row + i) * p.columns + column + j]) * scale;
            let high = upper(x);
            let low = x - high;
            sum = add(add(add(sum, high * high), 2.0 * high * low), low * low);
        }
    }
    return bitcast<u32>(root(sum) * bitcast<f32>(exponent << 23u)) & 0x7fffffffu;
}

@compute @workgroup_size(64)
fn block_norms(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let block = (group.x + group.y * groups.x) * 64u + local;
    if (block < p.blocks) {
        keys[block] = norm(block) + 1u;
    }
}
