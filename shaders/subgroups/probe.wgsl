// Whether eight neighbours of a workgroup lie side by side in one subgroup, in their order, and can exchange
// numbers: WGSL leaves the places of invocations in subgroups to the driver. to[i] becomes 1 for each invocation that finds
// it so.

@group(0) @binding(0) var<storage, read_write> to: array<u32>;

@compute @workgroup_size(128)
fn probe(
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let far = subgroupShuffleXor(index, 4u);
    let near = subgroupShuffleXor(vec2<f32>(f32(index)), 1u);
    let is_so = lane % 8u == index % 8u && far == (index ^ 4u) && all(near == vec2<f32>(f32(index ^ 1u)));
    to[index] = u32(is_so);
}
