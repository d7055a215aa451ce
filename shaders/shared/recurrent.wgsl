// Steps of recurrent layers. An invocation has a quad of lanes of a feature, of all operands.
//
// Tensors of all steps lie in strips, [strip][feature][lane], whose lane t · P + n is sequence n of P at step t; those of one
// step have P lanes, in strips that are runs of lanes of the others.

struct Parameters {
    // H.
    features: u32,
    // Quads of a strip, and of one feature-by-lanes tensor of H features, of the step.
    strip_quads: u32,
    quads: u32,
    // Quads of a strip of the tensors of all steps, and where the step begins among those that are seen.
    all_strip_quads: u32,
    first_quad: u32,
}

@group(1) @binding(0) var<uniform> p: Parameters;

struct Place {
    feature: u32,
    // Strip and quad within, of the step's tensors and of those of all steps.
    one: vec2<u32>,
    all: vec2<u32>,
}

fn place(i: u32) -> Place {
    let row = i / p.strip_quads;
    let one = vec2<u32>(row / p.features, i % p.strip_quads);
    let quad = p.first_quad + one.x * p.strip_quads + one.y;
    return Place(row % p.features, one, vec2<u32>(quad / p.all_strip_quads, quad % p.all_strip_quads));
}

// Where gate `gate` of `gates` stands in a tensor of the step.
fn one_at(at: Place, gate: u32, gates: u32) -> u32 {
    return ((at.one.x * gates + gate) * p.features + at.feature) * p.strip_quads + at.one.y;
}

// The same in a tensor of all steps.
fn all_at(at: Place, gate: u32, gates: u32) -> u32 {
    return ((at.all.x * gates + gate) * p.features + at.feature) * p.all_strip_quads + at.all.y;
}

// tanh(x), as the CPU's. By bits: a NaN stays one, whatever a driver thinks of comparisons.
fn squash(x: vec4<f32>) -> vec4<f32> {
    let c = clamp(x, vec4<f32>(-7.9988117), vec4<f32>(7.9988117));
    let s = c * c;
    let high = ((-2.7607685e-16 * s + 2.000188e-13) * s - 8.604672e-11) * s + 5.122297e-8;
    let above = ((high * s + 1.4857224e-5) * s + 6.3726195e-4) * s + 4.8935246e-3;
    let below = ((1.1982584e-6 * s + 1.1853471e-4) * s + 2.2684347e-3) * s + 4.893525e-3;
    let is_nan = (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(c * above / below, x, is_nan);
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    return 0.5 + 0.5 * squash(0.5 * x);
}
