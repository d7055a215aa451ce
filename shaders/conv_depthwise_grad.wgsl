// The gradient of a depthwise convolution's weight, dW[channel][tap] = Σ dY · X at the tap's offset, over all points and
// samples (points and columns as in conv_sparse.wgsl).
//
// A workgroup has up to nine taps of one channel, a whole filter of 3 × 3, and a slice of the points. An invocation goes over
// every 256th column of the slice: it loads one vector of dY and one of X for each tap, which but for one are in the cache,
// and keeps nine sums, which the workgroup adds up at the end.
//
// With more than one slice, sums go to [slice][weight], and sum_parts.wgsl adds them in order.

const TAPS: u32 = 9u;
// Parts that a tap's sums are added up in at first.
const PARTS: u32 = 16u;

struct Parameters {
    grid: Points,
    // From channel to channel of X.
    from_channel: u32,
    // Taps: rows and columns, and from one to the next in X.
    tap_rows: u32,
    tap_columns: u32,
    tap_row: u32,
    tap_column: u32,
    // Groups of nine taps of a channel.
    tap_groups: u32,
    // The first channel, and how many.
    first_channel: u32,
    channels: u32,
    slices: u32,
    slice_points: u32,
    // Whether sums are added to what is there; with one slice only.
    accumulate: u32,
}

// dY and X twice: as vectors and as single elements.
@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> dy_single: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x_single: array<f32>;
@group(0) @binding(4) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// [tap][invocation].
var<workgroup> partial: array<f32, 2304>;
// [tap][part].
var<workgroup> parts: array<f32, 144>;

// Taps beyond the last repeat it, and are not written.
fn offset(tap: u32) -> u32 {
    let at = min(tap, p.tap_rows * p.tap_columns - 1u);
    return at / p.tap_columns * p.tap_row + at % p.tap_columns * p.tap_column;
}

@compute @workgroup_size(256)
fn conv_depthwise_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    var id = group.x + group.y * groups.x;
    // Channels lie side by side.
    let first_tap = id % p.tap_groups * TAPS;
    id /= p.tap_groups;
    let index = id % p.channels;
    let slice = id / p.channels;
    let channel = p.first_channel + index;
    let taps = p.tap_rows * p.tap_columns;
    let from_x = channel * p.from_channel;
    let from_dy = channel * p.grid.to_channel;
    let o0 = from_x + vec4<u32>(offset(first_tap), offset(first_tap + 1u), offset(first_tap + 2u), offset(first_tap + 3u));
    let o1 = from_x + vec4<u32>(offset(first_tap + 4u), offset(first_tap + 5u), offset(first_tap + 6u), offset(first_tap + 7u));
    let o2 = from_x + offset(first_tap + 8u);
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = 0.0;
    let end = min((slice + 1u) * p.slice_points, p.grid.points);
    for (var first = slice * p.slice_points; first < end; first += POINTS) {
        let count = min(POINTS, end - first);
        workgroupBarrier();
        if (local < count) {
            places[local] = place(first + local);
        }
        workgroupBarrier();
        var columns = count * STRIP_QUADS;
        if (IS_SINGLE) {
            columns = (count + 3u) / 4u;
        }
        for (var i = local; i < columns; i += 256u) {
            let c = column(i, count, from_dy);
            s0.x = add_dot(s0.x, c.dy, load(c.from_x, o0.x));
            s0.y = add_dot(s0.y, c.dy, load(c.from_x, o0.y));
            s0.z = add_dot(s0.z, c.dy, load(c.from_x, o0.z));
            s0.w = add_dot(s0.w, c.dy, load(c.from_x, o0.w));
            s1.x = add_dot(s1.x, c.dy, load(c.from_x, o1.x));
            s1.y = add_dot(s1.y, c.dy, load(c.from_x, o1.y));
            s1.z = add_dot(s1.z, c.dy, load(c.from_x, o1.z));
            s1.w = add_dot(s1.w, c.dy, load(c.from_x, o1.w));
            s2 = add_dot(s2, c.dy, load(c.from_x, o2));
        }
    }
    partial[local] = s0.x;
    partial[256u + local] = s0.y;
    partial[512u + local] = s0.z;
    partial[768u + local] = s0.w;
    partial[1024u + local] = s1.x;
    partial[1280u + local] = s1.y;
    partial[1536u + local] = s1.z;
    partial[1792u + local] = s1.w;
    partial[2048u + local] = s2;
    workgroupBarrier();
    if (local < TAPS * PARTS) {
        var sum = 0.0;
        for (var i = 0u; i < 256u; i += PARTS) {
            sum += partial[local / PARTS * 256u + i + local % PARTS];
        }
        parts[local] = sum;
    }
    workgroupBarrier();
    if (slice < p.slices && local < TAPS && first_tap + local < taps) {
        var sum = 0.0;
        for (var i = 0u; i < PARTS; i++) {
            sum += parts[local * PARTS + i];
        }
        let at = (slice * p.channels + index) * taps + first_tap + local;
        if (p.accumulate != 0u) {
            sum += to[at];
        }
        to[at] = sum;
    }
}
