// The points of a convolution: pixels that a pass makes, numbered through all strips, rows and pixels. Places and distances are
// in vec4, or in elements where strips have a single sample. The file joined behind this one has the parameters, `p`, with the
// points as `p.grid`.

// Columns of a point.
override STRIP_QUADS: u32 = 8u;
override IS_SINGLE: bool = false;

struct Points {
    // Points, those of one strip, and of one image row.
    points: u32,
    pixels: u32,
    width: u32,
    // Where points stand in X: the first one, and from image row to row, pixel to pixel, strip to strip.
    from_origin: u32,
    from_row: u32,
    from_pixel: u32,
    from_strip: u32,
    // And in Y, or dY.
    to_origin: u32,
    to_row: u32,
    to_pixel: u32,
    to_strip: u32,
    // From channel to channel there.
    to_channel: u32,
}
