// Softmax cross-entropy of logits in strips, [strip][class][lane], against a label for each lane:
//
//   loss = ln Σ exp(x − top) − (1 − ε)·(x[label] − top) − ε/C · Σ (x − top),   grad = scale · (softmax − target)
//
// A workgroup has QUADS quads of lanes, which stand side by side in a line of memory, and SLOTS invocations for each quad,
// which share its classes: they go over them three times (largest, sum of exponentials, gradient; the second and third time
// out of the cache) and combine what they find as a tree. Its lanes' losses and its number of right ones are a partial
// result; `finish` adds those up.
//
// A lane with the label IGNORED has no loss, and a gradient of zeros. Any other label that is no class, or a logit that is not
// finite, makes loss and gradient NaN: drivers may assume that there is no
// NaN, so this is a flag beside the numbers, tested and set by bits.

override QUADS: u32 = 8u;
override SLOTS: u32 = 32u;
const GROUP = 256u;
const NAN_BITS = 0x7fc00000u;
// What stands for no class yet, and the flag of a lane (in the class) or of a sum (in the number of right ones).
const NONE = 0x7fffffffu;
const BAD = 0x80000000u;
// The label of a lane that does not count.
const IGNORED = 0xffffffffu;

struct Parameters {
    // Quads of lanes, padding included, in this launch and in a strip.
    quads: u32,
    strip_quads: u32,
    classes: u32,
    // Lanes without padding.
    lanes: u32,
    first_partial: u32,
    has_grad: u32,
    smoothing: f32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
// Loss as its bits; right ones and the flag.
@group(0) @binding(2) var<storage, read_write> partials: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> grad: array<vec4<u32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> tops: array<vec4<f32>, QUADS * SLOTS>;
var<workgroup> belows: array<vec4<f32>, QUADS * SLOTS>;
var<workgroup> classes_found: array<vec4<u32>, QUADS * SLOTS>;

fn is_bad(x: vec4<f32>) -> vec4<u32> {
    let exponent = bitcast<vec4<u32>>(x) & vec4<u32>(0x7f800000u);
    return select(vec4<u32>(0u), vec4<u32>(BAD), exponent == vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(QUADS, SLOTS)
fn softmax_cross_entropy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    let quad = id * QUADS + local.x;
    let me = local.y * QUADS + local.x;
    let base = quad / p.strip_quads * p.classes * p.strip_quads + quad % p.strip_quads;
    // No class of a quad that there is not.
    let classes = select(0u, p.classes, quad < p.quads);

    var top = vec4<f32>(0.0);
    var best = vec4<u32>(NONE);
    var bad = vec4<u32>(0u);
    for (var c = local.y; c < classes; c += SLOTS) {
        let x = logits[base + c * p.strip_quads];
        let is_higher = (x > top) | (best == vec4<u32>(NONE));
        top = select(top, x, is_higher);
        best = select(best, vec4<u32>(c), is_higher);
        bad |= is_bad(x);
    }
    tops[me] = top;
    classes_found[me] = best | bad;
    for (var half = SLOTS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local.y < half) {
            let other = me + half * QUADS;
            let flags = (classes_found[me] | classes_found[other]) & vec4<u32>(BAD);
            let mine = classes_found[me] & vec4<u32>(NONE);
            let its = classes_found[other] & vec4<u32>(NONE);
            let is_higher = (tops[other] > tops[me]) | ((tops[other] == tops[me]) & (its < mine));
            let is_its = (its != vec4<u32>(NONE)) & (is_higher | (mine == vec4<u32>(NONE)));
            tops[me] = select(tops[me], tops[other], is_its);
            classes_found[me] = select(mine, its, is_its) | flags;
        }
    }
    workgroupBarrier();
    top = tops[local.x];
    best = classes_found[local.x];
    workgroupBarrier();

    var sum = vec4<f32>(0.0);
    var below = vec4<f32>(0.0);
    for (var c = local.y; c < classes; c += SLOTS) {
        let distance = logits[base + c * p.strip_quads] - top;
        sum += exp(distance);
        below += distance;
    }
    tops[me] = sum;
    belows[me] = below;
    for (var half = SLOTS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local.y < half) {
            tops[me] += tops[me + half * QUADS];
            belows[me] += belows[me + half * QUADS];
        }
    }
    workgroupBarrier();
    sum = tops[local.x];
    below = belows[local.x];
    workgroupBarrier();

