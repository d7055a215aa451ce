//! The products of attention: R numbers of one operand, each spread over a vector, times two vectors of the other.

use crate::cpu::isa::{Isa, Kernel, array_of};

/// Two vectors of each of R rows.
pub(super) type Tile<V, const R: usize> = [[V; 2]; R];

/// Row r of the result: `Σ_f a[f · pitch + r] · b[f · pitch..][two vectors]` over `depth` rows.
///
/// # Safety
/// `a` is valid for reading R floats, and `b` two vectors, at each of `depth` rows of `pitch` floats.
#[inline(always)]
pub(super) unsafe fn dots<I: Isa, const R: usize>(
    isa: I,
    mut a: *const f32,
    mut b: *const f32,
    pitch: usize,
    depth: usize,
) -> Tile<I::V, R> {
    let mut tile: Tile<I::V, R> = array_of(|_| [isa.splat(0.0); 2]);
    for _ in 0..depth {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = [isa.load(b), isa.load(b.add(I::LANES))];
            for (r, row) in tile.iter_mut().enumerate() {
                let number = isa.splat(*a.add(r));
                *row = [isa.mul_add(number, first, row[0]), isa.mul_add(number, second, row[1])];
            }
        }
        a = a.wrapping_add(pitch);
        b = b.wrapping_add(pitch);
    }
    tile
}

/// `to[d][two vectors] = to · factor + Σ_j a[d][j] · p[j][two vectors]` for each of `rows` rows d, a multiple of R. Called as a
/// function of its own: the passes have four such sums, and one is long enough.
pub(super) struct Accumulate<'a, const R: usize> {
    /// Rows of `pitch` floats.
    pub a: *const f32,
    pub to: *mut f32,
    pub pitch: usize,
    pub rows: usize,
    /// Rows of `p_pitch` floats.
    pub p: *const f32,
    pub p_pitch: usize,
    pub count: usize,
    pub before: Before<'a>,
}

/// What becomes of the sums so far.
#[derive(Clone, Copy)]
pub(super) enum Before<'a> {
    /// There are none, and `to` holds anything.
    Nothing,
    /// They stay.
    Kept,
    /// They are multiplied by these.
    Times(&'a [f32; WIDEST]),
}

/// Floats of two of the longest vectors.
pub(super) const WIDEST: usize = 32;

impl<const R: usize> Accumulate<'_, R> {
    /// # Safety
    /// `a` is valid for reading `count` floats, and `to` for reading and writing two vectors, in each of `rows` rows; `p` for
    /// reading two vectors in each of `count` rows.
    #[inline(always)]
    pub unsafe fn run<I: Isa>(self, isa: I) {
        isa.call(self);
    }
}

impl<const R: usize> Kernel for Accumulate<'_, R> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { a, to, pitch, rows, p, p_pitch, count, before } = self;
        for d in (0..rows).step_by(R) {
            let (a, to) = (a.wrapping_add(d * pitch), to.wrapping_add(d * pitch));
            let mut tile: Tile<I::V, R> = array_of(|_| [isa.splat(0.0); 2]);
            for (r, row) in tile.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    let at = to.wrapping_add(r * pitch + v * I::LANES);
                    // SAFETY: the promise made to `run`; factors are two vectors.
                    *sum = unsafe {
                        match before {
                            Before::Nothing => isa.splat(0.0),
                            Before::Kept => isa.load(at),
                            Before::Times(factors) => {
                                isa.mul(isa.load(at), isa.load(factors.as_ptr().add(v * I::LANES)))
                            }
                        }
                    };
                }
            }
            let mut p = p;
            for j in 0..count {
                // SAFETY: as above.
                unsafe {
                    let [first, second] = [isa.load(p), isa.load(p.add(I::LANES))];
                    for (r, row) in tile.iter_mut().enumerate() {
                        let number = isa.splat(*a.add(r * pitch + j));
                        *row = [isa.mul_add(number, first, row[0]), isa.mul_add(number, second, row[1])];
                    }
                }
                p = p.wrapping_add(p_pitch);
            }
            for (r, row) in tile.into_iter().enumerate() {
                let at = to.wrapping_add(r * pitch);
                // SAFETY: as above.
                unsafe {
                    isa.store(at, row[0]);
                    isa.store(at.add(I::LANES), row[1]);
                }
            }
        }
    }
}

/// Ones behind zeros: a vector out of the middle has a number of ones at its end.
const STEPS: [f32; 64] = {
    let mut steps = [0.0; 64];
    let mut i = 32;
    while i < 64 {
        steps[i] = 1.0;
        i += 1;
    }
    steps
};

/// 1 in lanes from `from` on, lane 0 being the first of vector `v` of two; else 0.
#[inline(always)]
pub(super) fn later<I: Isa>(isa: I, from: usize, v: usize) -> I::V {
    const { assert!(2 * I::LANES <= 32) };
    // SAFETY: at most 32 lanes from 32 − 0 on, at least from 32 − 32.
    unsafe { isa.load(STEPS.as_ptr().add(32 - from.min(32) + v * I::LANES)) }
}
