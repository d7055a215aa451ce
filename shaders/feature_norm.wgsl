// Normalisation of each lane over its features, in strips, [strip][feature][lane], and its gradient:
//
//   x += residual;  y = (x − mean) · rstd · scale + shift;  moments = mean, rstd          (RMS: mean = 0, no shift)
//   dx = rstd · (dy · scale − mean of (dy · scale) − x̂ · mean of (dy · scale · x̂)),  x̂ = (x − mean) · rstd
//   dscale = Σ dy · x̂,  dshift = Σ dy
//
// In `feature_norm` and `feature_norm_grad` a workgroup has QUADS quads of lanes, which stand side by side in a line of memory,
// and SLOTS invocations for each quad, which share its features and add up what they find as a tree. The variance is taken
// around the mean, which the rest of the differences corrects.
//
// In `feature_norm_grad_sums` a workgroup has FEATURES features and a slice of their quads: an invocation adds up every
// QUADS-th quad of its feature's slice, and the first of a feature's invocations their sums, in order. A sum is a partial one,
// [feature][slice], unless there is one slice only; `sum_partials.wgsl` adds those up. It runs before dx takes dy's place.

const QUADS = 8u;
const SLOTS = 32u;
const FEATURES = 8u;

struct Parameters {
    // Quads of lanes in this launch, padding included, and in a strip.
    quads: u32,
    strip_quads: u32,
    features: u32,
    // Lanes without padding.
    lanes: u32,
    is_rms: u32,
    // Whether there is a residual; backward, whether dx is added to what another buffer holds.
    has_other: u32,
    epsilon: f32,
    // Of the sums: slices in all, the first of this launch, and quads of a feature in one.
    slices: u32,
    first_slice: u32,
    slice_quads: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> affine: array<f32>;
@group(0) @binding(1) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> moments: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> parts: array<vec4<f32>, QUADS * SLOTS>;

// The sum over a quad's invocations.
fn sum_of_slots(part: vec4<f32>, local: vec3<u32>) -> vec4<f32> {
    let me = local.y * QUADS + local.x;
    workgroupBarrier();
    parts[me] = part;
    for (var half = SLOTS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local.y < half) {
            parts[me] += parts[me + half * QUADS];
        }
    }
    workgroupBarrier();
    return parts[local.x];
}

fn only_lanes(v: vec4<f32>, quad: u32) -> vec4<f32> {
    let lanes = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(v, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
}

@compute @workgroup_size(QUADS, SLOTS)
fn feature_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let quad = (group.x + group.y * groups.x) * QUADS + local.x;
    let base = quad / p.strip_quads * p.features * p.strip_quads + quad % p.strip_quads;
    // No feature of a quad that there is not.
    let features = select(0u, p.features, quad < p.quads);
    let count = f32(p.features);

    var sum = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var f = local.y; f < features; f += SLOTS) {
        var v = x[base + f * p.strip_quads];
        if (p.has_other != 0u) {
            v += residual[base + f * p.strip_quads];
            x[base + f * p.strip_quads] = v;
        }
        sum += v;
        squares += v * v;
    }
    var mean = vec4<f32>(0.0);
    if (p.is_rms != 0u) {
        squares = sum_of_slots(squares, local);
    } else {
        mean = sum_of_slots(sum, local) / count;
        var rest = vec4<f32>(0.0);
        squares = vec4<f32>(0.0);
        for (var f = local.y; f < features; f += SLOTS) {
            let distance = x[base + f * p.strip_quads] - mean;
            rest += distance;
            squares += distance * distance;
        }
        rest = sum_of_slots(rest, local);
        squares = sum_of_slots(squares, local) - rest * rest / count;
        mean += rest / count;
    }
    let rstd = 1.0 / sqrt(squares / count + p.epsilon);
    for (var f = local.y; f < features; f += SLOTS) {
        var shift = 0.0;
        if (p.is_rms == 0u) {
            shift = affine[p.features + f];
        }
        let v = (x[base + f * p.strip_quads] - mean) * rstd * affine[f] + shift;
        y[base + f * p.strip_quads] = only_lanes(v, quad);
    }
    if (local.y == 0u && quad < p.quads) {
        let at = quad / p.strip_quads * 2u * p.strip_quads + quad % p.strip_quads;
        moments[at] = only_lanes(mean, quad);
        moments[at + p.strip_quads] = only_lanes(rstd, quad);
    }
}

