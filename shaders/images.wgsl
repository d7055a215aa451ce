// Element-wise passes over images, [strip][row][channel][x][sample], and the ways from images to strips,
// [strip][feature][lane]:
//
//   bias_relu_images       to = act(to + bias[channel]);  relu_images is the same without bias
//   bias_relu_images_grad  to = source > 0 ? to : 0, and Σ to of each channel in slices; `sum_partials.wgsl` adds those up
//   relu_images_grad       to = source > 0 ? to : 0
//   add_images             to += source
//   copy_images            to = source, of some channels
//   flatten                to[feature of (channel, row, x), sample] = source[sample, channel, row, x]
//   unflatten              the inverse
//   global_avg_pool        to[channel, sample] = mean of source[sample, channel, ·, ·]
//   global_avg_pool_grad   to[sample, channel, ·, ·] = source[channel, sample] / pixels
//
// An invocation has a quad of the tensor that is written, neighbours in memory neighbouring ones: four samples of a pixel.
// Where a strip is a single sample (SINGLE), a quad are four neighbouring pixels of a row, the first and last of which may
// reach into the border; there it writes zeros, and a tensor whose border differs is read element by element.

const GROUP = 256u;

struct Parameters {
    // Of each tensor of images: its first pixel, and elements from a channel, a row and a strip to the next.
    to: vec4<u32>,
    source: vec4<u32>,
    // Of the images that an invocation has a quad of: quads of a channel's row, channels, rows, strips, log2 of the samples
    // in a strip, elements before the first pixel in its quad, elements in a row without border, samples that count.
    row_quads: u32,
    channels: u32,
    height: u32,
    strips: u32,
    shift: u32,
    lead: u32,
    row_elements: u32,
    samples: u32,
    // Of the tensor of strips: features, quads of a feature's row, strips of this launch.
    features: u32,
    strip_quads: u32,
    feature_strips: u32,
    width: u32,
    // Bit 0: ReLU. Bit 1: sums are added to what is there.
    flags: u32,
    pixels: f32,
    // Sums: slices in all, the first of this launch, and quads of a channel in one.
    slices: u32,
    first_slice: u32,
    slice_quads: u32,
}

@group(0) @binding(0) var<storage, read> bias: array<f32>;
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// The same pixels and samples of the other images.
fn from_source(here: Place) -> vec4<f32> {
    let first = i32(row_of(p.source, here.strip, here.row, here.channel)) + here.offset;
    if (!SINGLE) {
        return source[u32(first) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (here.is_live[i]) {
            let at = u32(first + i32(i));
            v[i] = source[at / 4u][at % 4u];
        }
    }
    return v;
}

// Zero for negative numbers. By their bits: a NaN stays one, whatever a driver thinks of comparisons.
fn rectify(v: vec4<f32>) -> vec4<f32> {
    let above_sign = bitcast<vec4<u32>>(v) - vec4<u32>(0x80000000u);
    return select(v, vec4<f32>(0.0), above_sign <= vec4<u32>(0x7f800000u));
}

@compute @workgroup_size(GROUP)
fn bias_relu_images(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = to[here.at] + vec4<f32>(bias[here.channel]);
    if ((p.flags & 1u) != 0u) {
        v = rectify(v);
    }
    to[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

@group(0) @binding(0) var<storage, read_write> alone: array<vec4<f32>>;

@compute @workgroup_size(GROUP)
fn relu_images(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip < p.strips) {
        alone[here.at] = select(vec4<f32>(0.0), rectify(alone[here.at]), here.is_live);
    }
}

@compute @workgroup_size(GROUP)
fn relu_images_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    let is_open = from_source(here) > vec4<f32>(0.0);
    to[here.at] = select(vec4<f32>(0.0), to[here.at], is_open & here.is_live);
}

@compute @workgroup_size(GROUP)
fn add_images(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    to[here.at] = select(vec4<f32>(0.0), to[here.at] + from_source(here), here.is_live);
}

@compute @workgroup_size(GROUP)
fn copy_images(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip < p.strips) {
        to[here.at] = select(vec4<f32>(0.0), from_source(here), here.is_live);
    }
}

var<workgroup> shared_sums: array<f32, GROUP>;

