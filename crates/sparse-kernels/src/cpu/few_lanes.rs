//! SpMM with few lanes, row-major: `Y[m, n] = W[m, k] · X[k, n]` for n of 1 to 8, and its transpose through the transposed
//! index.
//!
//! ```text
//! X as [k][P], Y's rows of P, P = 1, 2, 4 or 8 the next power of two      (the caller packs other shapes)
//! for each row block                                                     (in parallel)
//!   for each row (of the transposed plan: for each segment, chunk after chunk)
//!     for its entries, 8 / P at a time:
//!       acc += [w0 w0 .. w1 w1 ..] · [X[c0][0..P] X[c1][0..P] ..]         eight floats in one vector
//!     Y[row] (+)= acc folded over its 8 / P entries
//! ```
//!
//! A strip of 32 would compute 32 lanes for 1. Here a vector spans entries as well as lanes, so that nothing is computed in
//! vain for n a power of two. What is left is one load of X per entry: two a cycle, beside the entry's 8 bytes. The
//! instructions that gather are the scalar loads themselves, with inserts: hardware gathers are slower where we measured.
//! Rows are walked whole, in order: their entries are then one stream for the prefetchers, which is worth more than the
//! column chunks that keep a wider X in L1 (`docs/kernels.md`, "Few lanes"). The last entries of a row go through a vector
//! that ends with the row; the part that was summed before is cleared.

use super::ahead::LINE;
use super::isa::{EightLanes, Isa, Kernel, dispatch};
use super::plan::Walk;
use super::{Cpu, SharedMut};
use crate::CsrPattern;

/// Most lanes that these kernels take.
pub(super) const FEW_LANES: usize = 8;

/// Lanes that a row of X or Y takes: the next power of two.
pub(super) fn padded(lanes: usize) -> usize {
    lanes.next_power_of_two()
}

/// Where a product finds its entries.
#[derive(Clone, Copy)]
pub(super) enum Entries<'a> {
    /// In a pattern's rows, whole.
    Rows(&'a CsrPattern),
    /// In the segments of a transposed plan's walk; the columns of its entries.
    Segments(&'a [u32]),
}

/// One product over `P` lanes.
pub(super) struct FewLanes<'a> {
    pub entries: Entries<'a>,
    pub walk: &'a Walk,
    pub values: &'a [f32],
    /// `[ncols][padded]`.
    pub x: &'a [f32],
    /// Rows of `padded` at distances of `y_leading`.
    pub y: &'a mut [f32],
    pub y_leading: usize,
    pub nrows: usize,
    pub ncols: usize,
    /// 1, 2, 4 or 8.
    pub padded: usize,
}

impl FewLanes<'_> {
    /// Runs the product; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        let nnz = match self.entries {
            Entries::Rows(pattern) => pattern.nnz(),
            Entries::Segments(columns) => columns.len(),
        };
        // The unchecked accesses rest on these; they cost nothing beside a product.
        assert_eq!(self.values.len(), nnz);
        assert!(self.x.len() >= self.ncols * self.padded && self.y_leading >= self.padded);
        assert!(self.nrows == 0 || self.y.len() >= (self.nrows - 1) * self.y_leading + self.padded);
        let blocks = self.walk.blocks();
        let operations = 2 * (nnz * self.padded) as u64;
        let y = SharedMut::new(self.y);
        let (entries, walk, values, x) = (self.entries, self.walk, self.values, self.x);
        let (y_leading, padded) = (self.y_leading, self.padded);
        cpu.for_each_task(blocks, operations, |block| {
            dispatch(cpu.isa, Part { entries, walk, values, x, y, y_leading, padded, block });
        });
    }
}

/// The work of one task: one row block.
struct Part<'a> {
    entries: Entries<'a>,
    walk: &'a Walk,
    values: &'a [f32],
    x: &'a [f32],
    y: SharedMut,
    y_leading: usize,
    padded: usize,
    block: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    // U accumulators: enough to hide the multiply-add's latency of 4 cycles behind the 8 / P entries of each.
    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        match self.padded {
            1 => isa.call(Padded::<1, 2>(self)),
            2 => isa.call(Padded::<2, 2>(self)),
            4 => isa.call(Padded::<4, 4>(self)),
            8 => isa.call(Padded::<8, 4>(self)),
            _ => unreachable!("the lanes are padded to 1, 2, 4 or 8"),
        }
    }
}

