//! GELU (Hendrycks and Gimpel 2016), `x · Φ(x)`, and its derivative, over vectors.
//!
//! ```text
//! tanh   Φ(x) ≈ (1 + tanh(u)) / 2 = 1 / (1 + exp(−2u)),  u = √(2/π) · (x + 0.044715 · x³)
//! exact  Φ(−z) = erfc(z / √2) / 2 = exp(−z² / 2) · t · P(t) / 2,  t = 1 / (1 + 0.3 · z / √2),  z = abs(x);  Φ(z) = 1 − Φ(−z)
//! ```
//!
//! As a quotient with an exponential, the tanh form needs no tanh and loses nothing where Φ is small. P is a polynomial of
//! degree 8, fitted to `erfc(z) · exp(z²) / t` with a relative error of 2e-8 for z up to 9.3. The density of the normal
//! distribution, which the exact derivative needs, takes the same exponential.

use super::super::exp::exp;
use crate::backend::Gelu;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK};

/// Beyond these, Φ is 0 or 1 to within 2e-36, and exponentials leave f32.
const LARGEST_TANH: f32 = 10.0;
const LARGEST_EXACT: f32 = 13.0;
/// 2 · √(2/π).
const SLOPE: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;
/// P, highest power first.
const POLYNOMIAL: [f32; 9] = [
    -0.129_375_4,
    0.484_787_64,
    -0.510_529_5,
    0.545_515_3,
    -0.092_952_91,
    0.214_109_58,
    0.148_578_26,
    0.170_676_3,
    0.169_190_7,
];
/// 1 / √(2π).
const DENSITY: f32 = 0.398_942_3;

/// Φ(x) and `x · Φ'(x)`, both with an absolute error below 4e-7.
#[inline(always)]
fn distribution<I: Isa>(isa: I, kind: Gelu, x: I::V) -> (I::V, I::V) {
    let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
    match kind {
        Gelu::Tanh => {
            let x = clamp(isa, LARGEST_TANH, x);
            let square = isa.mul(x, x);
            let twice_u = isa.mul(isa.mul(x, isa.splat(SLOPE)), isa.mul_add(square, isa.splat(CUBE), one));
            let e = exp(isa, isa.sub(zero, twice_u));
            let phi = isa.div(one, isa.add(one, e));
            // Φ' = Φ · (1 − Φ) · 2u', and 1 − Φ = e · Φ.
            let slope = isa.mul(isa.splat(SLOPE), isa.mul_add(square, isa.splat(3.0 * CUBE), one));
            (phi, isa.mul(isa.mul(x, slope), isa.mul(phi, isa.mul(e, phi))))
        }
        Gelu::Exact => {
            let x = clamp(isa, LARGEST_EXACT, x);
            let z = isa.max(x, isa.sub(zero, x));
            let e = exp(isa, isa.mul(isa.mul(x, x), isa.splat(-0.5)));
            let t = isa.div(one, isa.mul_add(z, isa.splat(0.3 * std::f32::consts::FRAC_1_SQRT_2), one));
            let mut p = isa.splat(0.5 * POLYNOMIAL[0]);
            for &coefficient in &POLYNOMIAL[1..] {
                p = isa.mul_add(p, t, isa.splat(0.5 * coefficient));
            }
            let below = isa.mul(isa.mul(t, p), e);
            let above = isa.where_positive(x, isa.sub(one, isa.add(below, below)));
            (isa.add(below, above), isa.mul(isa.mul(x, isa.splat(DENSITY)), e))
        }
    }
}

/// x within `−most..=most`; NaN stays.
#[inline(always)]
fn clamp<I: Isa>(isa: I, most: f32, x: I::V) -> I::V {
    let zero = isa.splat(0.0);
    // The second operand is the one that comes through if either is NaN.
    let x = isa.max(isa.splat(-most), x);
    isa.sub(zero, isa.max(isa.splat(-most), isa.sub(zero, x)))
}

pub(super) fn forward(cpu: &Cpu, kind: Gelu, x: &[f32], y: &mut [f32]) {
    cpu.for_each_chunk(y, ELEMENTS_PER_TASK, 20 * x.len() as u64, |start, y| {
        let x = &x[start..][..y.len()];
        match kind {
            Gelu::Tanh => dispatch(cpu.isa, Forward::<true> { x, y }),
            Gelu::Exact => dispatch(cpu.isa, Forward::<false> { x, y }),
        }
    });
}

pub(super) fn backward(cpu: &Cpu, kind: Gelu, x: &[f32], grad: &mut [f32]) {
    cpu.for_each_chunk(grad, ELEMENTS_PER_TASK, 20 * x.len() as u64, |start, grad| {
        let x = &x[start..][..grad.len()];
        match kind {
            Gelu::Tanh => dispatch(cpu.isa, Backward::<true> { x, grad }),
            Gelu::Exact => dispatch(cpu.isa, Backward::<false> { x, grad }),
        }
    });
}

const fn kind(is_tanh: bool) -> Gelu {
    if is_tanh { Gelu::Tanh } else { Gelu::Exact }
}

/// Whole vectors: strips are multiples of 16.
struct Forward<'a, const IS_TANH: bool> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl<const IS_TANH: bool> Kernel for Forward<'_, IS_TANH> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for (x, y) in self.x.chunks_exact(I::LANES).zip(self.y.chunks_exact_mut(I::LANES)) {
            // SAFETY: both are LANES long.
            let x = unsafe { isa.load(x.as_ptr()) };
            let (phi, _) = distribution(isa, kind(IS_TANH), x);
            // SAFETY: as above.
            unsafe { isa.store(y.as_mut_ptr(), isa.mul(x, phi)) };
        }
    }
}

struct Backward<'a, const IS_TANH: bool> {
    x: &'a [f32],
    grad: &'a mut [f32],
}

impl<const IS_TANH: bool> Kernel for Backward<'_, IS_TANH> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for (x, grad) in self.x.chunks_exact(I::LANES).zip(self.grad.chunks_exact_mut(I::LANES)) {
            // SAFETY: both are LANES long.
            let (x, dy) = unsafe { (isa.load(x.as_ptr()), isa.load(grad.as_ptr())) };
            let (phi, slope) = distribution(isa, kind(IS_TANH), x);
            // SAFETY: as above.
            unsafe { isa.store(grad.as_mut_ptr(), isa.mul(dy, isa.add(phi, slope))) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use crate::testing::{neural, sequence};
    use crate::{Gelu, SequenceNeural, StripLayout, Strips};

    proptest! {
        #[test]
        fn agrees_with_the_reference(layout in neural::layouts(), seed in 0u64..100) {
            for cpu in BACKENDS.iter() {
                sequence::gelu(cpu, layout, seed);
            }
        }
    }

    /// 4e-7 of x, and 8e-7 for the derivative.
    #[test]
    fn error_bound() {
        BACKENDS.iter().step_by(3).for_each(|cpu| sequence::gelu_error(cpu, [4e-7, 8e-7]));
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let layout = StripLayout::sparse(1000, 333);
        let x = pack(layout, &normals("x", 333_000));
        for kind in [Gelu::Tanh, Gelu::Exact] {
            same_for_all_threads(|cpu| {
                let (mut y, mut grad) = (poisoned(layout), Strips { layout, data: buffer(&x.data) });
                cpu.gelu(kind, &x, &mut y).unwrap();
                cpu.gelu_grad(kind, &x, &mut grad).unwrap();
                [&y.data[..], &grad.data[..]].concat()
            });
        }
    }
}
