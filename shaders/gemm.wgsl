// Dense products: Y = W · X or Wᵀ · X with X and Y in strips, and dW = dY · Xᵀ, all through one tiled product.
//
// A workgroup of SIDE × SIDE invocations computes a tile of 8·SIDE × 8·SIDE sums, an invocation 8 × 8 of them in registers.
// DEPTH terms of both operands at a time stand in shared memory, transposed such that a term is four loads of four numbers
// and 64 multiply-adds. What the next DEPTH terms need is loaded into registers before the current ones are multiplied, so
// that the latency of memory hides behind arithmetic.
//
// A vector of the left tile holds rows that are SIDE apart, and invocation (x, y) has rows y, y + SIDE, y + 2 · SIDE, …
// Thus neighbouring invocations read, and for dW write, neighbouring numbers, though these are single ones: rows of W and dW
// begin anywhere.
//
// The terms may be split over workgroups, where tiles alone are too few: each part has its own copy of the output, and
// sum_parts.wgsl adds these in their order.

// Invocations of a workgroup along each side: 8 or 16.
override SIDE: u32 = 16u;
// Terms in shared memory. 128 × 128 sums take 8.25 KiB.
const DEPTH: u32 = 8u;
// Vectors from one term to the next: one more than there are, so that the transposed stores hit all banks.
override PITCH: u32 = 2u * SIDE + 1u;

struct Parameters {
    // Workgroups, and how they are numbered: tiles along rows first, then along columns, then parts of the terms.
    groups: u32,
    row_tiles: u32,
    column_tiles: u32,
    // Rows and columns of the output in this launch; columns of a product in strips are quads of lanes.
    rows: u32,
    columns: u32,
    // Terms in all and of a part, a multiple of DEPTH; those of dW are lanes, counted in quads.
    terms: u32,
    part_terms: u32,
    // Elements of the output (quads in strips) from one part to the next.
    part_pitch: u32,
    strip_quads: u32,
    // Features of the operand that has the rows, and of X.
    left_features: u32,
    x_features: u32,
    // First row of Y or dY, and first feature of X.
    first_row: u32,
    first_term: u32,
    // Where the window's first element of W or dW stands, and its distances between rows and between terms.
    offset: u32,
    row_stride: u32,
    term_stride: u32,
    // Lanes that count.
    lanes: u32,
    // 1: add to the output.
    accumulate: u32,
}

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> p: Parameters;
// Of the product.
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
// Of the gradient.
@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dw: array<f32>;

var<workgroup> left: array<vec4<f32>, DEPTH * PITCH>;
var<workgroup> right: array<vec4<f32>, DEPTH * PITCH>;

// Sums of an invocation: row r and columns 0 to 3 at 2 · r, columns 4 to 7 at 2 · r + 1.
alias Sums = array<vec4<f32>, 16>;

// First row and first column of the workgroup's tile, and the terms of its part.
struct Tile {
    row: u32,
    column: u32,
    part: u32,
    start: u32,
    end: u32,
}

fn tile(id: u32, column_width: u32) -> Tile {
    let column = id / p.row_tiles;
    let part = column / p.column_tiles;
    let start = part * p.part_terms;
    return Tile(
        (id % p.row_tiles) * 8u * SIDE,
        (column % p.column_tiles) * column_width,
        part,
        start,
        min(start + p.part_terms, p.terms),
    );
}

fn multiply_add(sums: ptr<function, Sums>, l: u32, r: u32) {
    let a = left[l];
    let b = left[l + SIDE];
    let c = right[r];
    let d = right[r + SIDE];
    (*sums)[0] += a.x * c;
    (*sums)[1] += a.x * d;
    (*sums)[2] += a.y * c;
    (*sums)[3] += a.y * d;
    (*sums)[4] += a.z * c;
    (*sums)[5] += a.z * d;
    (*sums)[6] += a.w * c;
    (*sums)[7] += a.w * d;
    (*sums)[8] += b.x * c;
    (*sums)[9] += b.x * d;
    (*sums)[10] += b.y * c;
    (*sums)[11] += b.y * d;
    (*sums)[12] += b.z * c;
    (*sums)[13] += b.z * d;
    (*sums)[14] += b.w * c;
    (*sums)[15] += b.w * d;
}

// All terms in shared memory. Written out, so that no compiler keeps the sums in an array in memory.
fn multiply(sums: ptr<function, Sums>, l: u32, r: u32) {
    multiply_add(sums, l, r);
    multiply_add(sums, l + PITCH, r + PITCH);
    multiply_add(sums, l + 2u * PITCH, r + 2u * PITCH);
    multiply_add(sums, l + 3u * PITCH, r + 3u * PITCH);
    multiply_add(sums, l + 4u * PITCH, r + 4u * PITCH);
    multiply_add(sums, l + 5u * PITCH, r + 5u * PITCH);
    multiply_add(sums, l + 6u * PITCH, r + 6u * PITCH);
    multiply_add(sums, l + 7u * PITCH, r + 7u * PITCH);
}

