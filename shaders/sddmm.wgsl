// values[e] = Σ dY[row(e)] · X[column(e)] over all lanes, at the stored entries e of a sparse matrix; dY and X in strips,
// [strip][feature][lane].
//
// The entries of each row come in groups of up to eight, so that a long row is the work of many. Eight invocations have a
// group: each has every eighth quad of lanes, so that together they read a whole line of dY or X (32 lanes, 128 bytes), and
// sums for all eight entries in registers. A quad of dY thus serves eight entries, whose loads of X do not wait for each
// other. In the end each of the eight invocations adds the eight partial sums of one entry, in a fixed order, through shared
// memory: the size of a subgroup does not change a bit.
//
// Groups come ordered by length, so that neighbours take the same time. Where there are few, parts of the lanes are summed
// by different workgroups, and sum_parts.wgsl adds these.

// Groups of entries of a workgroup.
override GROUPS: u32 = 16u;

// Distance between entries of the partial sums: with 9, neither direction has two invocations in one bank.
const PITCH: u32 = 9u;

struct Parameters {
    // Groups in the list.
    groups: u32,
    // Workgroups that these take, and with all parts of the lanes.
    group_tiles: u32,
    tiles: u32,
    // Quads of lanes in all, without those of padding only, and of a part.
    quads: u32,
    part_quads: u32,
    // Quads in a strip.
    strip_quads: u32,
    // Strips, and quads beyond, that eight quads are.
    step_strips: u32,
    step_quads: u32,
    // Features of dY and X.
    dy_features: u32,
    x_features: u32,
    // First entry of the window of `columns` and `values`.
    first_entry: u32,
    // Values from one part to the next.
    part_pitch: u32,
    // 1: add to the values.
    accumulate: u32,
}

// (row, first entry, number of entries), longest first.
@group(0) @binding(0) var<storage, read> list: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> columns: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> values: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> sums: array<f32, GROUPS * 8u * PITCH>;

@compute @workgroup_size(8, GROUPS)
fn sddmm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let id = group.x + group.y * groups.x;
    if (id >= p.tiles) {
        return;
    }
    let part = id / p.group_tiles;
    let slot = (id % p.group_tiles) * GROUPS + local.y;
    var entries = vec4<u32>(0u);
    if (slot < p.groups) {
        entries = list[slot];
    }
    let count = entries.z;
    let start = entries.y - p.first_entry;

    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    if (count > 0u) {
        // A group of fewer than eight computes its last entry several times: from the same lines.
        let last = start + count - 1u;
        let k0 = columns[start] * p.strip_quads;
        let k1 = columns[min(start + 1u, last)] * p.strip_quads;
        let k2 = columns[min(start + 2u, last)] * p.strip_quads;
        let k3 = columns[min(start + 3u, last)] * p.strip_quads;
        let k4 = columns[min(start + 4u, last)] * p.strip_quads;
        let k5 = columns[min(start + 5u, last)] * p.strip_quads;
        let k6 = columns[min(start + 6u, last)] * p.strip_quads;
        let k7 = columns[min(start + 7u, last)] * p.strip_quads;
        let dy_pitch = p.dy_features * p.strip_quads;
        let x_pitch = p.x_features * p.strip_quads;
        let row = entries.x * p.strip_quads;
        var quad = part * p.part_quads + local.x;
        let end = min((part + 1u) * p.part_quads, p.quads);
        var strip = quad / p.strip_quads;
        var inside = quad % p.strip_quads;
        for (; quad < end; quad += 8u) {
            let source = strip * x_pitch + inside;
            let d = dy[strip * dy_pitch + row + inside];
            let x0 = x[source + k0];
            let x1 = x[source + k1];
            let x2 = x[source + k2];
            let x3 = x[source + k3];
            if (count > 4u) {
                let x4 = x[source + k4];
                let x5 = x[source + k5];
                let x6 = x[source + k6];
                let x7 = x[source + k7];
                b += vec4<f32>(dot(d, x4), dot(d, x5), dot(d, x6), dot(d, x7));
            }
            a += vec4<f32>(dot(d, x0), dot(d, x1), dot(d, x2), dot(d, x3));
            strip += p.step_strips;
            inside += p.step_quads;
            if (inside >= p.strip_quads) {
                inside -= p.strip_quads;
                strip += 1u;
            }
        }
    }
    let base = local.y * 8u * PITCH;
    sums[base + local.x] = a.x;
    sums[base + PITCH + local.x] = a.y;
    sums[base + 2u * PITCH + local.x] = a.z;
    sums[base + 3u * PITCH + local.x] = a.w;
    sums[base + 4u * PITCH + local.x] = b.x;
    sums[base + 5u * PITCH + local.x] = b.y;
    sums[base + 6u * PITCH + local.x] = b.z;
    sums[base + 7u * PITCH + local.x] = b.w;
    workgroupBarrier();
    if (local.x >= count) {
        return;
    }
    let mine = base + local.x * PITCH;
    var sum = ((sums[mine] + sums[mine + 1u]) + (sums[mine + 2u] + sums[mine + 3u]))
        + ((sums[mine + 4u] + sums[mine + 5u]) + (sums[mine + 6u] + sums[mine + 7u]));
    let at = part * p.part_pitch + start + local.x;
    if (p.accumulate != 0u) {
        sum += values[at];
    }
    values[at] = sum;
}
