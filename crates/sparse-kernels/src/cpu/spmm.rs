//! SpMM over strips: `Y[m, n] = W[m, k] · X[k, n]`, and its transpose through the transposed index.
//!
//! ```text
//! for each group of P strips                          (parallel with the row blocks)
//!   for each column chunk                             X's part of the chunk settles in L1
//!     for each row block, for each R segments in it   rows of about equal length, in lock-step
//!       acc[R][P · V] = first chunk ? 0 or the bias : Y
//!       for each entry e of the segments              the hot loop:
//!         acc[r][p, v] += values[e] · X[p][columns[e]][v]     one load per multiply-add
//!       Y = last chunk, with ReLU ? max(0, acc) : acc
//! ```
//!
//! The hot loop holds its outputs in registers: per entry, P · V multiply-adds with a memory operand. Loads are what is
//! scarce, two a cycle, so those of entries are shared: one brings four values, which shuffles spread over vectors, and one
//! two columns. That is P · V + 0.75 loads an entry where P · V + 2 would do it singly. R rows in flight hide the latency of
//! the multiply-add and share the loop's overhead. Tiles are chosen by [`StripTile::run_widest`].

use super::ahead::{Ahead, LINE};
use super::isa::{Isa, Kernel, dispatch};
use super::lockstep::{Entries, Source, add_entries};
use super::plan::{Segment, Walk};
use super::{Buffer, Cpu, SharedMut};
use crate::StripLayout;

/// One product: a walk over a pattern and its values, from strips `x` to strips `y`.
pub(super) struct Spmm<'a> {
    /// Column of each entry, in the walk's numbering; all are below x's number of features.
    pub columns: &'a [u32],
    pub walk: &'a Walk,
    pub values: &'a [f32],
    pub epilogue: Epilogue<'a>,
    pub x_layout: StripLayout,
    pub x: &'a [f32],
    pub y_layout: StripLayout,
    pub y: &'a mut Buffer,
}

/// What becomes of a sum on its way to Y.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// What the sum of each row begins with; zeros if there is none.
    pub bias: Option<&'a [f32]>,
    /// Whether negative sums become zero.
    pub relu: bool,
}

impl Spmm<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// - `x` and `y` are as long as their layouts say, which agree in lanes and strip, the strip being the plan's.
    /// - All of `columns` are below x's number of features; `values` has one value for each.
    /// - Segments of `walk` hold entries of `columns`, no row in two of its blocks; its rows are below y's number of
    ///   features, which is the bias's length.
    pub unsafe fn run(self, cpu: &Cpu) {
        let strips = self.x_layout.strips();
        let (walk, blocks) = (self.walk, self.walk.blocks());
        let operations = 2 * self.columns.len() as u64 * self.x_layout.lanes() as u64;
        // Far beyond L2, rows of Y are waited for: segments name them in no order. So are rows of X: where a block uses each of
        // them some times, all of a chunk are fetched in their order; else, if rows of the pattern are short, those that are used.
        let is_far = cpu.is_far(self.x.len() + self.y.len());
        let per_row = self.columns.len() / self.y_layout.features().max(1);
        let uses = self.columns.len() / (self.x_layout.features() * blocks).max(1);
        let (chunks, rows) = (uses >= FEW_USES, uses < FEW_USES && per_row <= 32);
        let fetch = Fetch { y: is_far, x_chunks: is_far && chunks, x_rows: is_far && rows };
        let y = SharedMut::new(self.y);
        // Blocks outermost: a block's entries then stay in L2 for all strips. Each output is computed by one task. A group is
        // as many strips as one tile spans.
        let per_group = if cpu.isa().registers() >= 32 { 2 } else { 1 };
        let groups = strips.div_ceil(per_group);
        cpu.for_each_task(blocks * groups, operations, |task| {
            let (block, group) = (task / groups, task % groups);
            let part = Part {
                columns: self.columns,
                walk,
                values: self.values,
                epilogue: self.epilogue,
                x_layout: self.x_layout,
                x: self.x,
                y_layout: self.y_layout,
                y,
                fetch,
                strips: group * per_group..((group + 1) * per_group).min(strips),
                block,
            };
            dispatch(cpu.isa, part);
        });
    }
}

/// How many groups of rows ahead their rows of X and Y are fetched.
const AHEAD: usize = 3;

/// Times that a block uses each row of X on average, below which only those that are used are fetched.
const FEW_USES: usize = 4;

/// What is fetched ahead.
#[derive(Clone, Copy)]
struct Fetch {
    /// Rows of Y.
    y: bool,
    /// The next chunk's part of X.
    x_chunks: bool,
    /// Rows of X that entries name.
    x_rows: bool,
}

