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

const TEAM: u32 = 32u;
const TEAMS: u32 = 8u;
// Entries of a task.
const ENTRIES: u32 = 8u;

struct Parameters {
    grid: Points,
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

// [entry][invocation].
var<workgroup> partial: array<f32, 2048>;

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
    let channel = task.x * p.grid.to_channel;
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
    let end = min((slice + 1u) * p.slice_points, p.grid.points);
    for (var first = slice * p.slice_points; first < end; first += POINTS) {
        let count = min(POINTS, end - first);
        workgroupBarrier();
        if (local < count) {
            places[local] = place(first + local);
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
