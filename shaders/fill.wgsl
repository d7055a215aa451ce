// to[i] = value, four elements an invocation.

struct Parameters {
    quads: u32,
    value: f32,
}

@group(0) @binding(0) var<storage, read_write> to: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn fill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i < p.quads) {
        to[i] = vec4<f32>(p.value);
    }
}
