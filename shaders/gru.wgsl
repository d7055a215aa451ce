// A step of a gated recurrent unit, of H features:
//
//   r = σ(gates_r + hidden_r),  z = σ(gates_z + hidden_z),  n = tanh(gates_n + r · hidden_n),  h = n + z · (h − n)
//
// and its gradient, for that of the new h. Gates and hidden have 3 H features: r, z, n.

@group(0) @binding(0) var<storage, read_write> gates: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> hidden: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
// With what the gradient needs only: h of the step before, and gate n of hidden.
@group(0) @binding(4) var<storage, read_write> previous: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> hidden_n: array<vec4<f32>>;

// The gates, and the new h.
struct Found {
    r: vec4<f32>,
    z: vec4<f32>,
    n: vec4<f32>,
    h: vec4<f32>,
}

fn find(at: Place) -> Found {
    let r = sigmoid(gates[all_at(at, 0u, 3u)] + hidden[one_at(at, 0u, 3u)]);
    let z = sigmoid(gates[all_at(at, 1u, 3u)] + hidden[one_at(at, 1u, 3u)]);
    let n = squash(gates[all_at(at, 2u, 3u)] + r * hidden[one_at(at, 2u, 3u)]);
    return Found(r, z, n, n + z * (state[one_at(at, 0u, 1u)] - n));
}

@compute @workgroup_size(256)
fn gru_step(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let at = place(i);
    let found = find(at);
    state[one_at(at, 0u, 1u)] = found.h;
    y[all_at(at, 0u, 1u)] = found.h;
}

@compute @workgroup_size(256)
fn gru_step_saving(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let at = place(i);
    let found = find(at);
    gates[all_at(at, 0u, 3u)] = found.r;
    gates[all_at(at, 1u, 3u)] = found.z;
    gates[all_at(at, 2u, 3u)] = found.n;
    previous[all_at(at, 0u, 1u)] = state[one_at(at, 0u, 1u)];
    hidden_n[all_at(at, 0u, 1u)] = hidden[one_at(at, 2u, 3u)];
    state[one_at(at, 0u, 1u)] = found.h;
    y[all_at(at, 0u, 1u)] = found.h;
}

// The gradient's operands: `found` has the gates, then their gradients; `product` and `carried` are what the step behind has
// left, the latter is left for the step before.
@group(0) @binding(0) var<storage, read_write> found: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> previous_state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> from_hidden: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> product: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> carried: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dhidden: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> all_dhidden: array<vec4<f32>>;

@compute @workgroup_size(256)
fn gru_step_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let at = place(i);
    let one = one_at(at, 0u, 1u);
    let all = all_at(at, 0u, 1u);
    let d = dy[all] + (product[one] + carried[one]);
    let r = found[all_at(at, 0u, 3u)];
    let z = found[all_at(at, 1u, 3u)];
    let n = found[all_at(at, 2u, 3u)];
    let dn = d * (1.0 - z) * (1.0 - n * n);
    let dz = d * (previous_state[all] - n) * (z * (1.0 - z));
    let dr = dn * from_hidden[all] * (r * (1.0 - r));
    carried[one] = d * z;
    found[all_at(at, 0u, 3u)] = dr;
    found[all_at(at, 1u, 3u)] = dz;
    found[all_at(at, 2u, 3u)] = dn;
    dhidden[one_at(at, 0u, 3u)] = dr;
    dhidden[one_at(at, 1u, 3u)] = dz;
    dhidden[one_at(at, 2u, 3u)] = dn * r;
    all_dhidden[all_at(at, 0u, 3u)] = dr;
    all_dhidden[all_at(at, 1u, 3u)] = dz;
    all_dhidden[all_at(at, 2u, 3u)] = dn * r;
}
