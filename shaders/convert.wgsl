// to = from in 16 bits, two elements a word, the first one in the lower half: rounded to the nearest, halves to even, as the
// processor does it. What f16 cannot hold becomes infinite; a NaN stays one.

struct Parameters {
    // Words of `to`.
    words: u32,
    // 1: f16. 2: bf16.
    to_type: u32,
}

@group(0) @binding(0) var<storage, read> source: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> to: array<u32>;
@group(1) @binding(0) var<uniform> p: Parameters;

fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    // From halfway between the largest and what would come after it.
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (magnitude < 0x38800000u) {
        // Subnormal: the last bit of a number next to one half has the weight of f16's last bit.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13u);
}

fn bf16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

@compute @workgroup_size(256)
fn convert(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.words) {
        return;
    }
    let values = source[i];
    if (p.to_type == 1u) {
        to[i] = f16_bits(values.x) | (f16_bits(values.y) << 16u);
    } else {
        to[i] = bf16_bits(values.x) | (bf16_bits(values.y) << 16u);
    }
}
