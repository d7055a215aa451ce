// dW[i, j] = Σ_n dY[i, n] · X[j, n] at the entries of stored blocks of R × C; dY and X in strips, [strip][feature][lane].
//
// Blocks are cut into tiles of at most 4 × 4 entries. A tile belongs to SPLIT invocations, each of which takes every SPLIT-th
// quad of lanes: those of eight quads side by side are one line of 128 bytes of a feature. An invocation loads eight quads
// for sixteen products of four lanes, and keeps the sixteen sums in registers to the end; then the invocations of a tile add
// theirs up in shared memory, in their order. Tiles of a block, and blocks of a row, are neighbours, so what they load of dY
// is in the cache.
//
// Entries that reach beyond the matrix become 0.

override R: u32 = 4u;
override C: u32 = 4u;

// Invocations of a tile, and tiles of a workgroup.
const SPLIT: u32 = 8u;
const TILES: u32 = 16u;

struct Parameters {
    // Tiles of this launch.
    tiles: u32,
    // First block's place in the windows of the indices.
    first_block: u32,
    // Features of dY and X.
    nrows: u32,
    ncols: u32,
    // Strips, and quads of one.
    strips: u32,
    strip_quads: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> block_rows: array<u32>;
@group(0) @binding(1) var<storage, read> block_columns: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> values: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Sums of a tile's entries, [tile][entry][invocation].
var<workgroup> sums: array<f32, TILES * 16u * SPLIT>;

// Products of a row of dY and the tile's columns.
fn products(d: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>) -> vec4<f32> {
    var four = vec4<f32>(dot(d, x0), 0.0, 0.0, 0.0);
    if (C > 1u) {
        four.y = dot(d, x1);
    }
    if (C > 2u) {
        four.z = dot(d, x2);
        four.w = dot(d, x3);
    }
    return four;
}

fn keep(at: u32, four: vec4<f32>) {
    sums[at] = four.x;
    sums[at + SPLIT] = four.y;
    sums[at + 2u * SPLIT] = four.z;
    sums[at + 3u * SPLIT] = four.w;
}

@compute @workgroup_size(SPLIT, TILES)
fn sddmm_bsr(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let height = min(R, 4u);
    let width = min(C, 4u);
    let across = C / width;
    let tiles_of_block = across * (R / height);
    let tile = (group.x + group.y * groups.x) * TILES + local.y;
    let is_valid = tile < p.tiles;
    var block = 0u;
    var row = 0u;
    var column = 0u;
    // Place of the tile in its block.
    let inside_row = tile % tiles_of_block / across * height;
    let inside_column = tile % across * width;
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    if (is_valid) {
        block = tile / tiles_of_block;
        row = block_rows[p.first_block + block] * R + inside_row;
        column = block_columns[p.first_block + block] * C + inside_column;
        // Rows and columns beyond the last are read as the last, and not used.
        let rows = min(vec4<u32>(0u, 1u, 2u, 3u) + row, vec4<u32>(p.nrows - 1u)) * p.strip_quads;
        let columns = min(vec4<u32>(0u, 1u, 2u, 3u) + column, vec4<u32>(p.ncols - 1u)) * p.strip_quads;
        var strip = 0u;
        var quad = local.x;
        while (true) {
            while (quad >= p.strip_quads) {
                quad -= p.strip_quads;
                strip += 1u;
            }
            if (strip >= p.strips) {
                break;
            }
            let x_at = columns + strip * p.ncols * p.strip_quads + quad;
            let dy_at = rows + strip * p.nrows * p.strip_quads + quad;
            let x0 = x[x_at.x];
            var x1 = vec4<f32>(0.0);
            var x2 = vec4<f32>(0.0);
            var x3 = vec4<f32>(0.0);
            if (C > 1u) {
                x1 = x[x_at.y];
            }
            if (C > 2u) {
                x2 = x[x_at.z];
                x3 = x[x_at.w];
            }
            a0 += products(dy[dy_at.x], x0, x1, x2, x3);
            if (R > 1u) {
                a1 += products(dy[dy_at.y], x0, x1, x2, x3);
            }
            if (R > 2u) {
                a2 += products(dy[dy_at.z], x0, x1, x2, x3);
                a3 += products(dy[dy_at.w], x0, x1, x2, x3);
            }
            quad += SPLIT;
        }
    }
    let of_tile = local.y * 16u * SPLIT;
    let own = of_tile + local.x;
    keep(own, a0);
    keep(own + 4u * SPLIT, a1);
    keep(own + 8u * SPLIT, a2);
    keep(own + 12u * SPLIT, a3);
    workgroupBarrier();
    if (!is_valid) {
        return;
    }
    for (var entry = local.x; entry < 16u; entry += SPLIT) {
        let i = entry / 4u;
        let j = entry % 4u;
        if (i >= height || j >= width) {
            continue;
        }
        let at = (block * R + inside_row + i) * C + inside_column + j;
        var sum = 0.0;
        for (var part = 0u; part < SPLIT; part++) {
            sum += sums[of_tile + entry * SPLIT + part];
        }
        if (p.accumulate != 0u) {
            sum += values[at];
        }
        values[at] = select(0.0, sum, row + i < p.nrows && column + j < p.ncols);
    }
}