/// The work of one task.
struct Part<'a> {
    columns: &'a [u32],
    walk: &'a Walk,
    values: &'a [f32],
    epilogue: Epilogue<'a>,
    x_layout: StripLayout,
    x: &'a [f32],
    y_layout: StripLayout,
    y: SharedMut,
    fetch: Fetch,
    strips: std::ops::Range<usize>,
    block: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let strip = self.x_layout.strip();
        let mut s = self.strips.start;
        while s < self.strips.end {
            // A tail strip computes only the vectors that hold lanes which count.
            let vectors = self.x_layout.lanes_of(s).div_ceil(I::LANES);
            let pair = s + 1 < self.strips.end && self.x_layout.lanes_of(s + 1).div_ceil(I::LANES) == vectors;
            let tile = StripTile { part: &self, strip: s };
            let used = tile.run_widest(isa, vectors, pair);
            for s in s..s + used {
                // Sums of padding lanes are zeros, unless they begin with a bias.
                let computed = vectors * I::LANES;
                let from = if self.epilogue.bias.is_some() { self.x_layout.lanes_of(s) } else { computed };
                if from < strip {
                    StripTile { part: &self, strip: s }.clear_padding(from);
                }
            }
            s += used;
        }
    }
}

/// One or more strips of a part, starting at `strip`.
struct StripTile<'a> {
    part: &'a Part<'a>,
    strip: usize,
}

