// Inverted dropout in place: element i becomes 0 if the upper 24 bits of Threefry-2x32-20's first word at counter i lie
// below a threshold, else is divided by what is kept. The numbers of `random.rs`, bit for bit; the threshold is a whole
// number too, so that no rounding decides.
//
// An invocation has a quad: four counters side by side. In strips, [strip][feature][lane], they follow each other; in images,
// [strip][row][channel][x][sample], they lie a whole image apart, since counters go over the images one after the other.
// With one sample a strip (SINGLE) a quad are four neighbouring pixels of a row, border included, which stays zero.

override SINGLE: bool = false;

struct Parameters {
    // Of images: first pixel, and elements from a channel, a row and a strip to the next.
    x: vec4<u32>,
    key: vec2<u32>,
    threshold: u32,
    keep: f32,
    // Number of the first lane or sample of this launch.
    first: u32,
    // Of images: quads of a channel's row, channels, rows, strips, log2 of the samples in a strip, elements before the first
    // pixel in its quad, elements in a row without border. Of strips: quads of a strip's row, features, 1, strips.
    row_quads: u32,
    channels: u32,
    height: u32,
    strips: u32,
    shift: u32,
    lead: u32,
    row_elements: u32,
    // Lanes or samples of this launch that count.
    samples: u32,
    // From a feature to the next, or from an image to the next.
    pitch: u32,
    width: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Low and high word.
fn product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    // Below 2^32: at most (2^16 − 1)² + 2^16 − 1.
    let middle = a1 * b0 + (low >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>(a * b, a1 * b1 + (middle >> 16u) + (other >> 16u));
}

fn sum(a: vec2<u32>, b: u32) -> vec2<u32> {
    let low = a.x + b;
    return vec2<u32>(low, a.y + select(0u, 1u, low < b));
}

fn rotate(v: vec4<u32>, by: u32) -> vec4<u32> {
    return (v << vec4<u32>(by)) | (v >> vec4<u32>(32u - by));
}

// Four rounds on two words of each of four counters.
struct State {
    a: vec4<u32>,
    b: vec4<u32>,
}

fn four_rounds(state: State, rotations: vec4<u32>, inject_a: u32, inject_b: u32) -> State {
    var a = state.a;
    var b = state.b;
    a += b;
    b = rotate(b, rotations.x) ^ a;
    a += b;
    b = rotate(b, rotations.y) ^ a;
    a += b;
    b = rotate(b, rotations.z) ^ a;
    a += b;
    b = rotate(b, rotations.w) ^ a;
    return State(a + vec4<u32>(inject_a), b + vec4<u32>(inject_b));
}

fn first_words(low: vec4<u32>, high: vec4<u32>) -> vec4<u32> {
    let k0 = p.key.x;
    let k1 = p.key.y;
    let k2 = 0x1bd11bdau ^ k0 ^ k1;
    let even = vec4<u32>(13u, 15u, 26u, 6u);
    let odd = vec4<u32>(17u, 29u, 16u, 24u);
    var state = State(low + vec4<u32>(k0), high + vec4<u32>(k1));
    state = four_rounds(state, even, k1, k2 + 1u);
    state = four_rounds(state, odd, k2, k0 + 2u);
    state = four_rounds(state, even, k0, k1 + 3u);
    state = four_rounds(state, odd, k1, k2 + 4u);
    state = four_rounds(state, even, k2, k0 + 5u);
    return state.a;
}

// Elements with these counters that count, dropped or scaled; else zero.
fn apply(v: vec4<f32>, c0: vec2<u32>, c1: vec2<u32>, c2: vec2<u32>, c3: vec2<u32>, is_live: vec4<bool>) -> vec4<f32> {
    let bits = first_words(vec4<u32>(c0.x, c1.x, c2.x, c3.x), vec4<u32>(c0.y, c1.y, c2.y, c3.y));
    let is_kept = (bits >> vec4<u32>(8u)) >= vec4<u32>(p.threshold);
    return select(vec4<f32>(0.0), v / p.keep, is_kept & is_live);
}

@compute @workgroup_size(256)
fn dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    let row = i / p.row_quads;
    let feature = row % p.channels;
    let strip = row / p.channels;
    if (strip >= p.strips) {
        return;
    }
    let lane = 4u * (strip * p.row_quads + i % p.row_quads);
    let counter = sum(product(feature, p.pitch), p.first + lane);
    let is_live = vec4<u32>(lane) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.samples);
    x[i] = apply(x[i], counter, sum(counter, 1u), sum(counter, 2u), sum(counter, 3u), is_live);
}

@compute @workgroup_size(256)
fn dropout_images(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = (group.x + group.y * groups.x) * 256u + local;
    let quad = id % p.row_quads;
    let row = id / p.row_quads;
    let channel = row % p.channels;
    let y = row / p.channels % p.height;
    let strip = row / p.channels / p.height;
    if (strip >= p.strips) {
        return;
    }
    let start = strip * p.x.w + y * p.x.z + channel * p.x.y + p.x.x - p.lead;
    let at = start / 4u + quad;
    // Of the row's first pixel in its image.
    let pixels = (channel * p.height + y) * p.width;
    if (SINGLE) {
        let elements = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
        let is_live = (elements >= vec4<u32>(p.lead)) & (elements < vec4<u32>(p.lead + p.row_elements));
        let image = product(p.first + strip, p.pitch);
        // Before the first pixel nothing counts.
        let offset = pixels + max(elements, vec4<u32>(p.lead)) - vec4<u32>(p.lead);
        x[at] = apply(x[at], sum(image, offset.x), sum(image, offset.y), sum(image, offset.z), sum(image, offset.w), is_live);
    } else {
        let sample = (strip << p.shift) + ((4u * quad) & ((1u << p.shift) - 1u));
        let samples = vec4<u32>(sample) + vec4<u32>(0u, 1u, 2u, 3u);
        let offset = pixels + ((4u * quad) >> p.shift);
        let c0 = sum(product(p.first + samples.x, p.pitch), offset);
        let c1 = sum(c0, p.pitch);
        let c2 = sum(c1, p.pitch);
        x[at] = apply(x[at], c0, c1, c2, sum(c2, p.pitch), samples < vec4<u32>(p.samples));
    }
}
