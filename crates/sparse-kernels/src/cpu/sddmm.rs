//! SDDMM over strips: `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the stored positions `(i, j)`.
//!
//! ```text
//! for each row block                                  (parallel)
//!   for each column chunk, each group of P strips     X's part settles in the cache
//!     for each segment (a row's entries in the chunk)
//!       dy[P · V] = the row of dY                     stays in registers
//!       for each 8 entries
//!         acc[8] = Σ dy[p, v] · X[p][columns[e]][v]   one load per multiply-add, 8 chains
//!         dW[8] += sums of acc's lanes                one transposing tree of adds
//! ```
//!
//! Eight dot products at once share the horizontal sums: a tree of shuffles and adds turns eight accumulators into
//! one vector of eight sums, about three operations per entry.

use super::isa::{Isa, Kernel, dispatch};
use super::plan::{Segment, Walk};
use super::{Cpu, SharedMut};
use crate::{CsrPattern, StripLayout};

/// One sampled product.
pub(super) struct Sddmm<'a> {
    pub pattern: &'a CsrPattern,
    pub walk: &'a Walk,
    pub dy_layout: StripLayout,
    pub dy: &'a [f32],
    pub x_layout: StripLayout,
    pub x: &'a [f32],
    pub values: &'a mut [f32],
    /// Add to `values` instead of overwriting them.
    pub accumulate: bool,
}

impl Sddmm<'_> {
    /// Runs the product; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        debug_assert_eq!(self.values.len(), self.pattern.nnz());
        if self.x_layout.lanes() == 0 && !self.accumulate {
            self.values.fill(0.0);
        }
        let operations = 2 * self.pattern.nnz() as u64 * self.x_layout.lanes() as u64;
        let values = SharedMut::new(self.values);
        cpu.for_each_task(self.walk.blocks(), operations, |block| {
            let part = Part {
                pattern: self.pattern,
                walk: self.walk,
                dy_layout: self.dy_layout,
                dy: self.dy,
                x_layout: self.x_layout,
                x: self.x,
                values,
                accumulate: self.accumulate,
                block,
            };
            dispatch(cpu.isa, part);
        });
    }
}

/// The work of one task: one row block.
struct Part<'a> {
    pattern: &'a CsrPattern,
    walk: &'a Walk,
    dy_layout: StripLayout,
    dy: &'a [f32],
    x_layout: StripLayout,
    x: &'a [f32],
    values: SharedMut,
    accumulate: bool,
    block: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for chunk in 0..self.walk.chunks() {
            let segments = self.walk.segments(self.block, chunk);
            let mut strip = 0;
            while strip < self.x_layout.strips() {
                strip += self.widest(isa, segments, strip);
            }
        }
    }
}

