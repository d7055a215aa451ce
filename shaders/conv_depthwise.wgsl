// Convolution of every channel by itself, W[channel][kh][kw], and its input gradient by the same sums over the taps that a
// class of pixels sees. An invocation makes one *column*: four samples of a pixel, or where strips have a single sample
// (IS_SINGLE) four neighbouring pixels. Columns are numbered as they lie in memory, [strip][image row][channel][pixel][four
// samples], so that both tensors are read and written in one stream; a filter's other rows and columns are in the cache.

// Places and distances are in vec4, or in elements where strips have a single sample; in W they are elements.
struct Parameters {
    grid: Points,
    // From channel to channel of X.
    from_channel: u32,
    // Taps that the pixels see: rows and columns of them, from one to the next in X (backwards in the input gradient: sums wrap)
    // and in W, and the first in W.
    tap_rows: u32,
    tap_columns: u32,
    tap_row: u32,
    tap_column: u32,
    w_tap_row: u32,
    w_tap_column: u32,
    w_first: u32,
    // Weights of a channel.
    taps: u32,
    channels: u32,
    // Columns of an image row of a channel, and in all.
    row_columns: u32,
    columns: u32,
    // Samples that count, of the strips of this launch: what lies behind them becomes zero.
    samples: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x_single: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y_single: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

struct Column {
    strip: u32,
    // Within an image row of a channel.
    index: u32,
    channel: u32,
    from_x: u32,
    to_y: u32,
}

fn column(id: u32) -> Column {
    let index = id % p.row_columns;
    var rest = id / p.row_columns;
    let channel = rest % p.channels;
    rest /= p.channels;
    let height = p.grid.pixels / p.grid.width;
    let row = rest % height;
    let strip = rest / height;
    return Column(
        strip,
        index,
        channel,
        p.grid.from_origin + strip * p.grid.from_strip + row * p.grid.from_row + channel * p.from_channel,
        p.grid.to_origin + strip * p.grid.to_strip + row * p.grid.to_row + channel * p.grid.to_channel,
    );
}

@compute @workgroup_size(256)
fn conv_depthwise(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = (group.x + group.y * groups.x) * 256u + local;
    if (id >= p.columns) {
        return;
    }
    let c = column(id);
    let pixel = c.index / STRIP_QUADS;
    let quad = c.index % STRIP_QUADS;
    let at = c.from_x + pixel * p.grid.from_pixel + quad;
    let w_at = c.channel * p.taps + p.w_first;
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < p.tap_rows; i++) {
        for (var j = 0u; j < p.tap_columns; j++) {
            sum += w[w_at + i * p.w_tap_row + j * p.w_tap_column] * x[at + i * p.tap_row + j * p.tap_column];
        }
    }
    let sample = (c.strip * STRIP_QUADS + quad) * 4u;
    let samples = vec4<u32>(sample, sample + 1u, sample + 2u, sample + 3u);
    y[c.to_y + pixel * p.grid.to_pixel + quad] = select(sum, vec4<f32>(0.0), samples >= vec4<u32>(p.samples));
}

@compute @workgroup_size(256)
fn conv_depthwise_single(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = (group.x + group.y * groups.x) * 256u + local;
    if (id >= p.columns) {
        return;
    }
    let c = column(id);
    let w_at = c.channel * p.taps + p.w_first;
    for (var pixel = 4u * c.index; pixel < min(4u * c.index + 4u, p.grid.width); pixel++) {
        let at = c.from_x + pixel * p.grid.from_pixel;
        var sum = 0.0;
        for (var i = 0u; i < p.tap_rows; i++) {
            for (var j = 0u; j < p.tap_columns; j++) {
                sum += w[w_at + i * p.w_tap_row + j * p.w_tap_column] * x_single[at + i * p.tap_row + j * p.tap_column];
            }
        }
        y_single[c.to_y + pixel * p.grid.to_pixel] = sum;
    }
}
