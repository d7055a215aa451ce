//! What one core of this machine can do at best: the yardsticks that benchmarks divide by.

use std::time::Instant;

use super::isa::{Isa, Kernel, dispatch};
use super::{Buffer, Cpu};

/// Rates of one core with a backend's instruction set, in floating-point operations per second (a multiply-add is
/// two).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Multiply-adds on registers only: the limit of dense and block-sparse products.
    pub fma_flops_per_s: f64,
    /// Multiply-adds that each load one operand from L1: the limit of unstructured sparse products, which have
    /// nothing to reuse a loaded vector for.
    pub load_fma_flops_per_s: f64,
}

impl Cpu {
    /// Measures the limits of one core; takes some 20 ms.
    pub fn limits(&self) -> Limits {
        // Half of the smallest L1 in use.
        let data = Buffer::zeros(4 << 10);
        let best = |loads: bool| {
            let rate = |_| {
                let start = Instant::now();
                let operations = dispatch(self.isa, Fma { data: &data, loads });
                operations / start.elapsed().as_secs_f64()
            };
            (0..10).map(rate).fold(0.0, f64::max)
        };
        Limits { fma_flops_per_s: best(false), load_fma_flops_per_s: best(true) }
    }
}

/// Some 2 million multiply-adds on 12 accumulators, which hide the latency and leave registers in every set.
struct Fma<'a> {
    data: &'a [f32],
    loads: bool,
}

impl Kernel for Fma<'_> {
    type Output = f64;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f64 {
        const ACCUMULATORS: usize = 12;
        let mut acc = [isa.splat(0.0); ACCUMULATORS];
        // Opaque, so that nothing is folded away.
        let factor = isa.splat(std::hint::black_box(0.5));
        let addend = isa.splat(std::hint::black_box(1.0));
        let step = ACCUMULATORS * I::LANES;
        let passes = self.data.len() / step;
        let repeats = (2_000_000 / ACCUMULATORS / passes).max(1);
        for _ in 0..repeats {
            let data = std::hint::black_box(self.data.as_ptr());
            for pass in 0..passes {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = if self.loads {
                        // SAFETY: passes · step floats at most are in `data`.
                        isa.mul_add(factor, unsafe { isa.load(data.add(pass * step + v * I::LANES)) }, *acc)
                    } else {
                        isa.mul_add(*acc, factor, addend)
                    };
                }
            }
        }
        let total = acc.into_iter().map(|a| isa.sum(a)).sum::<f32>();
        std::hint::black_box(total);
        2.0 * (repeats * passes * step) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive() {
        let limits = Cpu::new(1, None).unwrap().limits();
        assert!(limits.fma_flops_per_s > 0.0 && limits.load_fma_flops_per_s > 0.0, "{limits:?}");
    }
}
