// Batch normalisation of images, [strip][row][channel][x][sample], per channel over samples and pixels:
//
//   moments          x += addend;  count, mean and Σ (x − mean)² of each channel, in slices
//   finish_moments   μ ‖ 1 / √(v + ε) of what the slices found; running moments move towards them
//   running_moments  the same of running moments
//   normalize        y = act(γ · (x − μ) / √(v + ε) + β + residual)
//   grad_sums        g = dy where the ReLU was open, else 0;  Σ g · x̂ and Σ g of each channel, in slices
//   grad, grad_to    dx = γ / √(v + ε) · (g − (Σ g + x̂ · Σ g · x̂) / n), in place of dy or elsewhere
//
// In sums, a workgroup has a slice of a channel's quads, over all strips and rows; its invocations' sums are combined as a
// tree, and those of the slices by a second pass (`finish_moments`, `sum_partials.wgsl`), so that the order depends on the
// shape only. Elsewhere an invocation has a quad of the tensor that is written, neighbours in memory neighbouring ones.
//
// An invocation sums differences to its first pixel, lest the mean's square swallow the variance, and moments of parts are
// combined by the formula of Chan, Golub and LeVeque (1979), which cancels nothing. Passes subtract the mean before they
// multiply, for the same reason.
//
// Where a strip is a single sample (SINGLE), a quad are four neighbouring pixels of a row, the first and last of which may
// reach into the border; there zeros are written, and a tensor whose border differs is read element by element.

const GROUP = 256u;

struct Parameters {
    // Of each tensor: its first pixel, and elements from a channel, a row and a strip to the next. `to` is what is written.
    x: vec4<u32>,
    other: vec4<u32>,
    dy: vec4<u32>,
    to: vec4<u32>,
    // Of `to`: quads of a channel's row, channels, rows, strips, log2 of the samples in a strip, elements before the first
    // pixel in its quad, elements in a row without border, samples that count.
    row_quads: u32,
    channels: u32,
    height: u32,
    strips: u32,
    shift: u32,
    lead: u32,
    row_elements: u32,
    samples: u32,
    // Bit 0: there is an addend, a residual, or a mask in `other`. Bit 1: ReLU. Bit 2: what is written is added to. Bit 3: the
    // ReLU ends at 6.
    flags: u32,
    // Slices in all, the first of this launch, and quads of a channel in one.
    slices: u32,
    first_slice: u32,
    slice_quads: u32,
    // Pixels times samples, and its quotient by one less.
    count: f32,
    unbiased: f32,
    epsilon: f32,
    momentum: f32,
}

@group(1) @binding(0) var<uniform> p: Parameters;

// Quad `k` of a channel.
fn place_in(channel: u32, k: u32) -> Place {
    let row = k / p.row_quads;
    return place(p.to, row / p.height, row % p.height, channel, k % p.row_quads);
}

fn element_of(tensor: vec4<u32>, here: Place) -> i32 {
    return i32(row_of(tensor, here.strip, here.row, here.channel)) + here.offset;
}

// Zero for negative numbers. By their bits: a NaN stays one, whatever a driver thinks of comparisons.
fn rectify(v: vec4<f32>) -> vec4<f32> {
    let above_sign = bitcast<vec4<u32>>(v) - vec4<u32>(0x80000000u);
    return select(v, vec4<f32>(0.0), above_sign <= vec4<u32>(0x7f800000u));
}

// 6 for larger numbers, in the same way.
fn end_at_6(v: vec4<f32>) -> vec4<f32> {
    let above_6 = bitcast<vec4<u32>>(v) - vec4<u32>(0x40c00000u);
    return select(v, vec4<f32>(6.0), above_6 <= vec4<u32>(0x3ec00000u));
}

// g where the activation is not flat at v, which may stand before or behind it.
fn let_through(v: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    var open = select(vec4<f32>(0.0), g, v > vec4<f32>(0.0));
    if ((p.flags & 8u) != 0u) {
        open = select(vec4<f32>(0.0), open, v < vec4<f32>(6.0));
    }
    return open;
}

// --- moments ---

// Count, mean, Σ (x − mean)².
@group(0) @binding(0) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> summed: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>;

var<workgroup> parts: array<vec3<f32>, GROUP>;

