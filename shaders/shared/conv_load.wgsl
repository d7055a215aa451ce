// A column of X: `x`, or where strips have a single sample `x_single`, is the binding of the file joined behind this one.

fn load(at: vec4<u32>, offset: u32) -> vec4<f32> {
    if (IS_SINGLE) {
        return vec4<f32>(
            x_single[at.x + offset],
            x_single[at.y + offset],
            x_single[at.z + offset],
            x_single[at.w + offset],
        );
    }
    return x[at.x + offset];
}
