// A step of a long short-term memory, of H features, with i, f and o the σ of gates + hidden, and g its tanh:
//
//   c = f · c + i · g,  h = o · tanh(c)
//
// and its gradient, for those of the new h and c. Gates and hidden have 4 H features: i, f, g, o.

@group(0) @binding(0) var<storage, read_write> gates: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> hidden: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> cell: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
// With what the gradient needs only: h and c of the step before.
@group(0) @binding(5) var<storage, read_write> previous: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> previous_cell: array<vec4<f32>>;

// The gates, and the new c and h.
struct Found {
    i: vec4<f32>,
    f: vec4<f32>,
    g: vec4<f32>,
    o: vec4<f32>,
    c: vec4<f32>,
    h: vec4<f32>,
}

fn sum_of(at: Place, gate: u32) -> vec4<f32> {
    return gates[all_at(at, gate, 4u)] + hidden[one_at(at, gate, 4u)];
}

fn find(at: Place) -> Found {
    let i = sigmoid(sum_of(at, 0u));
    let f = sigmoid(sum_of(at, 1u));
    let g = squash(sum_of(at, 2u));
    let o = sigmoid(sum_of(at, 3u));
    let c = f * cell[one_at(at, 0u, 1u)] + i * g;
    return Found(i, f, g, o, c, o * squash(c));
}

@compute @workgroup_size(256)
fn lstm_step(
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
    cell[one_at(at, 0u, 1u)] = found.c;
    state[one_at(at, 0u, 1u)] = found.h;
    y[all_at(at, 0u, 1u)] = found.h;
}

@compute @workgroup_size(256)
fn lstm_step_saving(
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
    gates[all_at(at, 0u, 4u)] = found.i;
    gates[all_at(at, 1u, 4u)] = found.f;
    gates[all_at(at, 2u, 4u)] = found.g;
    gates[all_at(at, 3u, 4u)] = found.o;
    previous[all_at(at, 0u, 1u)] = state[one_at(at, 0u, 1u)];
    previous_cell[all_at(at, 0u, 1u)] = cell[one_at(at, 0u, 1u)];
    cell[one_at(at, 0u, 1u)] = found.c;
    state[one_at(at, 0u, 1u)] = found.h;
    y[all_at(at, 0u, 1u)] = found.h;
}

// The gradient's operands: `found` has the gates, then their gradients; `product` and `carried` are what the step behind has
// left, the latter is left for the step before.
@group(0) @binding(0) var<storage, read_write> found: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> cell_before: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> product: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> carried: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dhidden: array<vec4<f32>>;

@compute @workgroup_size(256)
fn lstm_step_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let k = (group.x + group.y * groups.x) * 256u + local;
    if (k >= p.quads) {
        return;
    }
    let at = place(k);
    let one = one_at(at, 0u, 1u);
    let all = all_at(at, 0u, 1u);
    let i = found[all_at(at, 0u, 4u)];
    let f = found[all_at(at, 1u, 4u)];
    let g = found[all_at(at, 2u, 4u)];
    let o = found[all_at(at, 3u, 4u)];
    let before = cell_before[all];
    let squashed = squash(f * before + i * g);
    let d = dy[all] + product[one];
    let e = carried[one] + d * (o * (1.0 - squashed * squashed));
    var gradients = array<vec4<f32>, 4>(
        e * g * (i * (1.0 - i)),
        e * before * (f * (1.0 - f)),
        e * i * (1.0 - g * g),
        d * squashed * (o * (1.0 - o)),
    );
    carried[one] = e * f;
    for (var gate = 0u; gate < 4u; gate++) {
        found[all_at(at, gate, 4u)] = gradients[gate];
        dhidden[one_at(at, gate, 4u)] = gradients[gate];
    }
}
