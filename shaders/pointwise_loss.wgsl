// Losses of outputs y in strips, [strip][output][lane], against targets t of the same layout, and their gradients:
//
//   kind 0   (y − t)²
//   kind 1   c · (d − c / 2),  d = y − t,  c = clamp(d, −δ, δ)
//   kind 2   max(y, 0) − y · t + ln(1 + exp(−|y|))
//
// A workgroup has QUADS quads of lanes and SLOTS invocations for each, which share its outputs. Its lanes' losses, each the
// mean over the outputs, are a partial result; `finish` of `softmax_cross_entropy.wgsl` adds those up.
//
// A number that is not finite makes loss and gradient NaN: a flag beside the numbers, tested and set by bits.

override QUADS: u32 = 8u;
override SLOTS: u32 = 32u;
const NAN_BITS = 0x7fc00000u;
const BAD = 0x80000000u;

struct Parameters {
    // Quads of lanes, padding included, in this launch and in a strip.
    quads: u32,
    strip_quads: u32,
    features: u32,
    // Lanes that count.
    lanes: u32,
    first_partial: u32,
    has_grad: u32,
    kind: u32,
    delta: f32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> outputs: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> targets: array<vec4<f32>>;
// Loss as its bits; the flag.
@group(0) @binding(2) var<storage, read_write> partials: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> grad: array<vec4<u32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> sums: array<f32, QUADS * SLOTS>;
var<workgroup> flags: array<u32, QUADS * SLOTS>;

fn is_bad(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

@compute @workgroup_size(QUADS, SLOTS)
fn pointwise_loss(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    let quad = id * QUADS + local.x;
    let me = local.y * QUADS + local.x;
    let base = quad / p.strip_quads * p.features * p.strip_quads + quad % p.strip_quads;
    // No output of a quad that there is not.
    let features = select(0u, p.features, quad < p.quads);
    let is_live = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.lanes);

    var sum = vec4<f32>(0.0);
    var flag = 0u;
    for (var f = local.y; f < features; f += SLOTS) {
        let at = base + f * p.strip_quads;
        let y = outputs[at];
        let t = targets[at];
        let d = y - t;
        var loss = d * d;
        var slope = 2.0 * d;
        if (p.kind == 1u) {
            let c = clamp(d, vec4<f32>(-p.delta), vec4<f32>(p.delta));
            loss = c * (d - 0.5 * c);
            slope = c;
        } else if (p.kind == 2u) {
            let e = exp(-abs(y));
            loss = max(y, vec4<f32>(0.0)) - y * t + log(1.0 + e);
            slope = select(e, vec4<f32>(1.0), y > vec4<f32>(0.0)) / (1.0 + e) - t;
        }
        let bad = is_bad(y) | is_bad(t);
        sum += select(vec4<f32>(0.0), loss, is_live & !bad);
        flag |= select(0u, BAD, any(bad & is_live));
        if (p.has_grad != 0u) {
            let bits = select(bitcast<vec4<u32>>(slope * p.scale), vec4<u32>(NAN_BITS), bad);
            grad[at] = select(vec4<u32>(0u), bits, is_live);
        }
    }
    sums[me] = (sum.x + sum.y + sum.z + sum.w) / f32(p.features);
    flags[me] = flag;
    for (var half = SLOTS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local.y < half) {
            sums[me] += sums[me + half * QUADS];
            flags[me] |= flags[me + half * QUADS];
        }
    }
    workgroupBarrier();
    // A folded grid may have workgroups too many.
    if (me == 0u && id * QUADS < p.quads) {
        var loss = 0.0;
        var found = 0u;
        for (var i = 0u; i < QUADS; i++) {
            loss += sums[i];
            found |= flags[i];
        }
        partials[p.first_partial + id] = vec2<u32>(bitcast<u32>(loss), found);
    }
}