// The tile's row that begins the vector at `slot` of a term; the others follow at distances of SIDE.
fn row_of(slot: u32) -> u32 {
    return slot / SIDE * 4u * SIDE + slot % SIDE;
}

fn weight_at(row: u32, term: u32, end: u32) -> f32 {
    if (row >= p.rows || term >= end) {
        return 0.0;
    }
    return weight[p.offset + row * p.row_stride + term * p.term_stride];
}

fn weights(row: u32, term: u32, end: u32) -> vec4<f32> {
    return vec4<f32>(
        weight_at(row, term, end),
        weight_at(row + SIDE, term, end),
        weight_at(row + 2u * SIDE, term, end),
        weight_at(row + 3u * SIDE, term, end),
    );
}

// A quad of a tensor in strips: where it stands if its feature were 0, and its first lane.
struct Place {
    is_valid: bool,
    base: u32,
    lane: u32,
}

fn place(quad: u32, end: u32, features: u32) -> Place {
    let strip = quad / p.strip_quads;
    let inside = quad % p.strip_quads;
    return Place(quad < end, strip * features * p.strip_quads + inside, 4u * quad);
}

fn x_at(source: Place, term: u32, end: u32) -> vec4<f32> {
    if (!source.is_valid || term >= end) {
        return vec4<f32>(0.0);
    }
    return x[source.base + (p.first_term + term) * p.strip_quads];
}

fn store_quad(to: Place, part: u32, row: u32, sum: vec4<f32>) {
    if (!to.is_valid || row >= p.rows) {
        return;
    }
    // What lies beyond the last lane that counts stays zero.
    let lanes = vec4<u32>(to.lane, to.lane + 1u, to.lane + 2u, to.lane + 3u);
    var value = select(sum, vec4<f32>(0.0), lanes >= vec4<u32>(p.lanes));
    let at = part * p.part_pitch + to.base + (p.first_row + row) * p.strip_quads;
    if (p.accumulate != 0u) {
        value += y[at];
    }
    y[at] = value;
}

// Y[rows, lanes] = W · X, W's elements at any distances.
@compute @workgroup_size(SIDE, SIDE)
fn gemm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let id = group.x + group.y * groups.x;
    if (id >= p.groups) {
        return;
    }
    let t = tile(id, 2u * SIDE);
    // Which vectors of the tiles this invocation loads: along W's contiguous direction, and along the lanes.
    let along_terms = p.term_stride == 1u;
    let slot = select(i % (2u * SIDE), i / DEPTH, along_terms);
    let depth = select(i / (2u * SIDE), i % DEPTH, along_terms);
    // With 64 invocations each has two.
    let next_slot = select(slot, slot + SIDE, along_terms);
    let next_depth = select(depth + 4u, depth, along_terms);
    let quad = i % (2u * SIDE);
    let quad_depth = i / (2u * SIDE);
    let source = place(t.column + quad, p.columns, p.x_features);
    let row = t.row + row_of(slot);
    let next_row = t.row + row_of(next_slot);

    var sums = Sums();
    var w0 = weights(row, t.start + depth, t.end);
    var x0 = x_at(source, t.start + quad_depth, t.end);
    var w1 = vec4<f32>(0.0);
    var x1 = vec4<f32>(0.0);
    if (SIDE < 16u) {
        w1 = weights(next_row, t.start + next_depth, t.end);
        x1 = x_at(source, t.start + quad_depth + 4u, t.end);
    }
    for (var term = t.start; term < t.end; term += DEPTH) {
        workgroupBarrier();
        left[depth * PITCH + slot] = w0;
        right[quad_depth * PITCH + quad] = x0;
        if (SIDE < 16u) {
            left[next_depth * PITCH + next_slot] = w1;
            right[(quad_depth + 4u) * PITCH + quad] = x1;
        }
        workgroupBarrier();
        let next = term + DEPTH;
        w0 = weights(row, next + depth, t.end);
        x0 = x_at(source, next + quad_depth, t.end);
        if (SIDE < 16u) {
            w1 = weights(next_row, next + next_depth, t.end);
            x1 = x_at(source, next + quad_depth + 4u, t.end);
        }
        multiply(&sums, local.y, local.x);
    }

    let c = place(t.column + local.x, p.columns, p.left_features);
    let d = place(t.column + local.x + SIDE, p.columns, p.left_features);
    let first = t.row + local.y;
    store_quad(c, t.part, first, sums[0]);
    store_quad(d, t.part, first, sums[1]);
    store_quad(c, t.part, first + SIDE, sums[2]);
    store_quad(d, t.part, first + SIDE, sums[3]);
    store_quad(c, t.part, first + 2u * SIDE, sums[4]);
    store_quad(d, t.part, first + 2u * SIDE, sums[5]);
    store_quad(c, t.part, first + 3u * SIDE, sums[6]);
    store_quad(d, t.part, first + 3u * SIDE, sums[7]);
    store_quad(c, t.part, first + 4u * SIDE, sums[8]);
    store_quad(d, t.part, first + 4u * SIDE, sums[9]);
    store_quad(c, t.part, first + 5u * SIDE, sums[10]);
    store_quad(d, t.part, first + 5u * SIDE, sums[11]);
    store_quad(c, t.part, first + 6u * SIDE, sums[12]);
    store_quad(d, t.part, first + 6u * SIDE, sums[13]);
    store_quad(c, t.part, first + 7u * SIDE, sums[14]);
    store_quad(d, t.part, first + 7u * SIDE, sums[15]);
}

