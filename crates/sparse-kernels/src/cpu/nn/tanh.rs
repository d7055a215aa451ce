//! The hyperbolic tangent over vectors.
//!
//! A quotient of an odd polynomial of degree 13 and an even one of degree 6, Eigen's (`MathFunctionsImpl.h`). Beyond
//! [`LARGEST`] it is 1 to within the error.

use crate::cpu::isa::Isa;

/// Where the quotient reaches 1 with the least error.
const LARGEST: f32 = 7.998_811_7;
/// Of x¹³ down to x.
const ABOVE: [f32; 7] =
    [-2.760_768_5e-16, 2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_3e-5, 6.372_619_3e-4, 4.893_524_6e-3];
/// Of x⁶ down to 1.
const BELOW: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];

/// `tanh(x)` with a relative error below 4e-7, between −1 and 1; NaN of NaN.
#[inline(always)]
pub(super) fn tanh<I: Isa>(isa: I, x: I::V) -> I::V {
    // The second operand is the one that comes through if either is NaN.
    let x = isa.max(isa.splat(-LARGEST), x);
    let x = isa.sub(isa.splat(0.0), isa.max(isa.splat(-LARGEST), isa.sub(isa.splat(0.0), x)));
    let square = isa.mul(x, x);
    let (mut above, mut below) = (isa.splat(ABOVE[0]), isa.splat(BELOW[0]));
    for &coefficient in &ABOVE[1..] {
        above = isa.mul_add(above, square, isa.splat(coefficient));
    }
    for &coefficient in &BELOW[1..] {
        below = isa.mul_add(below, square, isa.splat(coefficient));
    }
    isa.div(isa.mul(x, above), below)
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
            let mut out = [0f32; 16];
            let mut at = |x: f32| {
                // SAFETY: `out` holds 16 floats, no vector is longer.
                unsafe { isa.store(out.as_mut_ptr(), tanh(isa, isa.splat(x))) };
                out[0]
            };
            let mut worst = 0f64;
            for i in 1..2_000_000 {
                for x in [i as f32 * 5e-6, i as f32 * 1e-20, -(i as f32) * 5e-6] {
                    let (got, expected) = (at(x), f64::from(x).tanh());
                    assert!(got.abs() <= 1.0, "tanh({x}) = {got}");
                    worst = worst.max(((f64::from(got) - expected) / expected).abs());
                }
            }
            for x in [10.1, 1e5, f32::MAX, f32::INFINITY] {
                for x in [x, -x] {
                    worst = worst.max((f64::from(at(x)) - f64::from(x.signum())).abs());
                }
            }
            assert!(at(0.0) == 0.0 && at(f32::NAN).is_nan());
            worst
        }
    }

    #[test]
    fn error_bound() {
        for name in IsaName::ALL {
            if name.is_available() {
                let error = dispatch(name, MaxError);
                println!("{name}: {error:e}");
                assert!(error < 4e-7, "{name}: {error:e}");
            } else {
                println!("{name}: not run, this machine lacks it");
            }
        }
    }
}
