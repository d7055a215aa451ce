//! Dense products with few lanes: what sparse ones with few lanes are measured against. Crate `gemm` packs its operands
//! and has tiles of many lanes; with one lane it runs at a fraction of memory's bandwidth, which is all that counts here:
//! every weight is used once a lane.
//!
//! ```text
//! W · X:   X as [k / 16][n][16];        for 1 to 4 rows i:              y[lane, i] = Σ_j w[i, j] · x[j, lane]
//! Wᵀ · X:  X, Y lane by lane;           for 8 rows i, for each lane:    y[lane, j] += Σ_i w[i, j] · x[lane, i]
//! ```
//!
//! The caller packs X and unpacks Y. Blocks of 16 let W and X be read as one sequential stream each. (X lane by lane, in
//! column chunks or with 2 or 4 rows of W at once, took up to three times as long at 4096 columns: several streams at
//! distances of a power of two.)

use super::isa::{Isa, Kernel, array_of, dispatch};
use super::{Cpu, SharedMut};
use crate::Op;

/// A dense product with W `[m, k]`, row-major.
pub(super) struct Gemv<'a> {
    pub op: Op,
    pub m: usize,
    pub k: usize,
    pub lanes: usize,
    pub w: &'a [f32],
    /// `[k / 16][lanes][16]`, the last block padded; for the transpose lane by lane, each of m.
    pub x: &'a [f32],
    /// Lane by lane, each of m (k for the transpose).
    pub y: &'a mut [f32],
}

/// Columns of a block of X.
pub(super) const BLOCK: usize = 16;
/// Rows of a task of W · X, columns of a task of Wᵀ · X.
const TASK: usize = 512;

impl Gemv<'_> {
    /// Runs the product on a fixed grid of tasks.
    pub fn run(self, cpu: &Cpu) {
        let Gemv { op, m, k, lanes, w, x, y } = self;
        let (out, inner) = if op == Op::NoTranspose { (m, k.next_multiple_of(BLOCK)) } else { (k, m) };
        assert_eq!((w.len(), x.len(), y.len()), (m * k, inner * lanes, out * lanes));
        let y = SharedMut::new(y);
        let operations = 2 * (m * k * lanes) as u64;
        cpu.for_each_task(out.div_ceil(TASK), operations, |task| {
            let outputs = task * TASK..((task + 1) * TASK).min(out);
            dispatch(cpu.isa, Part { op, m, k, lanes, w, x, y, outputs });
        });
    }
}

/// The work of one task: a range of rows of the output.
struct Part<'a> {
    op: Op,
    m: usize,
    k: usize,
    lanes: usize,
    w: &'a [f32],
    x: &'a [f32],
    y: SharedMut,
    outputs: std::ops::Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        if self.op == Op::Transpose {
            return self.transposed(isa);
        }
        // R · N · U accumulators hide the latency of the multiply-add and leave registers for the operands. X with 3 lanes or
        // more is read from L2, once for R rows of W.
        match self.lanes {
            1 => isa.call(Rows::<1, 1, 8>(self)),
            2 => isa.call(Rows::<1, 2, 4>(self)),
            lanes if const { !I::IS_VECTOR } => match lanes {
                3 => isa.call(Rows::<1, 3, 1>(self)),
                4 => isa.call(Rows::<1, 4, 1>(self)),
                5 => isa.call(Rows::<1, 5, 1>(self)),
                6 => isa.call(Rows::<1, 6, 1>(self)),
                7 => isa.call(Rows::<1, 7, 1>(self)),
                _ => isa.call(Rows::<1, 8, 1>(self)),
            },
            3 => isa.call(Rows::<4, 3, 1>(self)),
            lanes if const { I::REGISTERS >= 32 } => match lanes {
                4 => isa.call(Rows::<4, 4, 1>(self)),
                5 => isa.call(Rows::<4, 5, 1>(self)),
                6 => isa.call(Rows::<4, 6, 1>(self)),
                7 => isa.call(Rows::<3, 7, 1>(self)),
                _ => isa.call(Rows::<3, 8, 1>(self)),
            },
            4 => isa.call(Rows::<3, 4, 1>(self)),
            5 => isa.call(Rows::<2, 5, 1>(self)),
            6 => isa.call(Rows::<2, 6, 1>(self)),
            7 => isa.call(Rows::<1, 7, 1>(self)),
            _ => isa.call(Rows::<1, 8, 1>(self)),
        }
    }
}

