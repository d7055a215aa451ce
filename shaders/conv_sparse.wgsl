// Y = conv(X, W) with W in CSR, and the same for the input gradient with W's entries in transposed order: each stored weight
// is a multiply-add of one shifted image.
//
// Tensors are [strip][image row][channel][pixel][samples of the strip]. A pixel that a pass makes is a *point*; points are
// numbered through all strips, rows and pixels of the pass. Weight (o, c, i, j) meets for every point the element of X at the
// same offset from the point's place, so a row of W is a list of (offset, value), whatever stride, dilation and groups. A
// *column* is four samples of a point, one vec4; where strips have a single sample (IS_SINGLE) it is four points.
//
// A workgroup computes ROWS rows of W by 4 · LANES columns. An invocation has one row and four columns: sixteen sums that
// never leave its registers, over the row's entries in their order. The entries of the workgroup's rows are staged in shared
// memory, STAGE of each row at a time; for each of them an invocation reads one pair there and four vectors of X, so that the
// pair costs a fifth of what is loaded.
//
// Rows come ordered by length, so the rows of a workgroup end together, and they walk through the channels side by side: what
// one row loads of X, the others find in the cache.

override LANES: u32 = 32u;
override ROWS: u32 = 8u;
// Entries of a row in shared memory.
const STAGE: u32 = 32u;
// From row to row there: rows that one subgroup reads at once must not lie in the same banks.
const PITCH: u32 = 40u;

struct Parameters {
    grid: Points,
    // Rows of W, groups of ROWS rows, and columns.
    rows: u32,
    row_groups: u32,
    columns: u32,
    // Samples that count, of the strips of this launch: what lies behind them becomes zero.
    samples: u32,
}

// (row, first entry, number of entries) of each row, longest first.
@group(0) @binding(0) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
// X twice: as vectors and as single elements.
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> x_single: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y_single: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// [row][entry]: offset, and the value's bits.
var<workgroup> staged: array<vec2<u32>, ROWS * PITCH>;

struct Task {
    row: vec4<u32>,
    longest: u32,
    is_valid: bool,
    // The first of the invocation's columns; the others follow at distances of LANES.
    column: u32,
}

struct Sums {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
}

fn task(id: u32, local: vec3<u32>) -> Task {
    // Groups of rows first: neighbouring workgroups read the same pixels of X.
    let first_row = (id % p.row_groups) * ROWS;
    let slot = first_row + local.y;
    var row = vec4<u32>(0u);
    if (slot < p.rows) {
        row = rows[slot];
    }
    // The first row of a group is its longest.
    return Task(row, rows[first_row].z, slot < p.rows, id / p.row_groups * (4u * LANES) + local.x);
}

fn sums(task: Task, local: vec3<u32>) -> Sums {
    let at0 = from_column(task.column);
    let at1 = from_column(task.column + LANES);
    let at2 = from_column(task.column + 2u * LANES);
    let at3 = from_column(task.column + 3u * LANES);
    let row = task.row;
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    for (var done = 0u; done < task.longest; done += STAGE) {
        workgroupBarrier();
        for (var i = local.x; i < STAGE; i += LANES) {
            if (done + i < row.z) {
                let entry = row.y + done + i;
                staged[local.y * PITCH + i] = vec2<u32>(offsets[entry], bitcast<u32>(values[entry]));
            }
        }
        workgroupBarrier();
        if (done < row.z && task.column < p.columns) {
            let count = min(STAGE, row.z - done);
            for (var i = 0u; i < count; i++) {
                let entry = staged[local.y * PITCH + i];
                let value = bitcast<f32>(entry.y);
                s0 += value * load(at0, entry.x);
                s1 += value * load(at1, entry.x);
                s2 += value * load(at2, entry.x);
                s3 += value * load(at3, entry.x);
            }
        }
    }
    return Sums(s0, s1, s2, s3);
}

fn store(row: u32, column: u32, sum: vec4<f32>) {
    if (column < p.columns) {
        let point = column / STRIP_QUADS;
        let quad = column % STRIP_QUADS;
        let sample = (point / p.grid.pixels * STRIP_QUADS + quad) * 4u;
        let samples = vec4<u32>(sample, sample + 1u, sample + 2u, sample + 3u);
        let masked = select(sum, vec4<f32>(0.0), samples >= vec4<u32>(p.samples));
        y[to_point(point) + quad + row * p.grid.to_channel] = masked;
    }
}

fn store_single(row: u32, column: u32, sum: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let point = 4u * column + i;
        if (point < p.grid.points) {
            y_single[to_point(point) + row * p.grid.to_channel] = sum[i];
        }
    }
}

@compute @workgroup_size(LANES, ROWS)
fn conv_sparse(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task(group.x + group.y * groups.x, local);
    let s = sums(task, local);
    if (task.is_valid) {
        store(task.row.x, task.column, s.s0);
        store(task.row.x, task.column + LANES, s.s1);
        store(task.row.x, task.column + 2u * LANES, s.s2);
        store(task.row.x, task.column + 3u * LANES, s.s3);
    }
}

@compute @workgroup_size(LANES, ROWS)
fn conv_sparse_single(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task(group.x + group.y * groups.x, local);
    let s = sums(task, local);
    if (task.is_valid) {
        store_single(task.row.x, task.column, s.s0);
        store_single(task.row.x, task.column + LANES, s.s1);
        store_single(task.row.x, task.column + 2u * LANES, s.s2);
        store_single(task.row.x, task.column + 3u * LANES, s.s3);
    }
}
