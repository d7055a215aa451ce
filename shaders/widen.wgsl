// to = from, which is in bf16, two elements a word, the first one in the lower half.

struct Parameters {
    // Words of `source`.
    words: u32,
}

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> to: array<vec2<u32>>;
@group(1) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(256)
fn widen(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * 256u + local;
    if (i >= p.words) {
        return;
    }
    // As bits: a number that is moved as one may lose what it holds, if it is subnormal or NaN.
    let word = source[i];
    to[i] = vec2<u32>(word << 16u, word & 0xffff0000u);
}
