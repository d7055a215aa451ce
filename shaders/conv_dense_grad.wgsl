// The gradient of a dense convolution's weight, dW[o][c, i, j] = Σ dY[o] · X[c] at the offset of tap (i, j), over all points
// and samples (points and columns as in conv_sparse.wgsl); of all output channels, or of a band of them. An implicit matrix
// product of dY, [o][column], with X, [c, i, j][column], for each group of channels.
//
// A workgroup computes 64 output channels by 64 of (c, i, j) over a slice of the points. It stages DEPTH columns of each in
// shared memory, and an invocation makes 4 × 4 of the sums: for each column four vectors of dY and four of X for 64
// multiply-adds. An invocation always loads the same row of dY and of X, so offsets are computed once.
//
// With more than one slice, sums go to [slice][weight], and sum_parts.wgsl adds them in order.

const TILE: u32 = 64u;
const DEPTH: u32 = 4u;
// From a column to the next in shared memory: a vector more than needed, lest all columns of a row lie in one bank.
const PITCH: u32 = 65u;

struct Parameters {
    grid: Points,
    // From channel to channel of X.
    from_channel: u32,
    // Taps: rows and columns, and from one to the next in X.
    tap_rows: u32,
    tap_columns: u32,
    tap_row: u32,
    tap_column: u32,
    // Of each group: output channels, input channels, tiles of output channels and of (c, i, j).
    rows: u32,
    channels: u32,
    row_tiles: u32,
    column_tiles: u32,
    // The first group that the band touches, and how many.
    first_group: u32,
    groups: u32,
    // The band of output channels.
    first_row: u32,
    end_row: u32,
    slices: u32,
    slice_points: u32,
    // Whether sums are added to what is there; with one slice only.
    accumulate: u32,
}

// dY and X twice: as vectors and as single elements.
@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> dy_single: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x_single: array<f32>;
@group(0) @binding(4) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// [column][row].
var<workgroup> dy_tile: array<vec4<f32>, DEPTH * PITCH>;
var<workgroup> x_tile: array<vec4<f32>, DEPTH * PITCH>;

fn add_dots(sums: vec4<f32>, a: vec4<f32>, b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(add_dot(sums.x, a, b0), add_dot(sums.y, a, b1), add_dot(sums.z, a, b2), add_dot(sums.w, a, b3));
}

fn store(row: u32, column: u32, columns: u32, group: u32, slice: u32, sum: f32) {
    let o = group * p.rows + row;
    if (row < p.rows && column < columns && o >= p.first_row && o < p.end_row && slice < p.slices) {
        let at = (slice * (p.end_row - p.first_row) + o - p.first_row) * columns + column;
        if (p.accumulate != 0u) {
            to[at] += sum;
        } else {
            to[at] = sum;
        }
    }
}

@compute @workgroup_size(16, 16)
fn conv_dense_grad(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let index = local.y * 16u + local.x;
    var id = workgroup.x + workgroup.y * workgroups.x;
    let first_column = id % p.column_tiles * TILE;
    id /= p.column_tiles;
    let first_row = id % p.row_tiles * TILE;
    id /= p.row_tiles;
    let group = p.first_group + id % p.groups;
    let slice = id / p.groups;
    let taps = p.tap_rows * p.tap_columns;
    let columns = p.channels * taps;

    // What this invocation loads: one row of dY and one of X, each DEPTH-th column.
    let loaded = index / DEPTH;
    let depth = index % DEPTH;
    let has_row = first_row + loaded < p.rows;
    let has_column = first_column + loaded < columns;
    let dy_offset = (group * p.rows + first_row + loaded) * p.grid.to_channel;
    let tap = (first_column + loaded) % taps;
    let x_offset = (group * p.channels + (first_column + loaded) / taps) * p.from_channel
        + tap / p.tap_columns * p.tap_row + tap % p.tap_columns * p.tap_column;

    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    let end = min((slice + 1u) * p.slice_points, p.grid.points);
    for (var first = slice * p.slice_points; first < end; first += POINTS) {
        let count = min(POINTS, end - first);
        workgroupBarrier();
        if (index < count) {
            places[index] = place(first + index);
        }
        var quads = count * STRIP_QUADS;
        if (IS_SINGLE) {
            quads = (count + 3u) / 4u;
        }
        for (var done = 0u; done < quads; done += DEPTH) {
            workgroupBarrier();
            var dy_loaded = vec4<f32>(0.0);
            var x_loaded = vec4<f32>(0.0);
            let quad = done + depth;
            if (quad < quads) {
                if (IS_SINGLE) {
                    for (var i = 0u; i < 4u; i++) {
                        if (4u * quad + i < count) {
                            let place = places[4u * quad + i];
                            if (has_row) {
                                dy_loaded[i] = dy_single[place.y + dy_offset];
                            }
                            if (has_column) {
                                x_loaded[i] = x_single[place.x + x_offset];
                            }
                        }
                    }
                } else {
                    let place = places[quad / STRIP_QUADS] + vec2<u32>(quad % STRIP_QUADS);
                    if (has_row) {
                        dy_loaded = dy[place.y + dy_offset];
                    }
                    if (has_column) {
                        x_loaded = x[place.x + x_offset];
                    }
                }
            }
            dy_tile[depth * PITCH + loaded] = dy_loaded;
            x_tile[depth * PITCH + loaded] = x_loaded;
            workgroupBarrier();
            for (var k = 0u; k < DEPTH; k++) {
                let d = k * PITCH + local.y;
                let c = k * PITCH + local.x;
                let x0 = x_tile[c];
                let x1 = x_tile[c + 16u];
                let x2 = x_tile[c + 32u];
                let x3 = x_tile[c + 48u];
                s0 = add_dots(s0, dy_tile[d], x0, x1, x2, x3);
                s1 = add_dots(s1, dy_tile[d + 16u], x0, x1, x2, x3);
                s2 = add_dots(s2, dy_tile[d + 32u], x0, x1, x2, x3);
                s3 = add_dots(s3, dy_tile[d + 48u], x0, x1, x2, x3);
            }
        }
    }
    let row = first_row + local.y;
    for (var i = 0u; i < 4u; i++) {
        let column = first_column + local.x + 16u * i;
        store(row, column, columns, group, slice, s0[i]);
        store(row + 16u, column, columns, group, slice, s1[i]);
        store(row + 32u, column, columns, group, slice, s2[i]);
        store(row + 48u, column, columns, group, slice, s3[i]);
    }
}
