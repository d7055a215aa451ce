//! The logistic function over vectors, `σ(x) = (1 + tanh(x / 2)) / 2`.

use super::tanh::tanh;
use crate::cpu::isa::Isa;

/// `σ(x)` with an absolute error below 2^-22, between 0 and 1; NaN of NaN.
#[inline(always)]
pub(super) fn sigmoid<I: Isa>(isa: I, x: I::V) -> I::V {
    let half = isa.splat(0.5);
    isa.mul_add(tanh(isa, isa.mul(x, half)), half, half)
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
                unsafe { isa.store(out.as_mut_ptr(), sigmoid(isa, isa.splat(x))) };
                out[0]
            };
            let mut worst = 0f64;
            for i in -2_000_000..2_000_000 {
                let x = i as f32 * 1.5e-5;
                let (got, expected) = (at(x), 1.0 / (1.0 + (-f64::from(x)).exp()));
                assert!((0.0..=1.0).contains(&got), "σ({x}) = {got}");
                worst = worst.max((f64::from(got) - expected).abs());
            }
            for x in [30.1, 1e5, f32::MAX, f32::INFINITY] {
                worst = worst.max(f64::from((at(x) - 1.0).abs())).max(f64::from(at(-x)));
            }
            assert!(at(0.0) == 0.5 && at(f32::NAN).is_nan());
            worst
        }
    }

    #[test]
    fn error_bound() {
        for name in IsaName::ALL {
            if name.is_available() {
                let error = dispatch(name, MaxError);
                println!("{name}: {error:e}");
                assert!(error < 2.4e-7, "{name}: {error:e}");
            } else {
                println!("{name}: not run, this machine lacks it");
            }
        }
    }
}
