// Y = conv(X, W) with dense W, and the input gradient by the same sums over W transposed: an implicit matrix product of the
// weight, [row][k], with the columns of X, [k][column], where k = (channel, tap) and row k of X is X at the offset of that
// channel and tap (points and columns as in conv_sparse.wgsl). Each group of channels is a product of its own.
//
// A workgroup computes 8 · ROW_THREADS rows by 32 columns (of four samples). It stages DEPTH values of k in shared memory, of
// W and of X, and each invocation then makes 8 rows by one column: for each k two vectors of W, which all invocations of a row
// read together, and one of X for 32 multiply-adds. The offsets of a stage are computed while the one before is loaded.

override ROW_THREADS: u32 = 8u;
const COLUMNS: u32 = 32u;
const DEPTH: u32 = 16u;

// Places and distances are in vec4, or in elements where strips have a single sample; in W they are elements.
struct Parameters {
    grid: Points,
    // From channel to channel of X.
    from_channel: u32,
    // Taps that the points see: rows and columns of them, from one to the next in X (backwards in the input gradient: sums wrap)
    // and in W, and the first in W.
    tap_rows: u32,
    tap_columns: u32,
    tap_row: u32,
    tap_column: u32,
    w_tap_row: u32,
    w_tap_column: u32,
    w_first: u32,
    // From row to row, channel to channel and group to group in W.
    w_row: u32,
    w_channel: u32,
    w_group: u32,
    // Of each group: rows, channels, and tiles of rows.
    rows: u32,
    channels: u32,
    row_tiles: u32,
    groups: u32,
    columns: u32,
    // Samples that count, of the strips of this launch: what lies behind them becomes zero.
    samples: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
// X twice: as vectors and as single elements.
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> x_single: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y_single: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// [k][quad of rows], a vector more than needed, lest all values of a row lie in one bank.
var<workgroup> weights: array<vec4<f32>, DEPTH * (2u * ROW_THREADS + 1u)>;
// [k][column].
var<workgroup> inputs: array<vec4<f32>, 512>;
// Place in X and in W for each k, of this stage and the next.
var<workgroup> depths: array<vec2<u32>, 32>;

struct Task {
    group: u32,
    // The invocation's first row in the group, and its column.
    row: u32,
    column: u32,
}

struct Sums {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
    s4: vec4<f32>,
    s5: vec4<f32>,
    s6: vec4<f32>,
    s7: vec4<f32>,
}

fn task(id: u32, local: vec3<u32>) -> Task {
    let tiles = p.row_tiles * p.groups;
    let tile = id % tiles;
    return Task(
        tile / p.row_tiles,
        (tile % p.row_tiles * ROW_THREADS + local.y) * 8u,
        id / tiles * COLUMNS + local.x,
    );
}

// Place of k in X, for a group's first channel, and in W, for its first row.
fn depth(k: u32) -> vec2<u32> {
    let taps = p.tap_rows * p.tap_columns;
    let channel = k / taps;
    let tap = k % taps;
    let i = tap / p.tap_columns;
    let j = tap % p.tap_columns;
    return vec2<u32>(
        channel * p.from_channel + i * p.tap_row + j * p.tap_column,
        channel * p.w_channel + p.w_first + i * p.w_tap_row + j * p.w_tap_column,
    );
}

fn sums(task: Task, local: vec3<u32>) -> Sums {
    let index = local.y * COLUMNS + local.x;
    let first_row = task.row - 8u * local.y;
    let from_x = from_column(task.column) + vec4<u32>(task.group * p.channels * p.from_channel);
    let pitch = 2u * ROW_THREADS + 1u;
    let depth_count = p.channels * p.tap_rows * p.tap_columns;
    // What this invocation loads of W: four rows of one k.
    let w_depth = index % DEPTH;
    let w_rows = index / DEPTH;
    let w_at = task.group * p.w_group;
    var s: Sums;
    if (index < DEPTH && index < depth_count) {
        depths[index] = depth(index);
    }
    var stage = 0u;
    for (var first = 0u; first < depth_count; first += DEPTH) {
        workgroupBarrier();
        var loaded = vec4<f32>(0.0);
        if (first + w_depth < depth_count) {
            let row = first_row + 4u * w_rows;
            let at = w_at + depths[stage + w_depth].y + row * p.w_row;
            if (row < p.rows) {
                loaded.x = w[at];
            }
            if (row + 1u < p.rows) {
                loaded.y = w[at + p.w_row];
            }
            if (row + 2u < p.rows) {
                loaded.z = w[at + 2u * p.w_row];
            }
            if (row + 3u < p.rows) {
                loaded.w = w[at + 3u * p.w_row];
            }
        }
        weights[w_depth * pitch + w_rows] = loaded;
        for (var k = local.y; k < DEPTH; k += ROW_THREADS) {
            // Beyond the last k zeros: a product with what stands elsewhere in X might be NaN.
            var input = vec4<f32>(0.0);
            if (first + k < depth_count) {
                input = load(from_x, depths[stage + k].x);
            }
            inputs[k * COLUMNS + local.x] = input;
        }
        stage = DEPTH - stage;
        if (index < DEPTH && first + DEPTH + index < depth_count) {
            depths[stage + index] = depth(first + DEPTH + index);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let low = weights[k * pitch + 2u * local.y];
            let high = weights[k * pitch + 2u * local.y + 1u];
            let input = inputs[k * COLUMNS + local.x];
            s.s0 += low.x * input;
            s.s1 += low.y * input;
            s.s2 += low.z * input;
            s.s3 += low.w * input;
            s.s4 += high.x * input;
            s.s5 += high.y * input;
            s.s6 += high.z * input;
            s.s7 += high.w * input;
        }
    }
    return s;
}

fn store(task: Task, row: u32, sum: vec4<f32>) {
    if (row < p.rows && task.column < p.columns) {
        let point = task.column / STRIP_QUADS;
        let quad = task.column % STRIP_QUADS;
        let sample = (point / p.grid.pixels * STRIP_QUADS + quad) * 4u;
        let samples = vec4<u32>(sample, sample + 1u, sample + 2u, sample + 3u);
        let masked = select(sum, vec4<f32>(0.0), samples >= vec4<u32>(p.samples));
        y[to_point(point) + quad + (task.group * p.rows + row) * p.grid.to_channel] = masked;
    }
}

fn store_single(task: Task, row: u32, sum: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let point = 4u * task.column + i;
        if (row < p.rows && point < p.grid.points) {
            y_single[to_point(point) + (task.group * p.rows + row) * p.grid.to_channel] = sum[i];
        }
    }
}

@compute @workgroup_size(32, ROW_THREADS)
fn conv_dense(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task(group.x + group.y * groups.x, local);
    let s = sums(task, local);
    store(task, task.row, s.s0);
    store(task, task.row + 1u, s.s1);
    store(task, task.row + 2u, s.s2);
    store(task, task.row + 3u, s.s3);
    store(task, task.row + 4u, s.s4);
    store(task, task.row + 5u, s.s5);
    store(task, task.row + 6u, s.s6);
    store(task, task.row + 7u, s.s7);
}

@compute @workgroup_size(32, ROW_THREADS)
fn conv_dense_single(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task(group.x + group.y * groups.x, local);
    let s = sums(task, local);
    store_single(task, task.row, s.s0);
    store_single(task, task.row + 1u, s.s1);
    store_single(task, task.row + 2u, s.s2);
    store_single(task, task.row + 3u, s.s3);
    store_single(task, task.row + 4u, s.s4);
    store_single(task, task.row + 5u, s.s5);
    store_single(task, task.row + 6u, s.s6);
    store_single(task, task.row + 7u, s.s7);
}