    var label = vec4<u32>(0u);
    var is_live = vec4<bool>(false);
    for (var i = 0u; i < 4u; i++) {
        let lane = 4u * quad + i;
        if (lane < p.lanes) {
            label[i] = labels[lane];
            is_live[i] = label[i] != IGNORED;
        }
    }
    bad = (best & vec4<u32>(BAD)) | select(vec4<u32>(0u), vec4<u32>(BAD), label >= vec4<u32>(p.classes));
    best &= vec4<u32>(NONE);
    let spread = p.smoothing / f32(p.classes);

    if (p.has_grad != 0u) {
        let factor = p.scale / sum;
        for (var c = local.y; c < classes; c += SLOTS) {
            let at = base + c * p.strip_quads;
            let target_here = select(vec4<f32>(spread), vec4<f32>(1.0 - p.smoothing + spread), label == vec4<u32>(c));
            let g = exp(logits[at] - top) * factor - p.scale * target_here;
            let bits = select(bitcast<vec4<u32>>(g), vec4<u32>(NAN_BITS), bad != vec4<u32>(0u));
            grad[at] = select(vec4<u32>(0u), bits, is_live);
        }
    }

    if (local.y == 0u) {
        var loss = 0.0;
        var found = 0u;
        for (var i = 0u; i < 4u; i++) {
            if (is_live[i]) {
                if (bad[i] != 0u) {
                    found |= BAD;
                } else {
                    let at_label = logits[base + label[i] * p.strip_quads][i] - top[i];
                    var lane_loss = log(sum[i]) - (1.0 - p.smoothing) * at_label;
                    if (p.smoothing != 0.0) {
                        lane_loss -= spread * below[i];
                    }
                    loss += lane_loss;
                    found += select(0u, 1u, best[i] == label[i]);
                }
            }
        }
        tops[local.x] = vec4<f32>(loss);
        classes_found[local.x] = vec4<u32>(found);
    }
    workgroupBarrier();
    // A folded grid may have workgroups too many.
    if (me == 0u && id * QUADS < p.quads) {
        var loss = 0.0;
        var right = 0u;
        var flag = 0u;
        for (var i = 0u; i < QUADS; i++) {
            loss += tops[i].x;
            right += classes_found[i].x & NONE;
            flag |= classes_found[i].x & BAD;
        }
        partials[p.first_partial + id] = vec2<u32>(bitcast<u32>(loss), right | flag);
    }
}

@group(0) @binding(0) var<storage, read> all_partials: array<vec2<u32>>;
// The loss as its bits, then the number of right ones as those of an f32.
@group(0) @binding(1) var<storage, read_write> stats: array<u32>;

struct Finish {
    count: u32,
}
@group(1) @binding(0) var<uniform> f: Finish;

var<workgroup> losses: array<f32, GROUP>;
var<workgroup> rights: array<u32, GROUP>;

@compute @workgroup_size(GROUP)
fn finish(@builtin(local_invocation_index) local: u32) {
    var loss = 0.0;
    var right = 0u;
    for (var i = local; i < f.count; i += GROUP) {
        let partial = all_partials[i];
        loss += bitcast<f32>(partial.x);
        right = ((right & NONE) + (partial.y & NONE)) | ((right | partial.y) & BAD);
    }
    losses[local] = loss;
    rights[local] = right;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            losses[local] += losses[local + half];
            let mine = rights[local];
            let its = rights[local + half];
            rights[local] = ((mine & NONE) + (its & NONE)) | ((mine | its) & BAD);
        }
    }
    if (local == 0u) {
        stats[0] = select(bitcast<u32>(losses[0]), NAN_BITS, (rights[0] & BAD) != 0u);
        stats[1] = bitcast<u32>(f32(rights[0] & NONE));
    }
}
