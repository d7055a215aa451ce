// Sums of squares, and the scaling of gradients by the root of such a sum.

// squares: slices of quads, a workgroup each: partials[slice] = Σ values².

const GROUP = 256u;

struct Parameters {
    // Of clip, which takes no more than the first two.
    quads: u32,
    largest: f32,
    // Of squares: elements that count, quads of a slice, number of the first slice, whether to add.
    elements: u32,
    slice_quads: u32,
    first_slice: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> shared_sums: array<f32, GROUP>;

@compute @workgroup_size(GROUP)
fn squares(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let slice = group.x + group.y * groups.x;
    let quads = (p.elements + 3u) / 4u;
    let end = min((slice + 1u) * p.slice_quads, quads);
    var sum = 0.0;
    for (var i = slice * p.slice_quads + local; i < end; i += GROUP) {
        // What stands behind the last element is anything.
        let counts = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.elements);
        let x = select(vec4<f32>(0.0), source[i], counts);
        sum += dot(x, x);
    }
    shared_sums[local] = sum;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (local < half) {
            shared_sums[local] += shared_sums[local + half];
        }
    }
    if (local == 0u && slice * p.slice_quads < quads) {
        var total = shared_sums[0];
        if (p.accumulate != 0u) {
            total += sums[p.first_slice + slice];
        }
        sums[p.first_slice + slice] = total;
    }
}

@group(0) @binding(0) var<storage, read> norm_squared: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<vec4<f32>>;

// gradient[i] *= min(1, largest / (√norm_squared + 1e-6)), four elements an invocation.
@compute @workgroup_size(GROUP)
fn clip(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i >= p.quads) {
        return;
    }
    let factor = p.largest / (sqrt(norm_squared[0]) + 1e-6);
    if (!(factor >= 1.0)) {
        gradient[i] = gradient[i] * factor;
    }
}
