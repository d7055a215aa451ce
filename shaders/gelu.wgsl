// y = x · Φ(x), and grad = grad · (Φ(x) + x · Φ'(x)) in place: a quad of elements an invocation.
//
//   tanh   Φ(x) ≈ 1 / (1 + exp(−2u)),  u = √(2/π) · (x + 0.044715 · x³)
//   exact  Φ(−z) = exp(−z² / 2) · t · P(t) / 2,  t = 1 / (1 + 0.3 · z / √2),  z = abs(x);  Φ(z) = 1 − Φ(−z)
//
// P and the ranges beyond which Φ is 0 or 1 are those of the processor's code.

const GROUP = 256u;
const SLOPE = 1.5957691;
const CUBE = 0.044715;

struct Parameters {
    quads: u32,
    is_exact: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

struct Distribution {
    phi: vec4<f32>,
    // x · Φ'(x).
    slope: vec4<f32>,
}

fn distribution(v: vec4<f32>) -> Distribution {
    if (p.is_exact == 0u) {
        let x = clamp(v, vec4<f32>(-10.0), vec4<f32>(10.0));
        let e = exp(-SLOPE * x * (1.0 + CUBE * x * x));
        let phi = 1.0 / (1.0 + e);
        return Distribution(phi, x * SLOPE * (1.0 + 3.0 * CUBE * x * x) * (phi * (e * phi)));
    }
    let x = clamp(v, vec4<f32>(-13.0), vec4<f32>(13.0));
    let e = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.3 * 0.70710678 * abs(x));
    var f = vec4<f32>(-0.1293754);
    f = f * t + 0.48478764;
    f = f * t - 0.5105295;
    f = f * t + 0.5455153;
    f = f * t - 0.09295291;
    f = f * t + 0.21410958;
    f = f * t + 0.14857826;
    f = f * t + 0.1706763;
    f = f * t + 0.1691907;
    let below = 0.5 * t * f * e;
    return Distribution(select(below, 1.0 - below, x > vec4<f32>(0.0)), 0.3989423 * x * e);
}

@compute @workgroup_size(GROUP)
fn gelu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i < p.quads) {
        y[i] = x[i] * distribution(x[i]).phi;
    }
}

@compute @workgroup_size(GROUP)
fn gelu_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i < p.quads) {
        let found = distribution(x[i]);
        y[i] *= found.phi + found.slope;
    }
}
