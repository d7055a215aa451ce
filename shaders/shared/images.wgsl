// Quads of images: where an invocation's quad lies in the tensor that is written, and which of its elements count. The file
// joined behind this one has the parameters, `p`. A tensor is described by its first pixel and the elements from a channel, a row
// and a strip to the next.

// Whether a strip is a single sample: then a quad is four neighbouring pixels of a row.
override SINGLE: bool = false;

const LANES = vec4<u32>(0u, 1u, 2u, 3u);

// A quad of a tensor of images.
struct Place {
    strip: u32,
    row: u32,
    channel: u32,
    // Which quad of the tensor.
    at: u32,
    // How many elements it lies behind the row's first pixel; less than nothing only of the first with SINGLE.
    offset: i32,
    // What of it is a pixel of a sample that counts.
    is_live: vec4<bool>,
}

fn row_of(tensor: vec4<u32>, strip: u32, row: u32, channel: u32) -> u32 {
    return tensor.x + channel * tensor.y + row * tensor.z + strip * tensor.w;
}

fn place(tensor: vec4<u32>, strip: u32, row: u32, channel: u32, quad: u32) -> Place {
    let at = (row_of(tensor, strip, row, channel) - p.lead) / 4u + quad;
    let elements = vec4<u32>(4u * quad) + LANES;
    var is_live: vec4<bool>;
    if (SINGLE) {
        is_live = (elements >= vec4<u32>(p.lead)) & (elements < vec4<u32>(p.lead + p.row_elements));
    } else {
        let sample = (strip << p.shift) + ((4u * quad) & ((1u << p.shift) - 1u));
        is_live = vec4<u32>(sample) + LANES < vec4<u32>(p.samples);
    }
    return Place(strip, row, channel, at, i32(4u * quad) - i32(p.lead), is_live);
}

// The quad of an invocation; none if the strip is beyond the last.
fn place_of(tensor: vec4<u32>, id: u32) -> Place {
    let row = id / p.row_quads;
    let image_row = row / p.channels;
    return place(tensor, image_row / p.height, image_row % p.height, row % p.channels, id % p.row_quads);
}