fn combine(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    if (b.x == 0.0) {
        return a;
    }
    if (a.x == 0.0) {
        return b;
    }
    let count = a.x + b.x;
    let difference = b.y - a.y;
    let share = b.x / count;
    return vec3<f32>(count, a.y + difference * share, a.z + b.z + difference * difference * (a.x * share));
}

fn addend_at(here: Place) -> vec4<f32> {
    let first = element_of(p.other, here);
    if (!SINGLE) {
        return addend[u32(first) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (here.is_live[i]) {
            let at = u32(first + i32(i));
            v[i] = addend[at / 4u][at % 4u];
        }
    }
    return v;
}

@compute @workgroup_size(GROUP)
fn moments(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = group.x + group.y * groups.x;
    let channel = id % p.channels;
    let slice = id / p.channels;
    let start = slice * p.slice_quads;
    let quads = p.row_quads * p.height * p.strips;
    let end = min(start + p.slice_quads, quads);
    var pivot = 0.0;
    var count = 0.0;
    var sum = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var k = start + local; k < end; k += GROUP) {
        let here = place_in(channel, k);
        var v = summed[here.at];
        if ((p.flags & 1u) != 0u) {
            v = select(vec4<f32>(0.0), v + addend_at(here), here.is_live);
            summed[here.at] = v;
        }
        let live = select(vec4<f32>(0.0), vec4<f32>(1.0), here.is_live);
        if (count == 0.0 && any(here.is_live)) {
            pivot = select(select(select(v.w, v.z, here.is_live.z), v.y, here.is_live.y), v.x, here.is_live.x);
        }
        count += (live.x + live.y) + (live.z + live.w);
        let difference = select(vec4<f32>(0.0), v - vec4<f32>(pivot), here.is_live);
        sum += difference;
        squares += difference * difference;
    }
    var mine = vec3<f32>(0.0);
    if (count > 0.0) {
        let total = (sum.x + sum.y) + (sum.z + sum.w);
        let offset = total / count;
        let square = (squares.x + squares.y) + (squares.z + squares.w);
        mine = vec3<f32>(count, pivot + offset, square - total * offset);
    }
    parts[local] = mine;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            parts[local] = combine(parts[local], parts[local + half]);
        }
    }
    if (local == 0u && start < quads) {
        partials[channel * p.slices + p.first_slice + slice] = vec4<f32>(parts[0], 0.0);
    }
}

@group(0) @binding(0) var<storage, read> all_partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> moving: array<f32>;
@group(0) @binding(2) var<storage, read_write> found: array<f32>;

const FINISH_GROUP = 32u;
var<workgroup> few_parts: array<vec3<f32>, FINISH_GROUP>;

// A workgroup has a channel.
@compute @workgroup_size(FINISH_GROUP)
fn finish_moments(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let channel = group.x + group.y * groups.x;
    var mine = vec3<f32>(0.0);
    if (channel < p.channels) {
        for (var i = local; i < p.slices; i += FINISH_GROUP) {
            mine = combine(mine, all_partials[channel * p.slices + i].xyz);
        }
    }
    few_parts[local] = mine;
    for (var half = FINISH_GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            few_parts[local] = combine(few_parts[local], few_parts[local + half]);
        }
    }
    if (local != 0u || channel >= p.channels) {
        return;
    }
    let mean = few_parts[0].y;
    let variance = max(few_parts[0].z, 0.0) / p.count;
    let deviation = channel + p.channels;
    found[channel] = mean;
    found[deviation] = 1.0 / sqrt(variance + p.epsilon);
    moving[channel] = (1.0 - p.momentum) * moving[channel] + p.momentum * mean;
    moving[deviation] = (1.0 - p.momentum) * moving[deviation] + p.momentum * (variance * p.unbiased);
}

@group(0) @binding(0) var<storage, read> running: array<f32>;
@group(0) @binding(1) var<storage, read_write> inferred: array<f32>;

// `count` is not read; `samples` is the number of moments here, `channels` that of means.
@compute @workgroup_size(GROUP)
fn running_moments(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i >= p.samples) {
        return;
    }
    let moment = running[i];
    inferred[i] = select(1.0 / sqrt(moment + p.epsilon), moment, i < p.channels);
}

// --- the passes that have learned parameters ---

@group(0) @binding(0) var<storage, read> affine: array<f32>;
@group(0) @binding(1) var<storage, read> known: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
// Residual, or the output whose sign is the mask.
@group(0) @binding(3) var<storage, read> other: array<vec4<f32>>;

