// to[i] = Σ parts[j][i], or to[i] += that sum: the second pass of sums whose terms were split over workgroups. One element
// an invocation, in an order that only the number of parts determines.

struct Parameters {
    // Elements.
    len: u32,
    parts: u32,
    // Elements from one part to the next.
    pitch: u32,
    // 1: add to what is there.
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn sum_parts(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.len) {
        return;
    }
    var sum = 0.0;
    if (p.accumulate != 0u) {
        sum = to[i];
    }
    var part = 0u;
    // Four loads on their way at a time.
    for (; part + 4u <= p.parts; part += 4u) {
        let at = part * p.pitch + i;
        let a = parts[at];
        let b = parts[at + p.pitch];
        let c = parts[at + 2u * p.pitch];
        let d = parts[at + 3u * p.pitch];
        sum += (a + b) + (c + d);
    }
    for (; part < p.parts; part++) {
        sum += parts[part * p.pitch + i];
    }
    to[i] = sum;
}
