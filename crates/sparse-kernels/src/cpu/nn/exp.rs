//! The exponential function over vectors, for softmax.
//!
//! `exp(x) = 2^n · exp(r)` with `n = round(x / ln 2)` and `abs(r) <= ln 2 / 2`; exp(r) is the polynomial of degree 7 of
//! Cephes' `expf` (Moshier). Rounding to whole numbers is one addition of 1.5 · 2^23, whose low bits then are `n`.

use crate::cpu::isa::Isa;

/// Below this, the result is that of this: about 1.6e-38, the last whole argument whose result is a normal number.
const LOWEST: f32 = -87.0;
/// 1.5 · 2^23: adding it rounds to whole numbers.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has so few bits that its product with `n` is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// (exp(r) − 1 − r) / r², highest power first.
const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `exp(x)` for `x <= 88` with a relative error below 1.2e-7 (ε), or `exp(-87)` for `x < -87` and for NaN.
#[inline(always)]
pub(super) fn exp<I: Isa>(isa: I, x: I::V) -> I::V {
    let x = isa.max(x, isa.splat(LOWEST));
    let shift = isa.mul_add(x, isa.splat(std::f32::consts::LOG2_E), isa.splat(ROUND));
    let n = isa.sub(shift, isa.splat(ROUND));
    let r = isa.mul_add(n, isa.splat(-LN_2[0]), x);
    let r = isa.mul_add(n, isa.splat(-LN_2[1]), r);
    let mut p = isa.splat(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = isa.mul_add(p, r, isa.splat(coefficient));
    }
    let exp_r = isa.add(isa.mul_add(isa.mul(r, r), p, r), isa.splat(1.0));
    isa.add_exponent(exp_r, shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::IsaName;
    use crate::cpu::isa::{Kernel, dispatch};

    struct MaxError;
    impl Kernel for MaxError {
        type Output = f64;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> f64 {
            let mut worst = 0f64;
            let mut out = [0f32; 16];
            for i in 0..2_000_000 {
                let x = -87.0 + i as f32 * (175.0 / 2e6);
                // SAFETY: `out` holds 16 floats, no vector is longer.
                unsafe { isa.store(out.as_mut_ptr(), exp(isa, isa.splat(x))) };
                let expected = f64::from(x).exp();
                worst = worst.max((f64::from(out[0]) - expected).abs() / expected);
            }
            for x in [-87.1, -1e5, f32::MIN, f32::NEG_INFINITY] {
                // SAFETY: as above.
                unsafe { isa.store(out.as_mut_ptr(), exp(isa, isa.splat(x))) };
                assert!((0.0..2e-38).contains(&out[0]), "exp({x}) = {}", out[0]);
            }
            // SAFETY: as above.
            unsafe { isa.store(out.as_mut_ptr(), exp(isa, isa.splat(0.0))) };
            assert_eq!(out[0], 1.0);
            worst
        }
    }

    #[test]
    fn error_bound() {
        for name in IsaName::ALL {
            if name.is_available() {
                let error = dispatch(name, MaxError);
                println!("{name}: {error:e}");
                assert!(error < 1.2e-7, "{name}: {error:e}");
            } else {
                println!("{name}: not run, this machine lacks it");
            }
        }
    }
}
