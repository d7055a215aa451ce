// Y = act(W · X + bias) with W in CSR; X and Y in strips, [strip][feature][lane].
//
// A workgroup computes ROWS rows of W by 4 · QUADS lanes, or twice as many. An invocation has one row and one or two quads of
// lanes: four or eight sums that never leave its registers, over the row's entries in their order, so that neither the size of
// a subgroup nor the grid changes a bit. The entries of the workgroup's rows are staged in shared memory, STAGE of each row at
// a time; for each of them an invocation then reads one pair from shared memory and its quads of X. Both come through the same
// port: with two quads an invocation, pairs are a ninth of what goes through it, with one a fifth.
//
// Rows come ordered by length, so the rows of a workgroup end together, and they walk through the columns side by side: what
// one row loads of X, the others find in the cache.
//
// X may be stored in 16 bits: then an invocation's two quads lie side by side, and one load of 16 bytes brings both. Sums are
// f32 in any case.

override ROWS: u32 = 32u;
override QUADS: u32 = 8u;
// Whether an invocation has two quads, QUADS apart.
override IS_PAIR: bool = false;
// How X is stored. 0: f32. 1: f16. 2: bf16.
override X_TYPE: u32 = 0u;
// Entries of a row in shared memory.
const STAGE: u32 = 32u;
// From row to row there: the rows of a subgroup are read at once, and must not lie in the same banks.
const PITCH: u32 = 40u;

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
// X twice: as f32, and two lanes a word.
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> x_half: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

// [row][entry]: where the entry's feature begins in X, and the value's bits.
var<workgroup> staged: array<vec2<u32>, ROWS * PITCH>;

// Two quads of lanes.
struct Pair {
    a: vec4<f32>,
    b: vec4<f32>,
}

// Four numbers of 16 bits.
fn widen(words: vec2<u32>) -> vec4<f32> {
    if (X_TYPE == 1u) {
        return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    let bits = vec4<u32>(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u);
    return bitcast<vec4<f32>>(bits);
}

// The invocation's quads of the feature that begins at `feature`.
fn load(base: vec2<u32>, feature: u32) -> Pair {
    if (X_TYPE != 0u) {
        let words = x_half[(base.x + feature) / 2u];
        return Pair(widen(words.xy), widen(words.zw));
    }
    if (IS_PAIR) {
        return Pair(x[base.x + feature], x[base.y + feature]);
    }
    return Pair(x[base.x + feature], vec4<f32>(0.0));
}

fn add(sum: Pair, entry: vec2<u32>, x: Pair) -> Pair {
    let value = bitcast<f32>(entry.y);
    return Pair(sum.a + value * x.a, sum.b + value * x.b);
}

fn store(row: u32, quad: u32, total: vec4<f32>) {
    if (quad >= p.quads) {
        return;
    }
    var sum = total;
    if ((p.flags & 2u) != 0u) {
        // Not max: a NaN stays one.
        sum = select(sum, vec4<f32>(0.0), sum < vec4<f32>(0.0));
    }
    // Lanes beyond the last that counts.
    let lane = quad * 4u;
    let lanes = vec4<u32>(lane, lane + 1u, lane + 2u, lane + 3u);
    sum = select(sum, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
    y[(quad / p.strip_quads * p.y_features + row) * p.strip_quads + quad % p.strip_quads] = sum;
}

@compute @workgroup_size(QUADS, ROWS)
fn spmm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    // Groups of rows first: neighbouring workgroups read the same lanes of X.
    let first_row = (id % p.row_groups) * ROWS;
    let tile = id / p.row_groups;
    var quads = vec2<u32>(tile * QUADS + local.x);
    if (X_TYPE != 0u) {
        let first = 2u * quads.x;
        quads = vec2<u32>(first, first + 1u);
    } else if (IS_PAIR) {
        let first = 2u * tile * QUADS + local.x;
        quads = vec2<u32>(first, first + QUADS);
    }
    let slot = first_row + local.y;
    var row = vec4<u32>(0u);
    if (slot < p.rows) {
        row = rows[slot];
    }
    let start = row.y - p.first_entry;
    // The first row of a group is its longest.
    let longest = rows[first_row].z;
    let is_valid = slot < p.rows && quads.x < p.quads;
    // A second quad beyond the last reads the first one's place.
    let places = select(quads, quads.xx, quads >= vec2<u32>(p.quads));
    let base = places / p.strip_quads * (p.x_features * p.strip_quads) + places % p.strip_quads;

    var sum = Pair(vec4<f32>(0.0), vec4<f32>(0.0));
    if ((p.flags & 1u) != 0u && is_valid) {
        sum = Pair(vec4<f32>(bias[row.x]), vec4<f32>(bias[row.x]));
    }
    for (var done = 0u; done < longest; done += STAGE) {
        workgroupBarrier();
        for (var i = local.x; i < STAGE; i += QUADS) {
            if (done + i < row.z) {
                let at = start + done + i;
                staged[local.y * PITCH + i] = vec2<u32>(columns[at] * p.strip_quads, bitcast<u32>(values[at]));
            }
        }
        workgroupBarrier();
        if (is_valid && done < row.z) {
            var at = local.y * PITCH;
            let end = at + min(STAGE, row.z - done);
            // Four entries' loads on their way at a time.
            for (; at + 4u <= end; at += 4u) {
                let e0 = staged[at];
                let e1 = staged[at + 1u];
                let e2 = staged[at + 2u];
                let e3 = staged[at + 3u];
                let x0 = load(base, e0.x);
                let x1 = load(base, e1.x);
                let x2 = load(base, e2.x);
                let x3 = load(base, e3.x);
                sum = add(add(add(add(sum, e0, x0), e1, x1), e2, x2), e3, x3);
            }
            for (; at < end; at++) {
                sum = add(sum, staged[at], load(base, staged[at].x));
            }
        }
    }
    if (!is_valid) {
        return;
    }
    store(row.x, quads.x, sum.a);
    if (IS_PAIR || X_TYPE != 0u) {
        store(row.x, quads.y, sum.b);
    }
}
