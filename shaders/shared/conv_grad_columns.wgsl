// Columns of X and dY, of gradients whose invocations have one each.

struct Column {
    // In X: four places, or one of a vector.
    from_x: vec4<u32>,
    dy: vec4<f32>,
}

fn column(index: u32, count: u32, channel: u32) -> Column {
    if (IS_SINGLE) {
        let first = 4u * index;
        let last = count - 1u;
        let a = places[first];
        let b = places[min(first + 1u, last)];
        let c = places[min(first + 2u, last)];
        let d = places[min(first + 3u, last)];
        let loaded = vec4<f32>(
            dy_single[a.y + channel],
            dy_single[b.y + channel],
            dy_single[c.y + channel],
            dy_single[d.y + channel],
        );
        let points = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
        let masked = select(loaded, vec4<f32>(0.0), points >= vec4<u32>(count));
        return Column(vec4<u32>(a.x, b.x, c.x, d.x), masked);
    }
    let place = places[index / STRIP_QUADS] + vec2<u32>(index % STRIP_QUADS);
    return Column(vec4<u32>(place.x), dy[place.y + channel]);
}
