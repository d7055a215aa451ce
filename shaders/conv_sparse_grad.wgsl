// The gradient of a sparse convolution's weight at its stored entries: values[e] = Σ dY · X at the entry's offset, over all
// points and samples (points, columns and offsets as in conv_sparse.wgsl).
//
// A *task* is at most eight entries of one row of W. A workgroup has eight tasks and a slice of the points, each task a team of
// 32 invocations. An invocation goes over every 32nd column of the slice: it loads one vector of the row's dY and eight of X,
// and keeps eight sums, which the workgroup adds up at the end. So a multiply-add costs one load of X and an eighth of one of
// dY. Tasks come ordered by their first column of W: the teams of a workgroup, and neighbouring workgroups, read the same few
// channels of X at the same time, and find in the cache what another has loaded.
//
// Slices give work to the whole device where there are few entries. With more than one, sums go to [slice][entry], and
// sum_parts.wgsl adds them in order.

// Columns of a point.
override STRIP_QUADS: u32 = 8u;
override IS_SINGLE: bool = false;
const TEAM: u32 = 32u;
const TEAMS: u32 = 8u;
// Entries of a task.
const ENTRIES: u32 = 8u;
// Points whose places are in shared memory: one for each invocation.
const POINTS: u32 = 256u;

// Places and distances are in vec4, or in elements where strips have a single sample.
struct Parameters {
    // Points, those of one strip, and of one image row.
    points: u32,
    pixels: u32,
    width: u32,
    // Where points stand in X: the first one, and from image row to row, pixel to pixel, strip to strip.
    from_origin: u32,
    from_row: u32,
    from_pixel: u32,
    from_strip: u32,
    // And in dY.
    to_origin: u32,
    to_row: u32,
    to_pixel: u32,
    to_strip: u32,
    // From channel to channel of dY.
    to_channel: u32,
    tasks: u32,
    // Groups of eight tasks.
    task_groups: u32,
    slices: u32,
    slice_points: u32,
    // Stored entries in all.
    entries: u32,
    // Whether sums are added to what is there; with one slice only.
    accumulate: u32,
}

// (row of W, first entry, number of entries).
@group(0) @binding(0) var<storage, read> tasks: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
// dY and X twice: as vectors and as single elements.
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy_single: array<f32>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> x_single: array<f32>;
@group(0) @binding(6) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

// Where points stand in X and dY.
var<workgroup> places: array<vec2<u32>, POINTS>;
// [entry][invocation].
var<workgroup> partial: array<f32, 2048>;

struct Column {
    // In X: four places, or one of a vector.
    from_x: vec4<u32>,
    dy: vec4<f32>,
}

fn column(index: u32, count: u32, channel: u32) -> Column {
    if (IS_SINGLE) {
        let first = 4u * index;
        let last = count - 1u;
        let a = places[first];
        let b = places[min(first + 1u, last)];
        let c = places[min(first + 2u, last)];
        let d = places[min(first + 3u, last)];
        let loaded = vec4<f32>(
            dy_single[a.y + channel],
            dy_single[b.y + channel],
            dy_single[c.y + channel],
            dy_single[d.y + channel],
        );
        let points = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
        let masked = select(loaded, vec4<f32>(0.0), points >= vec4<u32>(count));
        return Column(vec4<u32>(a.x, b.x, c.x, d.x), masked);
    }
    let place = places[index / STRIP_QUADS] + vec2<u32>(index % STRIP_QUADS);
    return Column(vec4<u32>(place.x), dy[place.y + channel]);
}

fn load(at: vec4<u32>, offset: u32) -> vec4<f32> {
    if (IS_SINGLE) {
        return vec4<f32>(
            x_single[at.x + offset],
            x_single[at.y + offset],
            x_single[at.z + offset],
            x_single[at.w + offset],
        );
    }
    return x[at.x + offset];
}

// Four multiply-adds, where dot and a sum are five operations.
fn add_dot(sum: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return a.w * b.w + (a.z * b.z + (a.y * b.y + (a.x * b.x + sum)));
}

@compute @workgroup_size(256)
fn conv_sparse_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = group.x + group.y * groups.x;
    let slice = id / p.task_groups;
    let first_task = (id % p.task_groups) * TEAMS;
    let slot = first_task + local / TEAM;
    let lane = local % TEAM;
    var task = vec4<u32>(0u);
    if (slot < p.tasks) {
        task = tasks[slot];
    }
    let channel = task.x * p.to_channel;
    // Entries that the task lacks repeat its last, and are not written.
    var o0 = vec4<u32>(0u);
    var o1 = vec4<u32>(0u);
    if (task.z > 0u) {
        let last = task.z - 1u;
        o0 = vec4<u32>(
            offsets[task.y],
            offsets[task.y + min(1u, last)],
            offsets[task.y + min(2u, last)],
            offsets[task.y + min(3u, last)],
        );
        o1 = vec4<u32>(
            offsets[task.y + min(4u, last)],
            offsets[task.y + min(5u, last)],
            offsets[task.y + min(6u, last)],
            offsets[task.y + min(7u, last)],
        );
    }
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    let end = min((slice + 1u) * p.slice_points, p.points);
    for (var first = slice * p.slice_points; first < end; first += POINTS) {
        let count = min(POINTS, end - first);
        workgroupBarrier();
        if (local < count) {
            let point = first + local;
            let strip = point / p.pixels;
            let pixel = point % p.pixels;
            let row = pixel / p.width;
            let at = pixel % p.width;
            places[local] = vec2<u32>(
                p.from_origin + strip * p.from_strip + row * p.from_row + at * p.from_pixel,
                p.to_origin + strip * p.to_strip + row * p.to_row + at * p.to_pixel,
            );
        }
        workgroupBarrier();
        if (task.z > 0u) {
            var columns = count * STRIP_QUADS;
            if (IS_SINGLE) {
                columns = (count + 3u) / 4u;
            }
            for (var i = lane; i < columns; i += TEAM) {
                let c = column(i, count, channel);
                s0.x = add_dot(s0.x, c.dy, load(c.from_x, o0.x));
                s0.y = add_dot(s0.y, c.dy, load(c.from_x, o0.y));
                s0.z = add_dot(s0.z, c.dy, load(c.from_x, o0.z));
                s0.w = add_dot(s0.w, c.dy, load(c.from_x, o0.w));
                s1.x = add_dot(s1.x, c.dy, load(c.from_x, o1.x));
                s1.y = add_dot(s1.y, c.dy, load(c.from_x, o1.y));
                s1.z = add_dot(s1.z, c.dy, load(c.from_x, o1.z));
                s1.w = add_dot(s1.w, c.dy, load(c.from_x, o1.w));
            }
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
    workgroupBarrier();
    if (slice < p.slices && local < TEAMS * ENTRIES) {
        let team = local / ENTRIES;
        let entry = local % ENTRIES;
        if (first_task + team < p.tasks) {
            let written = tasks[first_task + team];
            if (entry < written.z) {
                var sum = 0.0;
                for (var i = 0u; i < TEAM; i++) {
                    // Each begins at another lane, and so in another bank of the shared memory.
                    sum += partial[entry * 256u + team * TEAM + (i + local) % TEAM];
                }
                let at = slice * p.entries + written.y + entry;
                if (p.accumulate != 0u) {
                    sum += to[at];
                }
                to[at] = sum;
            }
        }
    }
}
