// values[e] = Σ dY[row(e)] · X[column(e)] over all lanes, at the stored entries e of a sparse matrix; dY and X in strips,
// [strip][feature][lane].
//
// The entries of each row come in groups of up to eight, so that a long row is the work of many. Eight invocations have a
// group: each has every eighth unit of lanes, so that together they read a whole line of dY or X (128 bytes), and sums for all
// eight entries in registers. A unit of dY thus serves eight entries, whose loads of X do not wait for each other. A unit is
// four lanes, or eight where dY and X are stored in 16 bits: 16 bytes either way. In the end each of the eight invocations adds
// the eight partial sums of one entry, in a fixed order: the size of a subgroup does not change a bit.
//
// Groups come ordered by length, so that neighbours take the same time. Where there are few, parts of the lanes are summed
// by different workgroups, and sum_parts.wgsl adds these.

// Groups of entries of a workgroup, and invocations: in one dimension, so that a subgroup's lie side by side.
const GROUPS: u32 = 16u;
const INVOCATIONS: u32 = 128u;
// How dY and X are stored. 0: f32, both. 1: f16. 2: bf16.
override DY_TYPE: u32 = 0u;
override X_TYPE: u32 = 0u;

// Distance between entries of the partial sums: with 9, neither direction has two invocations in one bank.
const PITCH: u32 = 9u;

struct Parameters {
    // Groups in the list.
    groups: u32,
    // Workgroups that these take, and with all parts of the lanes.
    group_tiles: u32,
    tiles: u32,
    // Units in all, without those of padding only, and of a part.
    units: u32,
    part_units: u32,
    // Units in a strip.
    strip_units: u32,
    // Strips, and units beyond, that eight units are.
    step_strips: u32,
    step_units: u32,
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
// dY and X twice: as f32, and two lanes a word.
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> dy_half: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> x_half: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> values: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> sums: array<f32, GROUPS * 8u * PITCH>;

// A unit of lanes: four, or eight.
struct Unit {
    a: vec4<f32>,
    b: vec4<f32>,
}

// Eight numbers of 16 bits.
fn widen(words: vec4<u32>, stored_as: u32) -> Unit {
    if (stored_as == 1u) {
        return Unit(
            vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y)),
            vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w)),
        );
    }
    let low = bitcast<vec4<f32>>(words << vec4<u32>(16u));
    let high = bitcast<vec4<f32>>(words & vec4<u32>(0xffff0000u));
    return Unit(vec4<f32>(low.x, high.x, low.y, high.y), vec4<f32>(low.z, high.z, low.w, high.w));
}

fn load_dy(at: u32) -> Unit {
    if (DY_TYPE != 0u) {
        return widen(dy_half[at], DY_TYPE);
    }
    return Unit(dy[at], vec4<f32>(0.0));
}

fn load_x(at: u32) -> Unit {
    if (X_TYPE != 0u) {
        return widen(x_half[at], X_TYPE);
    }
    return Unit(x[at], vec4<f32>(0.0));
}

fn product(d: Unit, x: Unit) -> f32 {
    if (X_TYPE != 0u) {
        return dot(d.a, x.a) + dot(d.b, x.b);
    }
    return dot(d.a, x.a);
}

// Of each of the eight invocations of a group, the sum of its own entry over all eight; `a` and `b` are what it has of each.
fn group_sum(a: vec4<f32>, b: vec4<f32>, local: u32) -> f32 {
    let lane = local % 8u;
    let base = (local - lane) * PITCH;
    sums[base + lane] = a.x;
    sums[base + PITCH + lane] = a.y;
    sums[base + 2u * PITCH + lane] = a.z;
    sums[base + 3u * PITCH + lane] = a.w;
    sums[base + 4u * PITCH + lane] = b.x;
    sums[base + 5u * PITCH + lane] = b.y;
    sums[base + 6u * PITCH + lane] = b.z;
    sums[base + 7u * PITCH + lane] = b.w;
    workgroupBarrier();
    let mine = base + lane * PITCH;
    return ((sums[mine] + sums[mine + 1u]) + (sums[mine + 2u] + sums[mine + 3u]))
        + ((sums[mine + 4u] + sums[mine + 5u]) + (sums[mine + 6u] + sums[mine + 7u]));
}

@compute @workgroup_size(INVOCATIONS)
fn sddmm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = group.x + group.y * groups.x;
    if (id >= p.tiles) {
        return;
    }
    let part = id / p.group_tiles;
    let lane = local % 8u;
    let slot = (id % p.group_tiles) * GROUPS + local / 8u;
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
        let k0 = columns[start] * p.strip_units;
        let k1 = columns[min(start + 1u, last)] * p.strip_units;
        let k2 = columns[min(start + 2u, last)] * p.strip_units;
        let k3 = columns[min(start + 3u, last)] * p.strip_units;
        let k4 = columns[min(start + 4u, last)] * p.strip_units;
        let k5 = columns[min(start + 5u, last)] * p.strip_units;
        let k6 = columns[min(start + 6u, last)] * p.strip_units;
        let k7 = columns[min(start + 7u, last)] * p.strip_units;
        let dy_pitch = p.dy_features * p.strip_units;
        let x_pitch = p.x_features * p.strip_units;
        let row = entries.x * p.strip_units;
        var unit = part * p.part_units + lane;
        let end = min((part + 1u) * p.part_units, p.units);
        var strip = unit / p.strip_units;
        var inside = unit % p.strip_units;
        for (; unit < end; unit += 8u) {
            let source = strip * x_pitch + inside;
            let d = load_dy(strip * dy_pitch + row + inside);
            let x0 = load_x(source + k0);
            let x1 = load_x(source + k1);
            let x2 = load_x(source + k2);
            let x3 = load_x(source + k3);
            if (count > 4u) {
                let x4 = load_x(source + k4);
                let x5 = load_x(source + k5);
                let x6 = load_x(source + k6);
                let x7 = load_x(source + k7);
                b += vec4<f32>(product(d, x4), product(d, x5), product(d, x6), product(d, x7));
            }
            a += vec4<f32>(product(d, x0), product(d, x1), product(d, x2), product(d, x3));
            strip += p.step_strips;
            inside += p.step_units;
            if (inside >= p.strip_units) {
                inside -= p.strip_units;
                strip += 1u;
            }
        }
    }
    var sum = group_sum(a, b, local);
    if (lane >= count) {
        return;
    }
    let at = part * p.part_pitch + start + lane;
    if (p.accumulate != 0u) {
        sum += values[at];
    }
    values[at] = sum;
}
