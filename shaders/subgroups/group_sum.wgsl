// What sddmm.wgsl's function of this name does, where subgroups are of eight invocations or more and a group's eight lie side
// by side in one: each gives half of its sums away and keeps the other half, three times. Seven exchanges stand for sixteen
// accesses to shared memory, and groups do not wait for each other. Terms are added in the same order, so results are the
// same to the bit.
fn group_sum(a: vec4<f32>, b: vec4<f32>, local: u32) -> f32 {
    let is_odd = (local & 1u) != 0u;
    let is_second = (local & 2u) != 0u;
    let is_upper = (local & 4u) != 0u;
    let even = vec4<f32>(a.x, a.z, b.x, b.z);
    let odd = vec4<f32>(a.y, a.w, b.y, b.w);
    let four = select(even, odd, is_odd) + subgroupShuffleXor(select(odd, even, is_odd), 1u);
    let two = select(four.xz, four.yw, is_second) + subgroupShuffleXor(select(four.yw, four.xz, is_second), 2u);
    return select(two.x, two.y, is_upper) + subgroupShuffleXor(select(two.y, two.x, is_upper), 4u);
}
