//! Block-sparse SDDMM over strips: `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the entries of the stored blocks.
//!
//! ```text
//! for each band of block rows                         (parallel)
//!   for each block row, each B of its blocks
//!     for each R rows and C columns of the blocks
//!       acc[R][B · C] = 0
//!       for each strip, each of its vectors           the hot loop: R + B · C loads, R · B · C multiply-adds
//!         acc[r][c] += dY[r] · X[c]
//!       dW[R][B · C] = sums of acc's lanes            transposing trees of adds, once for all strips
//! ```
//!
//! Blocks too small for a tile of eight accumulators are taken B at a time.

use crate::cpu::isa::{Isa, IsaName, Kernel, array_of, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{BsrPattern, StripLayout};

/// One sampled product.
pub(super) struct Sddmm<'a> {
    pub pattern: &'a BsrPattern,
    /// Bounds of the bands of block rows.
    pub bands: &'a [u32],
    pub dy_layout: StripLayout,
    pub dy: &'a [f32],
    pub x_layout: StripLayout,
    pub x: &'a [f32],
    pub values: &'a mut [f32],
    /// Add to `values` instead of overwriting them.
    pub accumulate: bool,
}

impl Sddmm<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// - `x` and `dy` are as long as their layouts say, which agree in lanes and strip.
    /// - They have as many features as the pattern has columns and rows; `values` has one value for each stored entry.
    /// - `bands` are bounds of the pattern's block rows.
    pub unsafe fn run(self, cpu: &Cpu) {
        let [h, w] = self.pattern.block_size();
        // R rows, B blocks, C columns of each: R · B · C = N accumulators, R + B · C vectors loaded. N1 = R · C are those of
        // a block left over.
        match (h, w) {
            _ if cpu.isa() == IsaName::Scalar => self.run_tiled::<1, 1, 1, 1, 1>(cpu),
            (4.., 4..) if cpu.isa().registers() >= 32 => self.run_tiled::<4, 1, 4, 16, 16>(cpu),
            (4.., 1) if cpu.isa().registers() >= 32 => self.run_tiled::<4, 4, 1, 16, 4>(cpu),
            (4.., 2) if cpu.isa().registers() >= 32 => self.run_tiled::<4, 2, 2, 16, 8>(cpu),
            (8.., 4..) => self.run_tiled::<3, 1, 4, 12, 12>(cpu),
            (2.., 4..) => self.run_tiled::<2, 1, 4, 8, 8>(cpu),
            (_, 8..) => self.run_tiled::<1, 1, 8, 8, 8>(cpu),
            (_, 4) => self.run_tiled::<1, 2, 4, 8, 4>(cpu),
            (4.., 2) => self.run_tiled::<4, 1, 2, 8, 8>(cpu),
            (2, 2) => self.run_tiled::<2, 2, 2, 8, 4>(cpu),
            (_, 2) => self.run_tiled::<1, 4, 2, 8, 2>(cpu),
            (8.., _) => self.run_tiled::<8, 1, 1, 8, 8>(cpu),
            (4, _) => self.run_tiled::<4, 2, 1, 8, 4>(cpu),
            (2, _) => self.run_tiled::<2, 4, 1, 8, 2>(cpu),
            _ => self.run_tiled::<1, 8, 1, 8, 1>(cpu),
        }
    }

    fn run_tiled<const R: usize, const B: usize, const C: usize, const N: usize, const N1: usize>(self, cpu: &Cpu) {
        let operations = 2 * self.pattern.nnz() as u64 * self.x_layout.lanes() as u64;
        let values = SharedMut::new(self.values);
        cpu.for_each_task(self.bands.len() - 1, operations, |band| {
            let part = Part {
                pattern: self.pattern,
                block_size: self.pattern.block_size(),
                dy_layout: self.dy_layout,
                dy: self.dy,
                x_layout: self.x_layout,
                x: self.x,
                values,
                accumulate: self.accumulate,
                block_rows: self.bands[band] as usize..self.bands[band + 1] as usize,
            };
            dispatch(cpu.isa(), Tiled::<R, B, C, N, N1>(part));
        });
    }
}

