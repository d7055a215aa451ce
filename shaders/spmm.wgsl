// Y = act(W · X + bias) with W in CSR; X and Y in strips, [strip][feature][lane].
//
// A workgroup computes ROWS rows of W by QUADS quads of lanes. An invocation has one row and one quad: four sums that never
// leave its registers, over the row's entries in their order, so that neither the size of a subgroup nor the grid changes a
// bit. The entries of the workgroup's rows are staged in shared memory, STAGE of each row at a time; for each of them an
// invocation then reads one pair from shared memory and one quad of X.
//
// Rows come ordered by length, so the rows of a workgroup end together, and they walk through the columns side by side: what
// one row loads of X, the others find in the cache.

override ROWS: u32 = 32u;
override QUADS: u32 = 8u;
// Entries of a row in shared memory: ROWS · STAGE pairs of 8 bytes.
override STAGE: u32 = 32u;

struct Parameters {
    // Rows in the list.
    rows: u32,
    // Groups of ROWS rows.
    row_groups: u32,
    // Quads of lanes, padding included.
    quads: u32,
    // Quads in a strip.
    strip_quads: u32,
    // Features of X and Y.
    x_features: u32,
    y_features: u32,
    // Lanes that count, of the strips of this launch: what lies behind them becomes zero.
    lanes: u32,
    // First entry of the window of `columns` and `values`.
    first_entry: u32,
    // Bit 0: there is a bias. Bit 1: ReLU.
    flags: u32,
}

// (row, first entry, number of entries) of each row, longest first.
@group(0) @binding(0) var<storage, read> rows: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> columns: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> staged: array<vec2<u32>, ROWS * STAGE>;

@compute @workgroup_size(QUADS, ROWS)
fn spmm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    // Groups of rows first: neighbouring workgroups read the same lanes of X.
    let first_row = (id % p.row_groups) * ROWS;
    let quad = (id / p.row_groups) * QUADS + local.x;
    let slot = first_row + local.y;
    var row = vec4<u32>(0u);
    if (slot < p.rows) {
        row = rows[slot];
    }
    let start = row.y - p.first_entry;
    // The first row of a group is its longest.
    let longest = rows[first_row].z;
    let strip = quad / p.strip_quads;
    let inside = quad % p.strip_quads;
    let is_valid = slot < p.rows && quad < p.quads;
    let x_base = strip * p.x_features * p.strip_quads + inside;

    var sum = vec4<f32>(0.0);
    if ((p.flags & 1u) != 0u && is_valid) {
        sum = vec4<f32>(bias[row.x]);
    }
    for (var done = 0u; done < longest; done += STAGE) {
        workgroupBarrier();
        for (var i = local.x; i < STAGE; i += QUADS) {
            if (done + i < row.z) {
                let at = start + done + i;
                staged[local.y * STAGE + i] = vec2<u32>(columns[at] * p.strip_quads, bitcast<u32>(values[at]));
            }
        }
        workgroupBarrier();
        if (is_valid && done < row.z) {
            let count = min(STAGE, row.z - done);
            for (var i = 0u; i < count; i++) {
                let entry = staged[local.y * STAGE + i];
                sum += bitcast<f32>(entry.y) * x[x_base + entry.x];
            }
        }
    }
    if (!is_valid) {
        return;
    }
    if ((p.flags & 2u) != 0u) {
        // Not max: a NaN stays one.
        sum = select(sum, vec4<f32>(0.0), sum < vec4<f32>(0.0));
    }
    // Lanes beyond the last that counts.
    let lane = strip * p.strip_quads * 4u + inside * 4u;
    let lanes = vec4<u32>(lane, lane + 1u, lane + 2u, lane + 3u);
    sum = select(sum, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
    y[(strip * p.y_features + row.x) * p.strip_quads + inside] = sum;
}
