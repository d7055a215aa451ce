// Rows of a table, one for each lane, into strips, [strip][feature][lane], and the sums of their gradients:
//
//   x[f, n] = table[tokens[n], f] + positions[n % length, f],   grad[r, f] = Σ dx[f, n] over the lanes n of row r
//
// `embed` has an invocation for each element. In `embed_grad` a workgroup has a row, and an invocation every GROUP-th feature
// of it. The workgroup reads GROUP rows' numbers at a time, and its invocations add the lanes that name its row, in their order:
// no other workgroup adds to it.
//
// A token that is no symbol makes its lane NaN, which is set by bits, and gives no gradient.

const GROUP = 256u;
const NAN_BITS = 0x7fc00000u;

struct Parameters {
    // Elements in this launch, of which the lanes that follow are padding.
    elements: u32,
    lanes: u32,
    // The number of the first of these lanes.
    first_lane: u32,
    features: u32,
    strip: u32,
    // Rows of the table, or of the gradient.
    rows: u32,
    // Places of a sequence; 0 for none.
    length: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<f32>;
@group(0) @binding(2) var<storage, read> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> x: array<u32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(GROUP)
fn embed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i >= p.elements) {
        return;
    }
    let f = i / p.strip % p.features;
    let lane = i / (p.strip * p.features) * p.strip + i % p.strip;
    if (lane >= p.lanes) {
        x[i] = 0u;
        return;
    }
    let token = tokens[lane];
    if (token >= p.rows) {
        x[i] = NAN_BITS;
        return;
    }
    var sum = table[token * p.features + f];
    if (p.length != 0u) {
        sum += positions[(p.first_lane + lane) % p.length * p.features + f];
    }
    x[i] = bitcast<u32>(sum);
}

@group(0) @binding(0) var<storage, read> row_tokens: array<u32>;
@group(0) @binding(1) var<storage, read> dx: array<f32>;
@group(0) @binding(2) var<storage, read_write> grad: array<f32>;

var<workgroup> named: array<u32, GROUP>;

@compute @workgroup_size(GROUP)
fn embed_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let row = group.x + group.y * groups.x;
    // No lanes and no features of a row that there is not.
    let lanes = select(0u, p.lanes, row < p.rows);
    let features = select(0u, p.features, row < p.rows);
    if (p.accumulate == 0u) {
        for (var f = local; f < features; f += GROUP) {
            grad[row * p.features + f] = 0.0;
        }
    }
    for (var first = 0u; first < lanes; first += GROUP) {
        let count = min(GROUP, lanes - first);
        if (local < count) {
            if (p.length != 0u) {
                named[local] = (p.first_lane + first + local) % p.length;
            } else {
                named[local] = row_tokens[first + local];
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < count; i++) {
            if (named[i] == row) {
                let lane = first + i;
                let base = lane / p.strip * p.strip * p.features + lane % p.strip;
                for (var f = local; f < features; f += GROUP) {
                    grad[row * p.features + f] += dx[base + f * p.strip];
                }
            }
        }
        workgroupBarrier();
    }
}
