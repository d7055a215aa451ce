// What gradients of convolutions' weights have in common: the places of a stage of points in shared memory.

// Points of a stage: one for each invocation.
const POINTS: u32 = 256u;

// Where points stand in X and dY.
var<workgroup> places: array<vec2<u32>, POINTS>;

fn place(point: u32) -> vec2<u32> {
    let strip = point / p.grid.pixels;
    let pixel = point % p.grid.pixels;
    let row = pixel / p.grid.width;
    let at = pixel % p.grid.width;
    return vec2<u32>(
        p.grid.from_origin + strip * p.grid.from_strip + row * p.grid.from_row + at * p.grid.from_pixel,
        p.grid.to_origin + strip * p.grid.to_strip + row * p.grid.to_row + at * p.grid.to_pixel,
    );
}

// Four multiply-adds, where dot and a sum are five operations.
fn add_dot(sum: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return a.w * b.w + (a.z * b.z + (a.y * b.y + (a.x * b.x + sum)));
}