impl Part<'_> {
    /// Does one or more strips from `strip` on and returns how many: as many as leave the eight accumulators and the
    /// row of dY in registers.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, segments: &[Segment], strip: usize) -> usize {
        let vectors_of = |s: usize| self.x_layout.lanes_of(s).div_ceil(I::LANES);
        let vectors = vectors_of(strip);
        // Tails are last and may have fewer vectors; a group of strips must be uniform.
        let alike = (strip..self.x_layout.strips()).take_while(|&s| vectors_of(s) == vectors).count();
        if I::REGISTERS >= 32 {
            match (vectors, alike) {
                (1, 4..) => self.strips::<I, 4, 1>(isa, segments, strip),
                (1, _) => self.strips::<I, 1, 1>(isa, segments, strip),
                (2, 2..) => self.strips::<I, 2, 2>(isa, segments, strip),
                (2, _) => self.strips::<I, 1, 2>(isa, segments, strip),
                (3, _) => self.strips::<I, 1, 3>(isa, segments, strip),
                (4, 2..) => self.strips::<I, 2, 4>(isa, segments, strip),
                (4, _) => self.strips::<I, 1, 4>(isa, segments, strip),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        } else {
            match (vectors, alike) {
                (1, _) => self.strips::<I, 1, 1>(isa, segments, strip),
                (2, 2..) => self.strips::<I, 2, 2>(isa, segments, strip),
                (2, _) => self.strips::<I, 1, 2>(isa, segments, strip),
                (3, _) => self.strips::<I, 1, 3>(isa, segments, strip),
                (4, _) => self.strips::<I, 1, 4>(isa, segments, strip),
                (5, _) => self.strips::<I, 1, 5>(isa, segments, strip),
                (6, _) => self.strips::<I, 1, 6>(isa, segments, strip),
                (7, _) => self.strips::<I, 1, 7>(isa, segments, strip),
                (8, _) => self.strips::<I, 1, 8>(isa, segments, strip),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        }
    }

    #[inline(always)]
    fn strips<I: Isa, const P: usize, const V: usize>(&self, isa: I, segments: &[Segment], strip: usize) -> usize {
        let add = self.accumulate || strip > 0;
        for segment in segments {
            self.segment::<I, P, V>(isa, segment, strip, add);
        }
        P
    }

    /// The entries of one segment over P strips of V vectors from `strip` on.
    #[inline(always)]
    fn segment<I: Isa, const P: usize, const V: usize>(&self, isa: I, segment: &Segment, strip: usize, add: bool) {
        let shift = self.x_layout.strip().trailing_zeros();
        let (x_pitch, dy_pitch) = (self.x_layout.strip_pitch(), self.dy_layout.strip_pitch());
        let x = self.x.as_ptr().wrapping_add(strip * x_pitch);
        // SAFETY: as in SpMM: segments hold entries of the pattern, columns are below x's number of features, rows below
        // dy's, strips `strip..strip + P` exist and hold V vectors a row; entries belong to one row, so to one block.
        unsafe {
            let columns = self.pattern.col_indices().as_ptr().add(segment.start as usize);
            let out = self.values.get().add(segment.start as usize);
            let row = self.dy.as_ptr().add(strip * dy_pitch + ((segment.row as usize) << shift));
            let mut dy = [[isa.splat(0.0); V]; P];
            for p in 0..P {
                for v in 0..V {
                    dy[p][v] = isa.load(row.add(p * dy_pitch + v * I::LANES));
                }
            }
            let len = segment.len as usize;
            let mut k = 0;
            while k + 8 <= len {
                let mut acc = [isa.splat(0.0); 8];
                for (g, acc) in acc.iter_mut().enumerate() {
                    *acc = dot(isa, &dy, x.add((*columns.add(k + g) as usize) << shift), x_pitch);
                }
                let sums = isa.sum8(acc);
                for (g, sum) in sums.into_iter().enumerate() {
                    let to = out.add(k + g);
                    *to = if add { *to + sum } else { sum };
                }
                k += 8;
            }
            // The rest: lanes beyond the end repeat the last entry and are not stored.
            if len - k > 2 {
                let mut acc = [isa.splat(0.0); 8];
                for (g, acc) in acc.iter_mut().enumerate() {
                    let column = *columns.add((k + g).min(len - 1));
                    *acc = dot(isa, &dy, x.add((column as usize) << shift), x_pitch);
                }
                let sums = isa.sum8(acc);
                for (g, sum) in sums.into_iter().take(len - k).enumerate() {
                    let to = out.add(k + g);
                    *to = if add { *to + sum } else { sum };
                }
            } else {
                while k < len {
                    let x = x.add((*columns.add(k) as usize) << shift);
                    let (to, sum) = (out.add(k), isa.sum(dot(isa, &dy, x, x_pitch)));
                    *to = if add { *to + sum } else { sum };
                    k += 1;
                }
            }
        }
    }
}

/// The lane-wise products of one row of dY and one of X, summed over P strips of V vectors.
///
/// # Safety
/// `x`, and the same in the P − 1 strips behind it at distances of `pitch`, hold V vectors.
#[inline(always)]
unsafe fn dot<I: Isa, const P: usize, const V: usize>(isa: I, dy: &[[I::V; V]; P], x: *const f32, pitch: usize) -> I::V {
    let mut acc = isa.splat(0.0);
    for (p, dy) in dy.iter().enumerate() {
        for (v, &dy) in dy.iter().enumerate() {
            // SAFETY: the caller's promise.
            acc = isa.mul_add(dy, unsafe { isa.load(x.add(p * pitch + v * I::LANES)) }, acc);
        }
    }
    acc
}
