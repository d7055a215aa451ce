// X = act(X + bias) in place, and its backward: the gradient masked in place and summed over the lanes of each feature; or the
// sums alone, without ReLU. X in strips, [strip][feature][lane].
//
// Forward, an invocation has a quad of lanes. Backward, a workgroup has FEATURES features and a slice of their quads, of
// which QUADS stand side by side in a line of memory: an invocation adds up every QUADS-th quad of its feature's slice, and
// the first of a feature's invocations their sums, in order. A sum is a partial one, [feature][slice], unless there is one
// slice only; `sum_partials.wgsl` adds those up.

const QUADS = 8u;
const FEATURES = 8u;

struct Parameters {
    features: u32,
    // Quads in a strip, padding included, and in all strips of this launch: of X forward, of a feature backward.
    strip_quads: u32,
    quads: u32,
    // Lanes that count: what lies behind them becomes zero.
    lanes: u32,
    relu: u32,
    // Backward: slices in all, the first of this launch, and quads of a feature in one.
    slices: u32,
    first_slice: u32,
    slice_quads: u32,
    // Whether sums are added to what is there.
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> bias: array<f32>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;

@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> grad: array<vec4<f32>>;

@group(1) @binding(0) var<uniform> p: Parameters;

// Zero for negative numbers. By their bits: a NaN stays one, whatever a driver thinks of comparisons.
fn rectify(v: vec4<f32>) -> vec4<f32> {
    let above_sign = bitcast<vec4<u32>>(v) - vec4<u32>(0x80000000u);
    return select(v, vec4<f32>(0.0), above_sign <= vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(256)
fn bias_relu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let row = i / p.strip_quads;
    let feature = row % p.features;
    let lane = 4u * (row / p.features * p.strip_quads + i % p.strip_quads);
    var v = x[i] + vec4<f32>(bias[feature]);
    if (p.relu != 0u) {
        v = rectify(v);
    }
    let lanes = vec4<u32>(lane) + vec4<u32>(0u, 1u, 2u, 3u);
    x[i] = select(v, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
}

var<workgroup> shared_sums: array<f32, QUADS * FEATURES>;

// What an invocation sums up: quads `start` to `end` of a feature, its own first.
struct Slice {
    id: u32,
    feature: u32,
    first: u32,
    end: u32,
}

fn slice_of(id: u32, local: vec3<u32>) -> Slice {
    let feature_groups = (p.features + FEATURES - 1u) / FEATURES;
    let slice = id / feature_groups;
    let start = slice * p.slice_quads;
    let feature = (id % feature_groups) * FEATURES + local.y;
    // No quad of a feature that there is not.
    let end = select(0u, min(start + p.slice_quads, p.quads), feature < p.features);
    return Slice(slice, feature, start + local.x, end);
}

fn quad_at(feature: u32, quad: u32) -> u32 {
    return (quad / p.strip_quads * p.features + feature) * p.strip_quads + quad % p.strip_quads;
}

// Adds up what the invocations of each feature have found.
fn finish(slice: Slice, local: vec3<u32>, sum: vec4<f32>) {
    shared_sums[local.y * QUADS + local.x] = (sum.x + sum.y) + (sum.z + sum.w);
    workgroupBarrier();
    if (local.x != 0u || slice.first >= slice.end) {
        return;
    }
    var total = 0.0;
    for (var i = 0u; i < QUADS; i++) {
        total += shared_sums[local.y * QUADS + i];
    }
    let at = slice.feature * p.slices + p.first_slice + slice.id;
    if (p.accumulate != 0u) {
        total += sums[at];
    }
    sums[at] = total;
}

@compute @workgroup_size(QUADS, FEATURES)
fn bias_relu_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let slice = slice_of(group.x + group.y * groups.x, local);
    var sum = vec4<f32>(0.0);
    for (var k = slice.first; k < slice.end; k += QUADS) {
        let at = quad_at(slice.feature, k);
        let g = select(vec4<f32>(0.0), grad[at], y[at] > vec4<f32>(0.0));
        grad[at] = g;
        sum += g;
    }
    finish(slice, local, sum);
}

// The sums alone, of y.
@compute @workgroup_size(QUADS, FEATURES)
fn lane_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let slice = slice_of(group.x + group.y * groups.x, local);
    var sum = vec4<f32>(0.0);
    for (var k = slice.first; k < slice.end; k += QUADS) {
        sum += y[quad_at(slice.feature, k)];
    }
    finish(slice, local, sum);
}