/// All rows against N lanes, R rows and U vectors of each lane at a time.
struct Rows<'a, const R: usize, const N: usize, const U: usize>(Part<'a>);

impl<const R: usize, const N: usize, const U: usize> Kernel for Rows<'_, R, N, U> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let outputs = self.0.outputs.clone();
        let mut i = outputs.start;
        while i + R <= outputs.end {
            self.0.dots::<I, R, N, U>(isa, i);
            i += R;
        }
        for i in i..outputs.end {
            self.0.dots::<I, 1, N, U>(isa, i);
        }
    }
}

impl Part<'_> {
    /// R rows of W from `i` on against N lanes of X, U vectors of each at a time.
    #[inline(always)]
    fn dots<I: Isa, const R: usize, const N: usize, const U: usize>(&self, isa: I, i: usize) {
        let (m, k) = (self.m, self.k);
        let at = |j: usize, n: usize| j / BLOCK * (BLOCK * N) + n * BLOCK + j % BLOCK;
        // SAFETY: `Gemv::run` checked the lengths: W holds rows `i..i + R` of k floats, X blocks of N lanes for at least k
        // columns, Y lane n < N of m. Columns stay below k, and a vector at a multiple of its width within a block. Tasks
        // have output rows of their own.
        unsafe {
            let (w, x) = (self.w.as_ptr().add(i * k), self.x.as_ptr());
            let mut acc = [[[isa.splat(0.0); U]; N]; R];
            let mut j = 0;
            while j + U * I::LANES <= k {
                for u in 0..U {
                    let j = j + u * I::LANES;
                    let w: [I::V; R] = array_of(|r| isa.load(w.add(r * k + j)));
                    for n in 0..N {
                        let x = isa.load(x.add(at(j, n)));
                        for (acc, &w) in acc.iter_mut().zip(&w) {
                            acc[n][u] = isa.mul_add(w, x, acc[n][u]);
                        }
                    }
                }
                j += U * I::LANES;
            }
            for (r, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    let all = acc[1..].iter().fold(acc[0], |sum, &acc| isa.add(sum, acc));
                    let rest = (j..k).map(|j| *w.add(r * k + j) * *x.add(at(j, n))).sum::<f32>();
                    *self.y.get().add(n * m + i + r) = isa.sum(all) + rest;
                }
            }
        }
    }

    #[inline(always)]
    fn transposed<I: Isa>(&self, isa: I) {
        // SAFETY: lanes are below `lanes` and the outputs below k, the length of each of Y's lanes (checked by `Gemv::run`);
        // tasks have columns of their own.
        let y = |n: usize| unsafe {
            let lane = self.y.get().add(n * self.k);
            std::slice::from_raw_parts_mut(lane.add(self.outputs.start), self.outputs.len())
        };
        for n in 0..self.lanes {
            y(n).fill(0.0);
        }
        let mut i = 0;
        while i < self.m {
            for n in 0..self.lanes {
                if i + 8 <= self.m {
                    self.add_rows::<I, 8>(isa, i, n, y(n))
                } else {
                    self.add_rows::<I, 1>(isa, i, n, y(n))
                }
            }
            i += if i + 8 <= self.m { 8 } else { 1 };
        }
    }

    /// `y += Σ_r x[n, i + r] · w[i + r, outputs]` over R rows.
    #[inline(always)]
    fn add_rows<I: Isa, const R: usize>(&self, isa: I, i: usize, n: usize, y: &mut [f32]) {
        let x: [f32; R] = std::array::from_fn(|r| self.x[n * self.m + i + r]);
        let w: [&[f32]; R] = std::array::from_fn(|r| &self.w[(i + r) * self.k..][self.outputs.clone()]);
        let factors: [I::V; R] = array_of(|r| isa.splat(x[r]));
        let whole = y.len() / I::LANES * I::LANES;
        for j in (0..whole).step_by(I::LANES) {
            // SAFETY: `whole` is at most the length of y and, by the slicing above, of each row of w.
            unsafe {
                let mut acc = isa.load(y.as_ptr().add(j));
                for (&factor, w) in factors.iter().zip(&w) {
                    acc = isa.mul_add(factor, isa.load(w.as_ptr().add(j)), acc);
                }
                isa.store(y.as_mut_ptr().add(j), acc);
            }
        }
        for (j, y) in y.iter_mut().enumerate().skip(whole) {
            *y += x.iter().zip(&w).map(|(x, w)| x * w[j]).sum::<f32>();
        }
    }
}
