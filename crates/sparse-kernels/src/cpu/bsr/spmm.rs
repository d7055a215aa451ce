//! Block-sparse SpMM over strips: `Y[m, n] = W[m, k] · X[k, n]`, and its transpose through the transposed block index.
//!
//! ```text
//! for each band of block rows, each group of strips          (parallel)
//!   for each V vectors of the group's lanes                  of one strip, or of neighbouring ones
//!     for each block row, each R of its rows
//!       acc[R][V] = 0
//!       for each block, each of its columns j                the hot loop:
//!         x[V] = X[column j]                                 V loads
//!         acc[r][v] += value[r, j] · x[v]                    R broadcasts, R · V multiply-adds
//!       Y = acc
//! ```
//!
//! A loaded vector of X serves R rows and a broadcast value V vectors: (R + V) loads for R · V multiply-adds. Y is
//! written once and never read. For the transpose, the roles of a block's rows and columns are swapped.

use crate::cpu::ahead::LINE;
use crate::cpu::isa::{Isa, Kernel, array_of, dispatch};
use crate::cpu::{Buffer, Cpu, SharedMut};
use crate::{CsrPattern, StripLayout};

/// One product: blocks and their values, from strips `x` to strips `y`.
pub(super) struct Spmm<'a> {
    /// For each block row of Y, the block rows of X that its blocks meet.
    pub blocks: &'a CsrPattern,
    /// Where each block stands among the values, for the transposed product; `None`: in order.
    pub places: Option<&'a [u32]>,
    /// Bounds of the bands of block rows.
    pub bands: &'a [u32],
    /// Rows and columns of a block as it is stored.
    pub block_size: [usize; 2],
    pub values: &'a [f32],
    pub x_layout: StripLayout,
    pub x: &'a [f32],
    pub y_layout: StripLayout,
    pub y: &'a mut Buffer,
}

/// Lanes that one task spans.
const GROUP_LANES: usize = 128;
/// How far ahead values are fetched, in values.
const AHEAD: usize = 512;

impl Spmm<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// - `x` and `y` are as long as their layouts say, which agree in lanes and strip.
    /// - They have as many features as the blocks' columns and rows reach, the last ones in part.
    /// - There are values for all blocks, and `places`, if any, and `bands` are those of the blocks.
    pub unsafe fn run(self, cpu: &Cpu) {
        let [r, c] = self.block_size;
        // Of the transposed product, a block's columns are rows of Y.
        let height = if self.places.is_none() { r } else { c };
        match height {
            1 => self.run_tall::<1>(cpu),
            2 => self.run_tall::<2>(cpu),
            8.. if cpu.isa().registers() >= 32 => self.run_tall::<8>(cpu),
            _ => self.run_tall::<4>(cpu),
        }
    }

    /// In tiles of `R` rows of a block.
    fn run_tall<const R: usize>(self, cpu: &Cpu) {
        let [r, c] = self.block_size;
        let (height, width, down, across) = if self.places.is_none() { (r, c, c, 1) } else { (c, r, 1, c) };
        let strips = self.x_layout.strips();
        let operations = 2 * self.values.len() as u64 * self.x_layout.lanes() as u64;
        let per_group = GROUP_LANES / self.x_layout.strip();
        let groups = strips.div_ceil(per_group);
        let y = SharedMut::new(self.y);
        // Bands outermost: a band's values then stay in L2 for all lanes. Each output is computed by one task.
        cpu.for_each_task((self.bands.len() - 1) * groups, operations, |task| {
            let (band, group) = (task / groups, task % groups);
            let part = Part::<R> {
                blocks: self.blocks,
                places: self.places,
                values: self.values,
                x_layout: self.x_layout,
                x: self.x,
                y_layout: self.y_layout,
                y,
                height,
                width,
                down,
                across,
                block_rows: self.bands[band] as usize..self.bands[band + 1] as usize,
                // Even groups rather than a short last one.
                strips: group * strips / groups..(group + 1) * strips / groups,
            };
            dispatch(cpu.isa(), part);
        });
    }
}

