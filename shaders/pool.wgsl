// Windows over images, [strip][row][channel][x][sample]: largest and mean, and their gradients. A window is cut to the image.
//
//   max_pool, avg_pool  y = largest, or mean, of the pixels of x in the window
//   max_pool_grad       dx (+)= Σ dy over the windows whose first largest pixel this is; a window that holds NaN gives to its
//                       first pixel
//   avg_pool_grad       dx (+)= Σ dy / pixels in the window, over the windows that see the pixel
//
// An invocation has a quad of the tensor that is written: four samples of a pixel. Gradients are gathered, too: a pixel asks
// the windows that see it, in their order, so nothing is added atomically. Whether it is a window's first largest it finds out
// by comparison with y, and only where it is as large are the pixels before it looked at.
//
// Where a strip is a single sample (SINGLE), a quad are four neighbouring pixels of a row, one after the other; the first and
// last may reach into the border, where zeros are written.
//
// Drivers may assume that there is no NaN: it is found and made by bits.

const GROUP = 256u;
const NAN_BITS = 0x7fc00000u;

struct Parameters {
    // First pixel, and elements from a channel, a row and a strip to the next.
    x: vec4<u32>,
    y: vec4<u32>,
    dy: vec4<u32>,
    dx: vec4<u32>,
    // Height and width of X, and of Y.
    x_size: vec2<u32>,
    y_size: vec2<u32>,
    kernel: vec2<u32>,
    stride: vec2<u32>,
    padding: vec2<u32>,
    // Of the tensor that is written: quads of a channel's row, channels, rows, strips, log2 of the samples in a strip,
    // elements before the first pixel in its quad, elements in a row without border, samples that count.
    row_quads: u32,
    channels: u32,
    height: u32,
    strips: u32,
    shift: u32,
    lead: u32,
    row_elements: u32,
    samples: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> to: array<vec4<f32>>;

// Of `max_pool_grad`, beside x.
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dx: array<vec4<f32>>;

@group(1) @binding(0) var<uniform> p: Parameters;

fn is_nan(v: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}

// Four samples of a pixel, or a single one four times.
fn at_x(element: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(x[element / 4u][element % 4u]);
    }
    return x[element / 4u];
}

fn at_y(element: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(y[element / 4u][element % 4u]);
    }
    return y[element / 4u];
}

fn at_dy(element: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(dy[element / 4u][element % 4u]);
    }
    return dy[element / 4u];
}

// Rows and columns of X, first ones and ends, that a window of Y sees.
struct Span {
    start: vec2<u32>,
    end: vec2<u32>,
}

fn span(window: vec2<u32>) -> Span {
    let first = window * p.stride;
    return Span(max(first, p.padding) - p.padding, min(first + p.kernel - p.padding, p.x_size));
}

// The windows of Y, first ones and ends, that see a pixel of X.
fn windows_of(pixel: vec2<u32>) -> Span {
    let padded = pixel + p.padding;
    let start = (max(padded + vec2<u32>(1u), p.kernel) - p.kernel + p.stride - vec2<u32>(1u)) / p.stride;
    return Span(start, min(padded / p.stride + vec2<u32>(1u), p.y_size));
}

fn largest(here: Place, column: u32, sample: u32) -> vec4<f32> {
    let seen = span(vec2<u32>(here.row, column));
    let first = row_of(p.x, here.strip, 0u, here.channel) + sample;
    var best = at_x(first + seen.start.x * p.x.z + (seen.start.y << p.shift));
    var has_nan = vec4<bool>(false);
    for (var i = seen.start.x; i < seen.end.x; i++) {
        for (var j = seen.start.y; j < seen.end.y; j++) {
            let v = at_x(first + i * p.x.z + (j << p.shift));
            has_nan = has_nan | is_nan(v);
            best = select(best, v, v > best);
        }
    }
    return bitcast<vec4<f32>>(select(bitcast<vec4<u32>>(best), vec4<u32>(NAN_BITS), has_nan));
}

fn mean(here: Place, column: u32, sample: u32) -> vec4<f32> {
    let seen = span(vec2<u32>(here.row, column));
    let first = row_of(p.x, here.strip, 0u, here.channel) + sample;
    var sum = vec4<f32>(0.0);
    for (var i = seen.start.x; i < seen.end.x; i++) {
        for (var j = seen.start.y; j < seen.end.y; j++) {
            sum += at_x(first + i * p.x.z + (j << p.shift));
        }
    }
    let count = (seen.end - seen.start);
    return sum / f32(count.x * count.y);
}

