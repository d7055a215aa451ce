//! The hot loop of SpMM and of sparse convolution: entries of R rows in lock-step.

use super::isa::{Isa, two_columns};

/// A run of one row's entries.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    /// Where each entry's vectors of X stand, see [`Source`].
    pub columns: *const u32,
    pub values: *const f32,
    pub len: usize,
}

/// P runs of V vectors for every column.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub x: *const f32,
    /// A column's first run stands at `column << shift`.
    pub shift: u32,
    /// From run to run.
    pub pitch: usize,
}

/// `acc[r] += Σ value · X[column]` over the entries of R rows; the last row is the shortest.
///
/// # Safety
/// Columns and values of all entries can be read, and X has P runs of V vectors for each column.
#[inline(always)]
pub(super) unsafe fn add_entries<I: Isa, const R: usize, const P: usize, const V: usize>(
    isa: I,
    rows: [Entries; R],
    x: Source,
    acc: &mut [[[I::V; V]; P]; R],
) {
    let common = rows[R - 1].len;
    let fours = common / 4 * 4;
    // SAFETY: the caller's promise.
    unsafe {
        for k in (0..fours).step_by(4) {
            // Written out: as a loop, the compiler leaves it rolled where R is large, and the accumulators in memory.
            macro_rules! rows {
                ($($r:literal)*) => { $(if $r < R {
                    let (columns, values) = (rows[$r].columns.add(k), isa.load_four(rows[$r].values.add(k)));
                    let ([a, b], [c, d]) = (two_columns(columns), two_columns(columns.add(2)));
                    x.add_row(isa, a, isa.splat_of_four::<0>(values), &mut acc[$r]);
                    x.add_row(isa, b, isa.splat_of_four::<1>(values), &mut acc[$r]);
                    x.add_row(isa, c, isa.splat_of_four::<2>(values), &mut acc[$r]);
                    x.add_row(isa, d, isa.splat_of_four::<3>(values), &mut acc[$r]);
                })* };
            }
            const { assert!(R <= 8) };
            rows!(0 1 2 3 4 5 6 7);
        }
        for k in fours..common {
            for (acc, row) in acc.iter_mut().zip(rows) {
                x.add_row(isa, *row.columns.add(k), isa.splat(*row.values.add(k)), acc);
            }
        }
        for r in 0..R - 1 {
            for k in common..rows[r].len {
                x.add_row(isa, *rows[r].columns.add(k), isa.splat(*rows[r].values.add(k)), &mut acc[r]);
            }
        }
    }
}

impl Source {
    /// `acc += w · X[column]` over P runs of V vectors.
    ///
    /// # Safety
    /// X has P runs of V vectors for that column.
    #[inline(always)]
    unsafe fn add_row<I: Isa, const P: usize, const V: usize>(
        self,
        isa: I,
        column: u32,
        w: I::V,
        acc: &mut [[I::V; V]; P],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = self.x.add((column as usize) << self.shift);
            for (p, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = isa.mul_add(w, isa.load(x.add(p * self.pitch + v * I::LANES)), *acc);
                }
            }
        }
    }
}
