// to[i] = Σ over slices of sums[slice][i], or with `accumulate` adds that to to[i]. One element an invocation.

struct Parameters {
    length: u32,
    slices: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> sums: array<f32>;
@group(0) @binding(1) var<storage, read_write> to: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn conv_sum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.length) {
        return;
    }
    var sum = 0.0;
    for (var slice = 0u; slice < p.slices; slice++) {
        sum += sums[slice * p.length + i];
    }
    if (p.accumulate != 0u) {
        sum += to[i];
    }
    to[i] = sum;
}