/// The work of one task, in tiles of `R` rows.
struct Part<'a, const R: usize> {
    blocks: &'a CsrPattern,
    places: Option<&'a [u32]>,
    values: &'a [f32],
    x_layout: StripLayout,
    x: &'a [f32],
    y_layout: StripLayout,
    y: SharedMut,
    /// Rows of Y and of X that a block has.
    height: usize,
    width: usize,
    /// From a value to that of the next row, and of the next column.
    down: usize,
    across: usize,
    block_rows: std::ops::Range<usize>,
    strips: std::ops::Range<usize>,
}

impl<const R: usize> Kernel for Part<'_, R> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        // The vectors that hold lanes which count: all of each strip but the last.
        let of_strip = self.x_layout.strip() / I::LANES;
        let last = self.x_layout.lanes_of(self.strips.end - 1).div_ceil(I::LANES);
        let vectors = (self.strips.len() - 1) * of_strip + last;
        let mut first = 0;
        while first < vectors {
            first += self.widest(isa, first, vectors - first);
        }
        if last < of_strip {
            self.clear_padding(last * I::LANES);
        }
    }
}

impl<const R: usize> Part<'_, R> {
    /// Does one or more of the `left` vectors from `first` on and returns how many. R · V accumulators, V vectors of X
    /// and one broadcast must fit the registers; 12 accumulators or more keep the multiply-adds busy, 8 just so.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, first: usize, left: usize) -> usize {
        // Constant blocks, so that the tiles of other heights and instruction sets are not even compiled.
        if const { !I::IS_VECTOR } {
            self.vectors::<I, 1, 1>(isa, first)
        } else if const { R == 1 } {
            match left {
                8.. => self.vectors::<I, R, 8>(isa, first),
                4.. => self.vectors::<I, R, 4>(isa, first),
                2.. => self.vectors::<I, R, 2>(isa, first),
                _ => self.vectors::<I, R, 1>(isa, first),
            }
        } else if const { R == 2 || R == 4 && I::REGISTERS >= 32 } {
            match left {
                6 | 8 | 9 | 12.. => self.vectors::<I, R, 6>(isa, first),
                4.. => self.vectors::<I, R, 4>(isa, first),
                2.. => self.vectors::<I, R, 2>(isa, first),
                _ => self.vectors::<I, R, 1>(isa, first),
            }
        } else if const { R == 4 || I::REGISTERS >= 32 } {
            match left {
                // Four are two and two, not three and one.
                3 | 5.. => self.vectors::<I, R, 3>(isa, first),
                2.. => self.vectors::<I, R, 2>(isa, first),
                _ => self.vectors::<I, R, 1>(isa, first),
            }
        } else {
            unreachable!("eight rows need 32 registers")
        }
    }

    /// All block rows over V vectors from `first` on, T rows at a time.
    #[inline(always)]
    fn vectors<I: Isa, const T: usize, const V: usize>(&self, isa: I, first: usize) -> usize {
        let of_strip = self.x_layout.strip() / I::LANES;
        let place = |v: usize| (self.strips.start + (first + v) / of_strip, (first + v) % of_strip * I::LANES);
        // Rows of X and Y are at equal distances within a strip, so each vector has one base in each.
        let x: [*const f32; V] = std::array::from_fn(|v| {
            let (strip, lane) = place(v);
            self.x.as_ptr().wrapping_add(strip * self.x_layout.strip_pitch() + lane)
        });
        let y: [*mut f32; V] = std::array::from_fn(|v| {
            let (strip, lane) = place(v);
            self.y.get().wrapping_add(strip * self.y_layout.strip_pitch() + lane)
        });
        for block_row in self.block_rows.clone() {
            let rows = self.height.min(self.y_layout.features() - block_row * self.height);
            let mut row = 0;
            while row + T <= rows {
                self.rows::<I, T, V>(isa, block_row, row, &x, &y, first == 0);
                row += T;
            }
            while const { T > 1 } && row < rows {
                self.rows::<I, 1, V>(isa, block_row, row, &x, &y, first == 0);
                row += 1;
            }
        }
        V
    }

    /// Rows `row..row + T` of a block row over V vectors; with `fetch` it fetches values ahead.
    #[inline(always)]
    fn rows<I: Isa, const T: usize, const V: usize>(
        &self,
        isa: I,
        block_row: usize,
        row: usize,
        x: &[*const f32; V],
        y: &[*mut f32; V],
        fetch: bool,
    ) {
        let (strip, height, width) = (self.x_layout.strip(), self.height, self.width);
        // The transposed product finds its blocks anywhere: the first pass over them fetches ahead.
        let scattered = self.places.filter(|_| fetch && row == 0);
        let ahead = (AHEAD / (height * width)).max(2);
        let range = self.blocks.row_range(block_row);
        let columns = &self.blocks.col_indices()[range.clone()];
        let mut acc = [[isa.splat(0.0); V]; T];
        // Why the accesses below are in bounds: the caller found the vectors to exist in X and Y, whose lengths and features
        // `run`'s caller promises, and `row + T` rows of the block row to be below Y's features. A block has `width` rows of X,
        // less those beyond X's features. There are height · width values for each block, and `places` is a permutation of the
        // blocks.
        // SAFETY: in bounds as said above; tasks differ in block row or strip, so no other task writes these rows of Y.
        unsafe {
            for (k, &column) in columns.iter().enumerate() {
                let first = column as usize * width;
                let block = range.start + k;
                let place = self.places.map_or(block, |places| *places.get_unchecked(block) as usize);
                if let Some(&next) = scattered.and_then(|places| places.get(block + ahead)) {
                    let next = self.values.as_ptr().wrapping_add(next as usize * height * width);
                    (0..height * width).step_by(LINE).for_each(|at| isa.prefetch(next.wrapping_add(at)));
                }
                let mut values = self.values.as_ptr().add(place * height * width + row * self.down);
                let mut offset = first * strip;
                for _ in 0..width.min(self.x_layout.features() - first) {
                    column_step(isa, values, self.down, x, offset, &mut acc);
                    // Past the last column this may point behind the values.
                    values = values.wrapping_add(self.across);
                    offset += strip;
                }
            }
            let to = (block_row * height + row) * strip;
            for (r, acc) in acc.iter().enumerate() {
                for (y, &acc) in y.iter().zip(acc) {
                    isa.store(y.add(to + r * strip), acc);
                }
            }
        }
    }

    /// Zeroes the lanes of the part's rows from `from` on, in its last strip.
    fn clear_padding(&self, from: usize) {
        let strip = self.y_layout.strip();
        let rows =
            self.block_rows.start * self.height..(self.block_rows.end * self.height).min(self.y_layout.features());
        for row in rows {
            let at = (self.strips.end - 1) * self.y_layout.strip_pitch() + row * strip;
            // SAFETY: row is below y's features and the strip exists, so the strip's lanes of the row are in bounds; no
            // other task writes this row of this strip.
            unsafe { std::slice::from_raw_parts_mut(self.y.get().add(at + from), strip - from).fill(0.0) };
        }
    }
}

/// `acc += values · X`: T rows of one column of a block, whose row of X stands at `offset`.
///
/// # Safety
/// T values at distances of `down` are at `values`, and a vector at `offset` behind each of `x`.
#[inline(always)]
unsafe fn column_step<I: Isa, const T: usize, const V: usize>(
    isa: I,
    values: *const f32,
    down: usize,
    x: &[*const f32; V],
    offset: usize,
    acc: &mut [[I::V; V]; T],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let x: [I::V; V] = array_of(|v| isa.load(x[v].add(offset)));
        for (r, acc) in acc.iter_mut().enumerate() {
            let w = isa.splat(*values.add(r * down));
            for (acc, &x) in acc.iter_mut().zip(&x) {
                *acc = isa.mul_add(w, x, *acc);
            }
            // 4 · 3 accumulators, 3 vectors of X and the broadcast take all 16 registers of AVX2: the compiler must not begin
            // the next row or column before this one is done.
            for acc in acc.iter_mut() {
                *acc = isa.pin(*acc);
            }
        }
    }
}