/// The work of one task.
struct Part<'a> {
    pattern: &'a BsrPattern,
    block_size: [usize; 2],
    dy_layout: StripLayout,
    dy: &'a [f32],
    x_layout: StripLayout,
    x: &'a [f32],
    values: SharedMut,
    accumulate: bool,
    block_rows: std::ops::Range<usize>,
}

/// A part, in tiles of that size.
struct Tiled<'a, const R: usize, const B: usize, const C: usize, const N: usize, const N1: usize>(Part<'a>);

impl<const R: usize, const B: usize, const C: usize, const N: usize, const N1: usize> Kernel
    for Tiled<'_, R, B, C, N, N1>
{
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        // Constant blocks, so that tiles that are not used are not even compiled.
        if const { if I::IS_VECTOR { N > 1 && (N <= 8 || (N == 16) == (I::REGISTERS >= 32)) } else { N == 1 } } {
            if const { N == 12 } { self.0.tall_blocks(isa) } else { self.0.rows::<I, R, B, C, N, N1>(isa) }
        }
    }
}

impl Part<'_> {
    /// All blocks of the part, `N = R · B · C` entries at a time; blocks left over `N1 = R · C` at a time.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const B: usize, const C: usize, const N: usize, const N1: usize>(&self, isa: I) {
        for block_row in self.block_rows.clone() {
            let range = self.pattern.blocks().row_range(block_row);
            let mut block = range.start;
            while block + B <= range.end {
                self.blocks::<I, R, B, C, N>(isa, block_row, block);
                block += B;
            }
            while const { B > 1 } && block < range.end {
                self.blocks::<I, R, 1, C, N1>(isa, block_row, block);
                block += 1;
            }
            self.clear_padding(block_row);
        }
    }

    /// All blocks of the part, in tiles of 3 × 4, and of 2 × 4 for rows left over: 12 accumulators hide the latency of the
    /// multiply-add, where 8 just do.
    #[inline(always)]
    fn tall_blocks<I: Isa>(&self, isa: I) {
        let [h, w] = self.block_size;
        for block_row in self.block_rows.clone() {
            for block in self.pattern.blocks().row_range(block_row) {
                let mut row = 0;
                while h - row == 3 || h - row > 4 {
                    for column in (0..w).step_by(4) {
                        self.tile::<I, 3, 1, 4, 12>(isa, block_row, block, [row, column]);
                    }
                    row += 3;
                }
                while row < h {
                    for column in (0..w).step_by(4) {
                        self.tile::<I, 2, 1, 4, 8>(isa, block_row, block, [row, column]);
                    }
                    row += 2;
                }
            }
            self.clear_padding(block_row);
        }
    }

    /// B blocks of a block row.
    #[inline(always)]
    fn blocks<I: Isa, const R: usize, const B: usize, const C: usize, const N: usize>(
        &self,
        isa: I,
        block_row: usize,
        block: usize,
    ) {
        let [h, w] = self.block_size;
        for row in (0..h).step_by(R) {
            for column in (0..w).step_by(C) {
                self.tile::<I, R, B, C, N>(isa, block_row, block, [row, column]);
            }
        }
    }

    /// Rows `row..row + R` and columns `column..column + C` of B blocks from `block` on.
    #[inline(always)]
    fn tile<I: Isa, const R: usize, const B: usize, const C: usize, const N: usize>(
        &self,
        isa: I,
        block_row: usize,
        block: usize,
        [row, column]: [usize; 2],
    ) {
        const { assert!(N == R * B * C, "a tile has N = R · B · C accumulators") };
        let ([h, w], strip) = (self.block_size, self.x_layout.strip());
        let columns = self.pattern.blocks().col_indices();
        let (last_row, last_column) = (self.dy_layout.features() - 1, self.x_layout.features() - 1);
        // Padding repeats the last row or column; what is computed there is cleared later.
        let dy: [*const f32; R] = std::array::from_fn(|r| {
            let feature = (block_row * h + row + r).min(last_row);
            self.dy.as_ptr().wrapping_add(feature * strip)
        });
        let x: [[*const f32; C]; B] = std::array::from_fn(|b| {
            let first = columns[block + b] as usize * w + column;
            std::array::from_fn(|c| self.x.as_ptr().wrapping_add((first + c).min(last_column) * strip))
        });
        let (dy_pitch, x_pitch) = (self.dy_layout.strip_pitch(), self.x_layout.strip_pitch());
        let mut acc = [isa.splat(0.0); N];
        for s in 0..self.x_layout.strips() {
            // A tail strip has only the vectors that hold lanes which count.
            for v in 0..self.x_layout.lanes_of(s).div_ceil(I::LANES) {
                let (dy_offset, x_offset) = (s * dy_pitch + v * I::LANES, s * x_pitch + v * I::LANES);
                // SAFETY: `run`'s caller promises the lengths of dY and X; the rows are below their features, the strip
                // exists and holds this vector of each row.
                unsafe {
                    let dy: [I::V; R] = array_of(|r| isa.load(dy[r].add(dy_offset)));
                    for b in 0..B {
                        for c in 0..C {
                            let x = isa.load(x[b][c].add(x_offset));
                            for (r, &dy) in dy.iter().enumerate() {
                                let acc = &mut acc[(r * B + b) * C + c];
                                // Pinned as in SpMM: 3 × 4 accumulators take all registers of AVX2.
                                *acc = isa.pin(isa.mul_add(dy, x, *acc));
                            }
                        }
                    }
                }
            }
        }
        let sums = sums(isa, acc);
        for r in 0..R {
            for b in 0..B {
                // SAFETY: the pattern has this block, whose h · w values hold the row's C from here on; `run`'s caller promises
                // the values' length, and a block belongs to one task. An array has no stricter alignment than its elements.
                let to =
                    unsafe { &mut *self.values.get().add(((block + b) * h + row + r) * w + column).cast::<[f32; C]>() };
                for (c, to) in to.iter_mut().enumerate() {
                    let sum = sums[(r * B + b) * C + c];
                    *to = if self.accumulate { *to + sum } else { sum };
                }
            }
        }
    }

    /// Zeroes the entries of a block row that lie beyond the matrix.
    #[inline(always)]
    fn clear_padding(&self, block_row: usize) {
        let [h, w] = self.block_size;
        let rows = h.min(self.dy_layout.features() - block_row * h);
        let range = self.pattern.blocks().row_range(block_row);
        // Columns are sorted, so only a row's last block can reach beyond the last column.
        let first = if rows < h { range.start } else { range.end.saturating_sub(1).max(range.start) };
        for block in first..range.end {
            let left = self.pattern.blocks().col_indices()[block] as usize * w;
            let columns = w.min(self.x_layout.features() - left);
            for i in 0..h {
                for j in if i < rows { columns } else { 0 }..w {
                    // SAFETY: the pattern has this block, whose values are h · w; the block belongs to one task.
                    unsafe { *self.values.get().add((block * h + i) * w + j) = 0.0 };
                }
            }
        }
    }
}

/// The sums of N vectors' lanes, in a fixed order.
#[inline(always)]
pub(in crate::cpu) fn sums<I: Isa, const N: usize>(isa: I, vectors: [I::V; N]) -> [f32; N] {
    let mut sums = [0.0; N];
    let mut at = 0;
    while N - at >= 8 {
        sums[at..at + 8].copy_from_slice(&isa.sum8(std::array::from_fn(|i| vectors[at + i])));
        at += 8;
    }
    if N - at >= 4 {
        sums[at..at + 4].copy_from_slice(&isa.sum4(std::array::from_fn(|i| vectors[at + i])));
        at += 4;
    }
    for i in at..N {
        sums[i] = isa.sum(vectors[i]);
    }
    sums
}