// A workgroup has a slice of a channel's quads, over all strips and rows.
@compute @workgroup_size(GROUP)
fn bias_relu_images_grad(
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
    var sum = vec4<f32>(0.0);
    for (var k = start + local; k < end; k += GROUP) {
        let row = k / p.row_quads;
        let here = place(p.to, row / p.height, row % p.height, channel, k % p.row_quads);
        var g = select(vec4<f32>(0.0), to[here.at], here.is_live);
        if ((p.flags & 1u) != 0u) {
            g = select(vec4<f32>(0.0), g, from_source(here) > vec4<f32>(0.0));
            to[here.at] = g;
        }
        sum += g;
    }
    shared_sums[local] = (sum.x + sum.y) + (sum.z + sum.w);
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            shared_sums[local] += shared_sums[local + half];
        }
    }
    if (local == 0u && start < quads) {
        let at = channel * p.slices + p.first_slice + slice;
        var total = shared_sums[0];
        if ((p.flags & 2u) != 0u) {
            total += sums[at];
        }
        sums[at] = total;
    }
}

// Four samples from `sample` on of the element of `source` that has this place in the first strip.
fn samples_of(element: u32, sample: u32) -> vec4<f32> {
    if (!SINGLE) {
        let strip = sample >> p.shift;
        return source[(element + strip * p.source.w + (sample & ((1u << p.shift) - 1u))) / 4u];
    }
    var v = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        if (sample + i < p.samples) {
            let at = element + (sample + i) * p.source.w;
            v[i] = source[at / 4u][at % 4u];
        }
    }
    return v;
}

@compute @workgroup_size(GROUP)
fn flatten(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = (group.x + group.y * groups.x) * GROUP + local;
    let inside = id % p.strip_quads;
    let feature = id / p.strip_quads % p.features;
    let strip = id / p.strip_quads / p.features;
    if (strip >= p.feature_strips) {
        return;
    }
    let sample = 4u * (strip * p.strip_quads + inside);
    var v = vec4<f32>(0.0);
    if (sample < p.samples) {
        let x = feature % p.width;
        let row = feature / p.width % p.height;
        let element = row_of(p.source, 0u, row, feature / p.width / p.height) + (x << p.shift);
        v = select(v, samples_of(element, sample), vec4<u32>(sample) + LANES < vec4<u32>(p.samples));
    }
    to[id] = v;
}

@compute @workgroup_size(GROUP)
fn global_avg_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = (group.x + group.y * groups.x) * GROUP + local;
    let inside = id % p.strip_quads;
    let channel = id / p.strip_quads % p.features;
    let strip = id / p.strip_quads / p.features;
    if (strip >= p.feature_strips) {
        return;
    }
    let sample = 4u * (strip * p.strip_quads + inside);
    var v = vec4<f32>(0.0);
    if (sample < p.samples) {
        var sum = vec4<f32>(0.0);
        for (var row = 0u; row < p.height; row++) {
            var of_row = vec4<f32>(0.0);
            let first = row_of(p.source, 0u, row, channel);
            for (var x = 0u; x < p.width; x++) {
                of_row += samples_of(first + (x << p.shift), sample);
            }
            sum += of_row;
        }
        v = select(v, sum / p.pixels, vec4<u32>(sample) + LANES < vec4<u32>(p.samples));
    }
    to[id] = v;
}

// Of strips the quad, or with SINGLE the element, that holds a feature's sample.
fn feature_of(feature: u32, sample: u32) -> vec4<f32> {
    let quad = sample / 4u;
    let at = (quad / p.strip_quads * p.features + feature) * p.strip_quads + quad % p.strip_quads;
    if (SINGLE) {
        return vec4<f32>(source[at][sample % 4u]);
    }
    return source[at];
}

@compute @workgroup_size(GROUP)
fn unflatten(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    let first = (here.channel * p.height + here.row) * p.width;
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        for (var i = 0u; i < 4u; i++) {
            if (here.is_live[i]) {
                v[i] = feature_of(first + u32(here.offset + i32(i)), here.strip).x;
            }
        }
    } else {
        let element = u32(here.offset);
        let sample = (here.strip << p.shift) + (element & ((1u << p.shift) - 1u));
        if (sample < p.samples) {
            v = select(v, feature_of(first + (element >> p.shift), sample), here.is_live);
        }
    }
    to[here.at] = v;
}

@compute @workgroup_size(GROUP)
fn global_avg_pool_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.to, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        v = select(v, feature_of(here.channel, here.strip) / p.pixels, here.is_live);
    } else {
        let sample = (here.strip << p.shift) + (u32(here.offset) & ((1u << p.shift) - 1u));
        if (sample < p.samples) {
            v = select(v, feature_of(here.channel, sample) / p.pixels, here.is_live);
        }
    }
    to[here.at] = v;
}
