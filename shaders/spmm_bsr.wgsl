// Y = W · X with W in blocks of H rows of Y by W columns, rows of X; X and Y in strips, [strip][feature][lane]. For the
// transposed product H and W are the columns and rows of the blocks as they are stored, and the index is that of the
// transposed blocks: values are read where they stand.
//
// An invocation computes T rows of Y in one row of blocks for one quad of lanes: T sums of four lanes in registers, over the
// blocks in their order, so that neither T nor the shape of a workgroup changes a bit. A quad of X that was loaded serves T
// rows. Values and indices are the same for all invocations of a row: one load for all of them, of four values at once where
// four lie side by side in the direction that is wanted:
//
//     forward     a row of the block: four columns, so four quads of X, by T rows
//     transposed  a stored row is a column of what is wanted: four of the T rows at once
//     narrow      blocks with fewer than four columns: value by value
//
// Rows of blocks come ordered by length, so the rows of a workgroup end together. What reaches beyond the matrix is not used:
// it may be NaN.

override QUADS: u32 = 8u;
// Groups of T rows in a workgroup.
override SLOTS: u32 = 16u;
override H: u32 = 4u;
override W: u32 = 4u;
// 1, 2, 4 or 8, at most H.
override T: u32 = 4u;
// Steps between the values of neighbouring rows and columns of what is wanted, in narrow blocks.
override DOWN: u32 = 4u;
override ACROSS: u32 = 1u;

struct Parameters {
    // Rows of blocks in the list, and groups of SLOTS of their parts of T rows.
    rows: u32,
    slot_groups: u32,
    // Quads of lanes, padding included, and in a strip.
    quads: u32,
    strip_quads: u32,
    // Features of X and Y.
    x_features: u32,
    y_features: u32,
    // Lanes that count, of the strips of this launch: what lies behind them becomes zero.
    lanes: u32,
    // First entry of the windows of `columns` and `places`.
    first_entry: u32,
    // First block of the window of the values, and how many there are.
    first_block: u32,
    blocks: u32,
    // Bit 0: blocks of another window were added to Y before. Bit 1: blocks stand where `places` says.
    flags: u32,
}

// (row of blocks, first entry, number of entries), longest first.
@group(0) @binding(0) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> columns: array<u32>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> value_quads: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

// What an invocation computes.
struct Task {
    is_valid: bool,
    // Entry of the list, and which T of the block's rows.
    row: vec4<u32>,
    part: u32,
    // The quad: in its strip, of X and of Y, and its first lane.
    x_base: u32,
    y_base: u32,
    lane: u32,
}

fn task_of(group: u32, local: vec3<u32>) -> Task {
    // Groups of rows first: neighbouring workgroups read the same lanes of X.
    let slot = (group % p.slot_groups) * SLOTS + local.y;
    let quad = (group / p.slot_groups) * QUADS + local.x;
    let index = slot / (H / T);
    let strip = quad / p.strip_quads;
    let inside = quad % p.strip_quads;
    var task: Task;
    task.is_valid = index < p.rows && quad < p.quads;
    if (task.is_valid) {
        task.row = rows[index];
    }
    task.part = slot % (H / T);
    task.x_base = strip * p.x_features * p.strip_quads + inside;
    task.y_base = strip * p.y_features * p.strip_quads + inside;
    task.lane = quad * 4u;
    return task;
}

// Where a block stands in the window of the values, counted in blocks; 2^32 - 1 if it does not.
fn place_of(entry: u32) -> u32 {
    var place = entry;
    if ((p.flags & 2u) != 0u) {
        place = places[entry - p.first_entry];
    }
    if (place < p.first_block || place - p.first_block >= p.blocks) {
        return 0xffffffffu;
    }
    return place - p.first_block;
}

fn before(task: Task, t: u32) -> vec4<f32> {
    let feature = task.row.x * H + task.part * T + t;
    if ((p.flags & 1u) == 0u || feature >= p.y_features) {
        return vec4<f32>(0.0);
    }
    return y[task.y_base + feature * p.strip_quads];
}

