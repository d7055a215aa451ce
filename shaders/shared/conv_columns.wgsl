// Where the points and columns of a product stand. Points beyond the last read what it reads.

fn from_point(point: u32) -> u32 {
    let at = min(point, p.grid.points - 1u);
    let pixel = at % p.grid.pixels;
    return p.grid.from_origin + at / p.grid.pixels * p.grid.from_strip + pixel / p.grid.width * p.grid.from_row + pixel % p.grid.width * p.grid.from_pixel;
}

fn to_point(point: u32) -> u32 {
    let pixel = point % p.grid.pixels;
    return p.grid.to_origin + point / p.grid.pixels * p.grid.to_strip + pixel / p.grid.width * p.grid.to_row + pixel % p.grid.width * p.grid.to_pixel;
}

// Where a column's elements stand in X: four places, or one of a vector.
fn from_column(column: u32) -> vec4<u32> {
    if (IS_SINGLE) {
        let point = 4u * column;
        return vec4<u32>(from_point(point), from_point(point + 1u), from_point(point + 2u), from_point(point + 3u));
    }
    return vec4<u32>(from_point(column / STRIP_QUADS) + column % STRIP_QUADS);
}
