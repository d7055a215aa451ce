// sums[row] (+)= Σ partials[row][·]: the second pass of sums that are taken in slices.
//
// WIDTH invocations have a row: each adds up every WIDTH-th partial sum, then they add up theirs as a tree. Which is added
// to which depends on the numbers of rows and slices only.

override WIDTH: u32 = 32u;
const GROUP = 256u;

struct Parameters {
    rows: u32,
    slices: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> p: Parameters;

var<workgroup> shared_sums: array<f32, GROUP>;

@compute @workgroup_size(GROUP)
fn sum_partials(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let id = group.x + group.y * groups.x;
    let row = id * (GROUP / WIDTH) + local / WIDTH;
    let lane = local % WIDTH;
    var sum = 0.0;
    if (row < p.rows) {
        for (var i = lane; i < p.slices; i += WIDTH) {
            sum += partials[row * p.slices + i];
        }
    }
    shared_sums[local] = sum;
    for (var half = WIDTH / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            shared_sums[local] += shared_sums[local + half];
        }
    }
    if (lane == 0u && row < p.rows) {
        var total = shared_sums[local];
        if (p.accumulate != 0u) {
            total += sums[row];
        }
        sums[row] = total;
    }
}