// An element of dY or X; zeros for what lies outside the product.
fn quad_at(of_dy: bool, is_valid: bool, at: u32) -> vec4<f32> {
    if (!is_valid) {
        return vec4<f32>(0.0);
    }
    if (of_dy) {
        return dy[at];
    }
    return x[at];
}

// Quad `quad` of the lanes of four rows of dY, or of X, that are SIDE apart, transposed: a vector for each lane.
fn block(of_dy: bool, row: u32, quad: u32, end: u32) -> mat4x4<f32> {
    let features = select(p.x_features, p.left_features, of_dy);
    let first = select(0u, p.first_row, of_dy);
    let base = (quad / p.strip_quads * features + first + row) * p.strip_quads + quad % p.strip_quads;
    let pitch = SIDE * p.strip_quads;
    let nrows = select(p.columns, p.rows, of_dy);
    let is_inside = quad < end;
    return transpose(mat4x4<f32>(
        quad_at(of_dy, is_inside && row < nrows, base),
        quad_at(of_dy, is_inside && row + SIDE < nrows, base + pitch),
        quad_at(of_dy, is_inside && row + 2u * SIDE < nrows, base + 2u * pitch),
        quad_at(of_dy, is_inside && row + 3u * SIDE < nrows, base + 3u * pitch),
    ));
}

fn store_number(to: u32, column: u32, sum: f32) {
    if (column >= p.columns) {
        return;
    }
    let at = to + column;
    var value = sum;
    if (p.accumulate != 0u) {
        value += dw[at];
    }
    dw[at] = value;
}

fn store_numbers(t: Tile, row: u32, column: u32, c: vec4<f32>, d: vec4<f32>) {
    if (row >= p.rows) {
        return;
    }
    let to = t.part * p.part_pitch + p.offset + row * p.row_stride;
    store_number(to, column, c.x);
    store_number(to, column + SIDE, c.y);
    store_number(to, column + 2u * SIDE, c.z);
    store_number(to, column + 3u * SIDE, c.w);
    store_number(to, column + 4u * SIDE, d.x);
    store_number(to, column + 5u * SIDE, d.y);
    store_number(to, column + 6u * SIDE, d.z);
    store_number(to, column + 7u * SIDE, d.w);
}

// dW[rows, columns] = dY · Xᵀ, row-major. The columns are interleaved as the rows are. Terms are quads of lanes, two at a
// time: 8 · SIDE invocations load four rows' quads each and store them transposed.
@compute @workgroup_size(SIDE, SIDE)
fn gemm_weight_grad(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) i: u32,
) {
    let id = group.x + group.y * groups.x;
    if (id >= p.groups) {
        return;
    }
    let t = tile(id, 8u * SIDE);
    let is_loading = i < 8u * SIDE;
    let of_dy = i < 4u * SIDE;
    let inner = i % 2u;
    let slot = i % (4u * SIDE) / 2u;
    let row = select(t.column, t.row, of_dy) + row_of(slot);
    let to = 4u * inner * PITCH + slot;

    var sums = Sums();
    var loaded = mat4x4<f32>();
    if (is_loading) {
        loaded = block(of_dy, row, t.start + inner, t.end);
    }
    for (var term = t.start; term < t.end; term += 2u) {
        workgroupBarrier();
        if (is_loading) {
            if (of_dy) {
                left[to] = loaded[0];
                left[to + PITCH] = loaded[1];
                left[to + 2u * PITCH] = loaded[2];
                left[to + 3u * PITCH] = loaded[3];
            } else {
                right[to] = loaded[0];
                right[to + PITCH] = loaded[1];
                right[to + 2u * PITCH] = loaded[2];
                right[to + 3u * PITCH] = loaded[3];
            }
        }
        workgroupBarrier();
        if (is_loading) {
            loaded = block(of_dy, row, term + 2u + inner, t.end);
        }
        multiply(&sums, local.y, local.x);
    }

    let first = t.row + local.y;
    let column = t.column + local.x;
    store_numbers(t, first, column, sums[0], sums[1]);
    store_numbers(t, first + SIDE, column, sums[2], sums[3]);
    store_numbers(t, first + 2u * SIDE, column, sums[4], sums[5]);
    store_numbers(t, first + 3u * SIDE, column, sums[6], sums[7]);
    store_numbers(t, first + 4u * SIDE, column, sums[8], sums[9]);
    store_numbers(t, first + 5u * SIDE, column, sums[10], sums[11]);
    store_numbers(t, first + 6u * SIDE, column, sums[12], sums[13]);
    store_numbers(t, first + 7u * SIDE, column, sums[14], sums[15]);
}
