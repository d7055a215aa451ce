// One step of stochastic gradient descent, four elements an invocation:
//
//   g = grad + weight_decay · w,  v = momentum · v + g,  w = w − learning_rate · (nesterov ? g + momentum · v : v)
//
// `sgd_plain` is the same without momentum, which needs no v.

struct Parameters {
    quads: u32,
    nesterov: u32,
    // −learning rate.
    rate: f32,
    momentum: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> velocity: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn sgd(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let w = values[i];
    let g = grad[i] + p.weight_decay * w;
    let v = p.momentum * velocity[i] + g;
    velocity[i] = v;
    values[i] = w + p.rate * select(v, g + p.momentum * v, p.nesterov != 0u);
}

@compute @workgroup_size(256)
fn sgd_plain(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let w = values[i];
    values[i] = w + p.rate * (grad[i] + p.weight_decay * w);
}