@compute @workgroup_size(GROUP)
fn max_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.y, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        for (var i = 0u; i < 4u; i++) {
            if (here.is_live[i]) {
                v[i] = largest(here, u32(here.offset + i32(i)), 0u).x;
            }
        }
    } else {
        let element = u32(here.offset);
        v = largest(here, element >> p.shift, element & ((1u << p.shift) - 1u));
    }
    to[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

@compute @workgroup_size(GROUP)
fn avg_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.y, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        for (var i = 0u; i < 4u; i++) {
            if (here.is_live[i]) {
                v[i] = mean(here, u32(here.offset + i32(i)), 0u).x;
            }
        }
    } else {
        let element = u32(here.offset);
        v = mean(here, element >> p.shift, element & ((1u << p.shift) - 1u));
    }
    to[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

// The gradient of means.
@group(0) @binding(0) var<storage, read> means: array<vec4<f32>>;

fn at_means(element: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(means[element / 4u][element % 4u]);
    }
    return means[element / 4u];
}

// What the pixel in this column is given by the windows that see it.
fn from_largest(here: Place, column: u32, sample: u32) -> vec4<f32> {
    let pixel = vec2<u32>(here.row, column);
    let windows = windows_of(pixel);
    let first_x = row_of(p.x, here.strip, 0u, here.channel) + sample;
    let first_y = row_of(p.y, here.strip, 0u, here.channel) + sample;
    let first_dy = row_of(p.dy, here.strip, 0u, here.channel) + sample;
    let value = at_x(first_x + pixel.x * p.x.z + (pixel.y << p.shift));
    var sum = vec4<f32>(0.0);
    for (var v = windows.start.x; v < windows.end.x; v++) {
        for (var u = windows.start.y; u < windows.end.y; u++) {
            let top = at_y(first_y + v * p.y.z + (u << p.shift));
            let seen = span(vec2<u32>(v, u));
            let has_nan = is_nan(top);
            let is_first = all(pixel == seen.start);
            var is_given = (!has_nan & (value == top)) | (has_nan & vec4<bool>(is_first));
            // Up to the pixel itself, in order of (row, column).
            for (var i = seen.start.x; i <= pixel.x && any(is_given); i++) {
                let end = select(seen.end.y, pixel.y, i == pixel.x);
                for (var j = seen.start.y; j < end; j++) {
                    is_given = is_given & (at_x(first_x + i * p.x.z + (j << p.shift)) != top);
                }
            }
            if (any(is_given)) {
                sum += select(vec4<f32>(0.0), at_dy(first_dy + v * p.dy.z + (u << p.shift)), is_given);
            }
        }
    }
    return sum;
}

fn from_means(here: Place, column: u32, sample: u32) -> vec4<f32> {
    let windows = windows_of(vec2<u32>(here.row, column));
    let first = row_of(p.dy, here.strip, 0u, here.channel) + sample;
    var sum = vec4<f32>(0.0);
    for (var v = windows.start.x; v < windows.end.x; v++) {
        for (var u = windows.start.y; u < windows.end.y; u++) {
            let seen = span(vec2<u32>(v, u));
            let count = seen.end - seen.start;
            sum += at_means(first + v * p.dy.z + (u << p.shift)) / f32(count.x * count.y);
        }
    }
    return sum;
}

@compute @workgroup_size(GROUP)
fn max_pool_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.dx, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        for (var i = 0u; i < 4u; i++) {
            if (here.is_live[i]) {
                v[i] = from_largest(here, u32(here.offset + i32(i)), 0u).x;
            }
        }
    } else {
        let element = u32(here.offset);
        v = from_largest(here, element >> p.shift, element & ((1u << p.shift) - 1u));
    }
    if (p.accumulate != 0u) {
        v += dx[here.at];
    }
    dx[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}

@compute @workgroup_size(GROUP)
fn avg_pool_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let here = place_of(p.dx, (group.x + group.y * groups.x) * GROUP + local);
    if (here.strip >= p.strips) {
        return;
    }
    var v = vec4<f32>(0.0);
    if (SINGLE) {
        for (var i = 0u; i < 4u; i++) {
            if (here.is_live[i]) {
                v[i] = from_means(here, u32(here.offset + i32(i)), 0u).x;
            }
        }
    } else {
        let element = u32(here.offset);
        v = from_means(here, element >> p.shift, element & ((1u << p.shift) - 1u));
    }
    if (p.accumulate != 0u) {
        v += to[here.at];
    }
    to[here.at] = select(vec4<f32>(0.0), v, here.is_live);
}