impl StripTile<'_> {
    /// Chooses the tile: `R` rows in lock-step, `P` strips, `V` vectors of each. R · P · V accumulators plus one for
    /// the broadcast must fit the registers, and be at least the 8 to 10 that hide the multiply-add's latency.
    /// Returns the number of strips done.
    #[inline(always)]
    fn run_widest<I: Isa>(&self, isa: I, vectors: usize, pair: bool) -> usize {
        // Constant blocks, so that the tiles of other instruction sets are not even compiled.
        if const { !I::IS_VECTOR } {
            match vectors {
                1 => isa.call(Chunks::<4, 1, 1>(self)),
                2 => isa.call(Chunks::<2, 1, 2>(self)),
                3 => isa.call(Chunks::<1, 1, 3>(self)),
                4 => isa.call(Chunks::<1, 1, 4>(self)),
                5 => isa.call(Chunks::<1, 1, 5>(self)),
                6 => isa.call(Chunks::<1, 1, 6>(self)),
                7 => isa.call(Chunks::<1, 1, 7>(self)),
                8 => isa.call(Chunks::<1, 1, 8>(self)),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        } else if const { I::REGISTERS >= 32 } {
            match (vectors, pair) {
                (1, true) => isa.call(Chunks::<6, 2, 1>(self)),
                (1, false) => isa.call(Chunks::<8, 1, 1>(self)),
                (2, true) => isa.call(Chunks::<4, 2, 2>(self)),
                (2, false) => isa.call(Chunks::<6, 1, 2>(self)),
                (3, _) => isa.call(Chunks::<4, 1, 3>(self)),
                (4, _) => isa.call(Chunks::<4, 1, 4>(self)),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        } else {
            match vectors {
                1 => isa.call(Chunks::<6, 1, 1>(self)),
                2 => isa.call(Chunks::<6, 1, 2>(self)),
                3 => isa.call(Chunks::<4, 1, 3>(self)),
                4 => isa.call(Chunks::<3, 1, 4>(self)),
                5 => isa.call(Chunks::<2, 1, 5>(self)),
                6 => isa.call(Chunks::<2, 1, 6>(self)),
                7 => isa.call(Chunks::<1, 1, 7>(self)),
                8 => isa.call(Chunks::<1, 1, 8>(self)),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        }
    }
}

/// All chunks of a tile: `R` rows in lock-step, `P` strips, `V` vectors of each. Returns the number of strips.
struct Chunks<'a, const R: usize, const P: usize, const V: usize>(&'a StripTile<'a>);

impl<const R: usize, const P: usize, const V: usize> Kernel for Chunks<'_, R, P, V> {
    type Output = usize;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> usize {
        let Chunks(tile) = self;
        let part = tile.part;
        let strips = part.x_layout.strips();
        for chunk in 0..part.walk.chunks() {
            let (first, last) = (chunk == 0, chunk + 1 == part.walk.chunks());
            let segments = part.walk.segments(part.block, chunk);
            let groups = segments.chunks_exact(R);
            let rest = groups.remainder();
            let mut ahead = tile.next_x::<P>(groups.len(), chunk);
            // Each group of rows fetches a share of what comes next.
            let next = part.walk.upcoming(part.block, chunk, tile.strip..tile.strip + P, strips);
            let share = next.len().div_ceil(groups.len().max(1)).next_multiple_of(LINE);
            for (g, group) in groups.enumerate() {
                // Later chunks find their rows of Y near.
                for segment in segments.iter().skip((g + AHEAD) * R).take(if first && part.fetch.y { R } else { 0 }) {
                    tile.fetch::<I, P, V>(isa, segment);
                }
                for at in (next.start + g * share..next.end.min(next.start + (g + 1) * share)).step_by(LINE) {
                    isa.prefetch(part.columns.as_ptr().wrapping_add(at).cast());
                    isa.prefetch(part.values.as_ptr().wrapping_add(at));
                }
                ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
                let group: &[Segment; R] = group.try_into().expect("chunks_exact gives R");
                tile.rows::<I, R, P, V>(isa, group, first, last);
            }
            for segment in rest {
                tile.rows::<I, 1, P, V>(isa, std::array::from_ref(segment), first, last);
            }
        }
        P
    }
}

impl StripTile<'_> {
    /// X's part for the next chunk, or after the last for the next strips' first.
    fn next_x<const P: usize>(&self, groups: usize, chunk: usize) -> [Ahead; P] {
        let part = self.part;
        let (chunk, strip) = match chunk + 1 < part.walk.chunks() {
            true => (chunk + 1, self.strip),
            false => (0, (self.strip + P) % part.x_layout.strips()),
        };
        let x = (part.x.as_ptr(), part.x_layout);
        if part.fetch.x_chunks { Ahead::of_chunk(part.walk, chunk, x, strip, groups) } else { Ahead::none() }
    }

    /// Fetches what a segment's row will want: its row of Y, and perhaps the rows of X.
    #[inline(always)]
    fn fetch<I: Isa, const P: usize, const V: usize>(&self, isa: I, segment: &Segment) {
        let part = self.part;
        self.fetch_row::<I, P, V>(isa, part.y.get(), part.y_layout, segment.row);
        if part.fetch.x_rows {
            for entry in segment.start..segment.start + segment.len {
                self.fetch_row::<I, P, V>(isa, part.x.as_ptr(), part.x_layout, part.columns[entry as usize]);
            }
        }
    }

    #[inline(always)]
    fn fetch_row<I: Isa, const P: usize, const V: usize>(
        &self,
        isa: I,
        data: *const f32,
        layout: StripLayout,
        feature: u32,
    ) {
        for p in 0..P {
            let at = (self.strip + p) * layout.strip_pitch() + feature as usize * layout.strip();
            for line in (0..V * I::LANES).step_by(LINE) {
                isa.prefetch(data.wrapping_add(at + line));
            }
        }
    }

    /// R rows in lock-step over P strips of V vectors.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const P: usize, const V: usize>(
        &self,
        isa: I,
        group: &[Segment; R],
        first: bool,
        last: bool,
    ) {
        let part = self.part;
        let shift = part.x_layout.strip().trailing_zeros();
        let (x_pitch, y_pitch) = (part.x_layout.strip_pitch(), part.y_layout.strip_pitch());
        let columns = part.columns.as_ptr();
        let values = part.values.as_ptr();
        let x = part.x.as_ptr().wrapping_add(self.strip * x_pitch);
        // Why the accesses below are in bounds: `Walk` makes segments of the pattern's entries only, and `run`'s caller
        // promises that there are as many values as columns, and that x and y have the pattern's columns and rows as
        // features and the length of their layouts. Columns are below ncols by `CsrPattern`'s invariants (rows below nrows,
        // for a transposed plan). The caller found the strips `self.strip..self.strip + P` to exist, of V vectors each.
        // SAFETY: in bounds as said above; tasks differ in strip or row block, so no other task writes these rows.
        unsafe {
            let y: [*mut f32; R] =
                std::array::from_fn(|r| part.y.get().add(self.strip * y_pitch + ((group[r].row as usize) << shift)));
            let mut acc = [[[isa.splat(0.0); V]; P]; R];
            if first {
                if let Some(bias) = part.epilogue.bias {
                    for (acc, segment) in acc.iter_mut().zip(group) {
                        *acc = [[isa.splat(bias[segment.row as usize]); V]; P];
                    }
                }
            } else {
                for (acc, y) in acc.iter_mut().zip(y) {
                    for (p, acc) in acc.iter_mut().enumerate() {
                        for (v, acc) in acc.iter_mut().enumerate() {
                            *acc = isa.load(y.add(p * y_pitch + v * I::LANES));
                        }
                    }
                }
            }
            let entries = group.map(|s| {
                let start = s.start as usize;
                Entries { columns: columns.add(start), values: values.add(start), len: s.len as usize }
            });
            add_entries(isa, entries, Source { x, shift, pitch: x_pitch }, &mut acc);
            if last && part.epilogue.relu {
                // The second operand is the one that comes through if either is NaN: NaN is not hidden.
                for acc in acc.as_flattened_mut().as_flattened_mut() {
                    *acc = isa.max(isa.splat(0.0), *acc);
                }
            }
            for (acc, y) in acc.iter().zip(y) {
                for (p, acc) in acc.iter().enumerate() {
                    for (v, &acc) in acc.iter().enumerate() {
                        isa.store(y.add(p * y_pitch + v * I::LANES), acc);
                    }
                }
            }
        }
    }

    /// Zeroes the lanes of the part's rows from `from` on.
    fn clear_padding(&self, from: usize) {
        let (part, strip) = (self.part, self.part.y_layout.strip());
        for row in part.walk.rows(part.block) {
            let at = self.strip * part.y_layout.strip_pitch() + row * strip;
            // SAFETY: row is below nrows = y's features and the strip exists, so the strip's lanes of the row are in
            // bounds; no other task writes this row of this strip.
            unsafe { std::slice::from_raw_parts_mut(part.y.get().add(at + from), strip - from).fill(0.0) };
        }
    }
}
