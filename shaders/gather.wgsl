// to[i] = source[map[i] - first] where map[i] lies in the window [first, first + count) of the source; where there is no
// source at all (map[i] = 2^32 - 1) zero, written with the first window.

struct Parameters {
    length: u32,
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read> map: array<u32>;
@group(0) @binding(2) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.length) {
        return;
    }
    let at = map[i];
    if (at == 0xffffffffu) {
        if (p.first == 0u) {
            to[i] = 0.0;
        }
    } else if (at >= p.first && at - p.first < p.count) {
        to[i] = source[at - p.first];
    }
}