fn x_at(here: Place) -> vec4<f32> {
    let first = element_of(p.x, here);
    if (!SINGLE) {
        return x[u32(first) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (here.is_live[i]) {
            let at = u32(first + i32(i));
            v[i] = x[at / 4u][at % 4u];
        }
    }
    return v;
}

fn other_at(here: Place) -> vec4<f32> {
    let first = element_of(p.other, here);
    if (!SINGLE) {
        return other[u32(first) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (here.is_live[i]) {
            let at = u32(first + i32(i));
            v[i] = other[at / 4u][at % 4u];
        }
    }
    return v;
}

// γ · (x − μ) / √(v + ε) + β: one expression for all passes, since those backward ask for its sign.
fn line(x: vec4<f32>, channel: u32) -> vec4<f32> {
    let slope = affine[channel] * known[p.channels + channel];
    return fma(x - vec4<f32>(known[channel]), vec4<f32>(slope), vec4<f32>(affine[p.channels + channel]));
}

@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn normalize(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = line(x_at(here), here.channel);
    if ((p.flags & 1u) != 0u) {
        v += other_at(here);
    }
    if ((p.flags & 2u) != 0u) {
        v = rectify(v);
    }
    if ((p.flags & 8u) != 0u) {
        v = end_at_6(v);
    }
    y[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

@group(0) @binding(4) var<storage, read_write> masked: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;

var<workgroup> pairs: array<vec2<f32>, GROUP>;

// Sums stand as [Σ g · x̂ of all channels, then Σ g][slice].
@compute @workgroup_size(GROUP)
fn grad_sums(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = group.x + group.y * groups.x;
    let channel = id % p.channels;
    let slice = id / p.channels;
    let start = slice * p.slice_quads;
    let quads = p.row_quads * p.height * p.strips;
    let end = min(start + p.slice_quads, quads);
    let mean = vec4<f32>(known[channel]);
    let inverse = known[p.channels + channel];
    var scale = vec4<f32>(0.0);
    var shift = vec4<f32>(0.0);
    for (var k = start + local; k < end; k += GROUP) {
        let here = place_in(channel, k);
        let v = x_at(here);
        var g = select(vec4<f32>(0.0), masked[here.at], here.is_live);
        if ((p.flags & 1u) != 0u) {
            g = let_through(other_at(here), g);
            masked[here.at] = g;
        } else if ((p.flags & 2u) != 0u) {
            g = let_through(line(v, channel), g);
        }
        scale += select(vec4<f32>(0.0), g * (v - mean), here.is_live);
        shift += g;
    }
    pairs[local] = vec2<f32>(
        ((scale.x + scale.y) + (scale.z + scale.w)) * inverse,
        (shift.x + shift.y) + (shift.z + shift.w),
    );
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            pairs[local] += pairs[local + half];
        }
    }
    if (local == 0u && start < quads) {
        let at = channel * p.slices + p.first_slice + slice;
        sums[at] = pairs[0].x;
        sums[p.channels * p.slices + at] = pairs[0].y;
    }
}

@group(0) @binding(3) var<storage, read> totals: array<f32>;

// dx of g, not yet masked.
fn slope_of(v: vec4<f32>, dy: vec4<f32>, channel: u32) -> vec4<f32> {
    let inverse = known[p.channels + channel];
    var g = dy;
    if ((p.flags & 2u) != 0u) {
        g = let_through(line(v, channel), g);
    }
    let hat = (v - vec4<f32>(known[channel])) * inverse;
    let scale = totals[channel] / p.count;
    let shift = totals[p.channels + channel] / p.count;
    return affine[channel] * inverse * (g - vec4<f32>(shift) - hat * scale);
}

@group(0) @binding(4) var<storage, read_write> dy_and_dx: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    let v = slope_of(x_at(here), dy_and_dx[here.at], here.channel);
    dy_and_dx[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

@group(0) @binding(4) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<vec4<f32>>;

fn dy_at(here: Place) -> vec4<f32> {
    let first = element_of(p.dy, here);
    if (!SINGLE) {
        return dy[u32(first) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (here.is_live[i]) {
            let at = u32(first + i32(i));
            v[i] = dy[at / 4u][at % 4u];
        }
    }
    return v;
}

@compute @workgroup_size(GROUP)
fn grad_to(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = slope_of(x_at(here), dy_at(here), here.channel);
    if ((p.flags & 4u) != 0u) {
        v += dx[here.at];
    }
    dx[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}
