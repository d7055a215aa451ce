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

impl Limits {
    /// The higher rate of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            fma_flops_per_s: self.fma_flops_per_s.max(other.fma_flops_per_s),
            load_fma_flops_per_s: self.load_fma_flops_per_s.max(other.load_fma_flops_per_s),
        }
    }
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

    /// Bytes a second at which all threads together read an array of `bytes` bytes and add it up, again and again: from
    /// the cache that holds it, or from memory. The yardstick of products with few lanes, whose entries are read once.
    /// Takes some 50 ms.
    pub fn read_bytes_per_s(&self, bytes: usize) -> f64 {
        // Parts of 512 KiB, as large as the row blocks of a product; at least one for each thread of a small array.
        let floats = (bytes / size_of::<f32>()).max(1);
        let mut data = Buffer::zeros(floats);
        data.fill(1.0);
        let part = (1 << 17).min(floats.div_ceil(self.threads()).next_multiple_of(1 << 10));
        let parts = floats.div_ceil(part);
        let data = &data[..];
        let pass = || {
            let start = Instant::now();
            self.for_each_task(parts, u64::MAX, |i| {
                let data = std::hint::black_box(&data[i * part..floats.min((i + 1) * part)]);
                std::hint::black_box(dispatch(self.isa, Sum { data }));
            });
            start.elapsed().as_secs_f64()
        };
        let start = Instant::now();
        let mut best = f64::INFINITY;
        let mut passes = 0;
        while passes < 4 || start.elapsed().as_secs_f64() < 0.05 {
            best = self.install(pass).min(best);
            passes += 1;
        }
        (floats * size_of::<f32>()) as f64 / best
    }
}

/// The sum of an array, with nothing to wait for but its loads.
struct Sum<'a> {
    data: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f32 {
        const ACCUMULATORS: usize = 8;
        let mut acc = [isa.splat(0.0); ACCUMULATORS];
        let steps = self.data.chunks_exact(ACCUMULATORS * I::LANES);
        let rest = steps.remainder().iter().sum::<f32>();
        for step in steps {
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `step` has ACCUMULATORS · LANES floats.
                *acc = isa.add(*acc, unsafe { isa.load(step.as_ptr().add(v * I::LANES)) });
            }
        }
        acc.into_iter().map(|a| isa.sum(a)).sum::<f32>() + rest
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
        // Opaque, so that nothing is folded away.
        let mut acc = [0.0; ACCUMULATORS].map(|zero| isa.splat(std::hint::black_box(zero)));
        let factor = isa.splat(std::hint::black_box(0.5));
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
                        // NEON's instruction overwrites the addend: another one would take a copy for each.
                        isa.mul_add(factor, *acc, *acc)
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

    #[test]
    fn any_array_is_read() {
        for (threads, bytes) in [(1, 0), (2, 4), (2, 1 << 20)] {
            assert!(Cpu::new(threads, None).unwrap().read_bytes_per_s(bytes) > 0.0);
        }
    }
}