/// The rows of a block over P lanes.
struct Padded<'a, const P: usize, const U: usize>(Part<'a>);

impl<const P: usize, const U: usize> Kernel for Padded<'_, P, U> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let part = self.0;
        match part.entries {
            Entries::Rows(pattern) => {
                for row in part.walk.rows(part.block) {
                    let entries = pattern.row_range(row);
                    let columns = pattern.col_indices().as_ptr();
                    part.row::<I, P, U>(isa, columns, row, entries.start, entries.len(), false);
                }
            }
            Entries::Segments(columns) => {
                for chunk in 0..part.walk.chunks() {
                    let segments = part.walk.segments(part.block, chunk);
                    for s in segments {
                        // Segments are contiguous in memory, but their rows of Y are not: the prefetchers lose the thread.
                        for at in (s.start..s.start + s.len).step_by(LINE).map(|at| at as usize + AHEAD) {
                            isa.prefetch(columns.as_ptr().wrapping_add(at).cast());
                            isa.prefetch(part.values.as_ptr().wrapping_add(at));
                        }
                        let (row, start, len) = (s.row as usize, s.start as usize, s.len as usize);
                        part.row::<I, P, U>(isa, columns.as_ptr(), row, start, len, chunk > 0);
                    }
                }
            }
        }
    }
}

impl Part<'_> {
    /// Entries `start..start + len`, all of `row`: their product overwrites the row of Y, or is added to it.
    #[inline(always)]
    fn row<I: Isa, const P: usize, const U: usize>(
        &self,
        isa: I,
        columns: *const u32,
        row: usize,
        start: usize,
        len: usize,
        add: bool,
    ) {
        let isa = isa.few();
        // Entries of a vector.
        let each = 8 / P;
        // SAFETY: segments and row ranges hold entries of the pattern (of its transpose), whose columns (rows) are below
        // `ncols`; `FewLanes::run` asserted that there are as many values, that X has P floats for each of `ncols`, and
        // that Y has P for each row below `nrows`. Blocks have rows of their own, so no other task writes this row.
        unsafe {
            let (columns, values) = (columns.add(start), self.values.as_ptr().add(start));
            let x = self.x.as_ptr();
            let y = self.y.get().add(row * self.y_leading);
            let mut acc = [isa.splat(0.0); U];
            let mut k = 0;
            while k + U * each <= len {
                for (u, acc) in acc.iter_mut().enumerate() {
                    let at = k + u * each;
                    let w = isa.spread::<P>(values.add(at));
                    *acc = isa.mul_add(w, isa.gather::<P>(x, columns.add(at)), *acc);
                }
                k += U * each;
            }
            while k + each <= len {
                let w = isa.spread::<P>(values.add(k));
                acc[0] = isa.mul_add(w, isa.gather::<P>(x, columns.add(k)), acc[0]);
                k += each;
            }
            if k < len && len >= each {
                // Both factors are cleared: zero times infinity is no zero.
                let (at, keep) = (len - each, (len - k) * P);
                let w = isa.keep_last(isa.spread::<P>(values.add(at)), keep);
                let x = isa.keep_last(isa.gather::<P>(x, columns.add(at)), keep);
                acc[0] = isa.mul_add(w, x, acc[0]);
                k = len;
            }
            let sum = acc[1..].iter().fold(acc[0], |sum, &acc| isa.add(sum, acc));
            let mut sum = isa.fold::<P>(sum);
            while k < len {
                // Rows shorter than a vector.
                let w = isa.spread::<8>(values.add(k));
                sum = isa.mul_add(w, isa.load_first::<P>(x.add(*columns.add(k) as usize * P)), sum);
                k += 1;
            }
            if add {
                sum = isa.add(isa.load_first::<P>(y), sum);
            }
            isa.store_first::<P>(y, sum);
        }
    }
}

/// How far ahead entries are fetched, in entries.
const AHEAD: usize = 1 << 10;