fn store(task: Task, t: u32, sum: vec4<f32>) {
    let feature = task.row.x * H + task.part * T + t;
    if (feature < p.y_features) {
        let lanes = vec4<u32>(0u, 1u, 2u, 3u) + task.lane;
        y[task.y_base + feature * p.strip_quads] = select(sum, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
    }
}

// Four values, those from `rest` on as zeros.
fn four_values(i: u32, rest: u32) -> vec4<f32> {
    var four = value_quads[i];
    if (rest < 4u) {
        four = select(four, vec4<f32>(0.0), vec4<u32>(0u, 1u, 2u, 3u) >= vec4<u32>(rest));
    }
    return four;
}

fn x_quad(i: u32, is_inside: bool) -> vec4<f32> {
    if (is_inside) {
        return x[i];
    }
    return vec4<f32>(0.0);
}

fn combine(v: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    return (((sum + v.x * x0) + v.y * x1) + v.z * x2) + v.w * x3;
}

@compute @workgroup_size(QUADS, SLOTS)
fn forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task_of(group.x + group.y * groups.x, local);
    if (!task.is_valid) {
        return;
    }
    var s0 = before(task, 0u);
    var s1 = before(task, 1u);
    var s2 = before(task, 2u);
    var s3 = before(task, 3u);
    var s4 = before(task, 4u);
    var s5 = before(task, 5u);
    var s6 = before(task, 6u);
    var s7 = before(task, 7u);
    let row_quads = W / 4u;
    for (var e = 0u; e < task.row.z; e++) {
        let entry = task.row.y + e;
        let place = place_of(entry);
        if (place == 0xffffffffu) {
            continue;
        }
        let column = columns[entry - p.first_entry] * W;
        var at = (place * H + task.part * T) * row_quads;
        for (var j = 0u; j < row_quads; j++) {
            // Columns from here on that lie inside the matrix.
            let left = column + 4u * j;
            let rest = p.x_features - min(left, p.x_features);
            let x_at = task.x_base + left * p.strip_quads;
            let x0 = x_quad(x_at, rest > 0u);
            let x1 = x_quad(x_at + p.strip_quads, rest > 1u);
            let x2 = x_quad(x_at + 2u * p.strip_quads, rest > 2u);
            let x3 = x_quad(x_at + 3u * p.strip_quads, rest > 3u);
            s0 = combine(four_values(at, rest), x0, x1, x2, x3, s0);
            if (T > 1u) {
                s1 = combine(four_values(at + row_quads, rest), x0, x1, x2, x3, s1);
            }
            if (T > 2u) {
                s2 = combine(four_values(at + 2u * row_quads, rest), x0, x1, x2, x3, s2);
                s3 = combine(four_values(at + 3u * row_quads, rest), x0, x1, x2, x3, s3);
            }
            if (T > 4u) {
                s4 = combine(four_values(at + 4u * row_quads, rest), x0, x1, x2, x3, s4);
                s5 = combine(four_values(at + 5u * row_quads, rest), x0, x1, x2, x3, s5);
                s6 = combine(four_values(at + 6u * row_quads, rest), x0, x1, x2, x3, s6);
                s7 = combine(four_values(at + 7u * row_quads, rest), x0, x1, x2, x3, s7);
            }
            at += 1u;
        }
    }
    store_all(task, s0, s1, s2, s3, s4, s5, s6, s7);
}

@compute @workgroup_size(QUADS, SLOTS)
fn transposed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task_of(group.x + group.y * groups.x, local);
    if (!task.is_valid) {
        return;
    }
    var s0 = before(task, 0u);
    var s1 = before(task, 1u);
    var s2 = before(task, 2u);
    var s3 = before(task, 3u);
    var s4 = before(task, 4u);
    var s5 = before(task, 5u);
    var s6 = before(task, 6u);
    var s7 = before(task, 7u);
    for (var e = 0u; e < task.row.z; e++) {
        let entry = task.row.y + e;
        let place = place_of(entry);
        if (place == 0xffffffffu) {
            continue;
        }
        let column = columns[entry - p.first_entry] * W;
        let width = min(W, p.x_features - column);
        var at = (place * W * H + task.part * T) / 4u;
        var x_at = task.x_base + column * p.strip_quads;
        for (var j = 0u; j < width; j++) {
            let quad = x[x_at];
            let v = value_quads[at];
            s0 += v.x * quad;
            s1 += v.y * quad;
            s2 += v.z * quad;
            s3 += v.w * quad;
            if (T > 4u) {
                let w = value_quads[at + 1u];
                s4 += w.x * quad;
                s5 += w.y * quad;
                s6 += w.z * quad;
                s7 += w.w * quad;
            }
            at += H / 4u;
            x_at += p.strip_quads;
        }
    }
    store_all(task, s0, s1, s2, s3, s4, s5, s6, s7);
}

@compute @workgroup_size(QUADS, SLOTS)
fn narrow(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let task = task_of(group.x + group.y * groups.x, local);
    if (!task.is_valid) {
        return;
    }
    var s0 = before(task, 0u);
    var s1 = before(task, 1u);
    var s2 = before(task, 2u);
    var s3 = before(task, 3u);
    var s4 = before(task, 4u);
    var s5 = before(task, 5u);
    var s6 = before(task, 6u);
    var s7 = before(task, 7u);
    for (var e = 0u; e < task.row.z; e++) {
        let entry = task.row.y + e;
        let place = place_of(entry);
        if (place == 0xffffffffu) {
            continue;
        }
        let column = columns[entry - p.first_entry] * W;
        let width = min(W, p.x_features - column);
        var at = place * W * H + task.part * T * DOWN;
        var x_at = task.x_base + column * p.strip_quads;
        for (var j = 0u; j < width; j++) {
            let quad = x[x_at];
            s0 += values[at] * quad;
            if (T > 1u) {
                s1 += values[at + DOWN] * quad;
            }
            if (T > 2u) {
                s2 += values[at + 2u * DOWN] * quad;
                s3 += values[at + 3u * DOWN] * quad;
            }
            if (T > 4u) {
                s4 += values[at + 4u * DOWN] * quad;
                s5 += values[at + 5u * DOWN] * quad;
                s6 += values[at + 6u * DOWN] * quad;
                s7 += values[at + 7u * DOWN] * quad;
            }
            at += ACROSS;
            x_at += p.strip_quads;
        }
    }
    store_all(task, s0, s1, s2, s3, s4, s5, s6, s7);
}

fn store_all(
    task: Task,
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
    s4: vec4<f32>,
    s5: vec4<f32>,
    s6: vec4<f32>,
    s7: vec4<f32>,
) {
    store(task, 0u, s0);
    if (T > 1u) {
        store(task, 1u, s1);
    }
    if (T > 2u) {
        store(task, 2u, s2);
        store(task, 3u, s3);
    }
    if (T > 4u) {
        store(task, 4u, s4);
        store(task, 5u, s5);
        store(task, 6u, s6);
        store(task, 7u, s7);
    }
}
