// One step of Adam or AdamW with bias corrections of each element, four elements an invocation:
//
//   g = grad + decay · w,  m = β₁ · m + (1 − β₁) · g,  v = β₂ · v + (1 − β₂) · g²
//   c₁ = β₁ · c₁ + (1 − β₁),  c₂ = β₂ · c₂ + (1 − β₂)
//   w = shrink · w − η · (m / c₁) / (√(v / c₂) + ε)

struct Parameters {
    quads: u32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    decay: f32,
    shrink: f32,
    minus_rate: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> first_correction: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> second_correction: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn adam_own(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.quads) {
        return;
    }
    let w = values[i];
    let g = grad[i] + p.decay * w;
    let m = p.beta1 * first[i] + p.one_minus_beta1 * g;
    let v = p.beta2 * second[i] + p.one_minus_beta2 * g * g;
    let c1 = p.beta1 * first_correction[i] + p.one_minus_beta1;
    let c2 = p.beta2 * second_correction[i] + p.one_minus_beta2;
    first[i] = m;
    second[i] = v;
    first_correction[i] = c1;
    second_correction[i] = c2;
    values[i] = p.shrink * w + p.minus_rate * ((m / c1) / (sqrt(v / c2) + vec4<f32>(p.epsilon)));
}