@group(0) @binding(1) var<storage, read> found: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> input: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dy: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> other: array<vec4<f32>>;

@compute @workgroup_size(QUADS, SLOTS)
fn feature_norm_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let quad = (group.x + group.y * groups.x) * QUADS + local.x;
    let base = quad / p.strip_quads * p.features * p.strip_quads + quad % p.strip_quads;
    let features = select(0u, p.features, quad < p.quads);
    let at = select(0u, quad / p.strip_quads * 2u * p.strip_quads + quad % p.strip_quads, quad < p.quads);
    let mean = found[at];
    let rstd = found[at + p.strip_quads];

    var plain = vec4<f32>(0.0);
    var weighted = vec4<f32>(0.0);
    for (var f = local.y; f < features; f += SLOTS) {
        let g = dy[base + f * p.strip_quads] * affine[f];
        plain += g;
        weighted += g * (input[base + f * p.strip_quads] - mean) * rstd;
    }
    plain = sum_of_slots(plain, local) / f32(p.features);
    weighted = sum_of_slots(weighted, local) / f32(p.features);
    if (p.is_rms != 0u) {
        plain = vec4<f32>(0.0);
    }
    for (var f = local.y; f < features; f += SLOTS) {
        let i = base + f * p.strip_quads;
        let normal = (input[i] - mean) * rstd;
        let dx = rstd * (dy[i] * affine[f] - plain - normal * weighted);
        if (p.has_other != 0u) {
            other[i] += dx;
        } else {
            dy[i] = dx;
        }
    }
}

@group(0) @binding(0) var<storage, read> sum_moments: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> sum_x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> sum_dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;

var<workgroup> pairs: array<vec2<f32>, QUADS * FEATURES>;

@compute @workgroup_size(QUADS, FEATURES)
fn feature_norm_grad_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    let feature_groups = (p.features + FEATURES - 1u) / FEATURES;
    let feature = (id % feature_groups) * FEATURES + local.y;
    let slice = id / feature_groups;
    let start = slice * p.slice_quads;
    let end = min(start + p.slice_quads, p.quads);
    var of_scale = vec4<f32>(0.0);
    var of_shift = vec4<f32>(0.0);
    if (feature < p.features) {
        for (var k = start + local.x; k < end; k += QUADS) {
            let strip = k / p.strip_quads;
            let lane = k % p.strip_quads;
            let at = (strip * p.features + feature) * p.strip_quads + lane;
            let moment = strip * 2u * p.strip_quads + lane;
            let g = sum_dy[at];
            of_shift += g;
            of_scale += g * (sum_x[at] - sum_moments[moment]) * sum_moments[moment + p.strip_quads];
        }
    }
    pairs[local.y * QUADS + local.x] =
        vec2<f32>((of_scale.x + of_scale.y) + (of_scale.z + of_scale.w), (of_shift.x + of_shift.y) + (of_shift.z + of_shift.w));
    workgroupBarrier();
    if (local.x != 0u || feature >= p.features || start >= p.quads) {
        return;
    }
    var total = vec2<f32>(0.0);
    for (var i = 0u; i < QUADS; i++) {
        total += pairs[local.y * QUADS + i];
    }
    let rows = select(2u, 1u, p.is_rms != 0u);
    for (var row = 0u; row < rows; row++) {
        let at = (row * p.features + feature) * p.slices + p.first_slice + slice;
        var sum = total[row];
        if (p.accumulate != 0u) {
            sum += sums[at];
        }
        sums[at] = sum;
    }
}
