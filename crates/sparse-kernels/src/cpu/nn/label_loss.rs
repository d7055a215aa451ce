//! Binary cross-entropy of labels that are lists, over some of all labels, with its gradient in place of the logits: one pass.
//!
//! ```text
//! for each strip, each 512 labels                      (parallel)
//!   for each label that a sample has      loss -= y
//!   for all                               e = exp(-|y|);  loss += max(y, 0);  product *= 1 + e
//!                                         y = scale · (y > 0 ? 1 : e) / (1 + e)
//!   for each label that a sample has      y -= scale
//! ```
//!
//! As if no sample had a label, and then made right where it has one: no target is stored.

use std::sync::atomic::{AtomicU64, Ordering};

use super::exp::exp;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{CsrPattern, StripLayout, Strips};

/// Labels of a task.
const LABELS: usize = 512;
/// Factors of a product, of at most 2 each: no f32 is too small for it.
const FACTORS: usize = 64;

pub(super) fn run(cpu: &Cpu, scale: f32, first: usize, labels: &CsrPattern, y: &mut Strips<Cpu>, stats: &mut [f32]) {
    let layout = y.layout;
    let parts = layout.features().div_ceil(LABELS);
    let sums: Vec<AtomicU64> = (0..layout.strips() * parts).map(|_| AtomicU64::new(0)).collect();
    let data = SharedMut::new(&mut y.data);
    cpu.for_each_task(sums.len(), 20 * layout.len() as u64, |task| {
        let (strip, part) = (task / parts, task % parts);
        let features = part * LABELS..(part * LABELS + LABELS).min(layout.features());
        let sum = dispatch(cpu.isa(), Part { scale, first, labels, layout, y: data, strip, features });
        sums[task].store(sum.to_bits(), Ordering::Relaxed);
    });
    let sum: f64 = sums.iter().map(|sum| f64::from_bits(sum.load(Ordering::Relaxed))).sum();
    stats[0] += sum as f32;
}

/// Some labels of a strip; returns the sum of their losses.
struct Part<'a> {
    scale: f32,
    first: usize,
    labels: &'a CsrPattern,
    layout: StripLayout,
    y: SharedMut,
    strip: usize,
    features: std::ops::Range<usize>,
}

impl Part<'_> {
    /// Where the logits of the labels that samples have stand, among this part's.
    #[inline(always)]
    fn had(&self) -> impl Iterator<Item = usize> {
        let Self { layout, strip, first, .. } = *self;
        let (start, end) = ((first + self.features.start) as u32, (first + self.features.end) as u32);
        (0..layout.lanes_of(strip)).flat_map(move |i| {
            let lane = strip * layout.strip() + i;
            let of_sample = self.labels.row(lane);
            let from = of_sample.partition_point(|&label| label < start);
            let mine = of_sample[from..].iter().take_while(move |&&label| label < end);
            mine.map(move |&label| layout.index(label as usize - first, lane))
        })
    }
}

impl Kernel for Part<'_> {
    type Output = f64;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f64 {
        let Self { layout, strip, scale, y, .. } = self;
        // SAFETY: Y is as long as its layout says, and the places are among its lanes and features; they belong to this task.
        let mut total: f64 = self.had().map(|at| -f64::from(unsafe { *y.get().add(at) })).sum();
        let (zero, one, scales) = (isa.splat(0.0), isa.splat(1.0), isa.splat(scale));
        let lanes = layout.lanes_of(strip);
        for v in (0..layout.strip()).step_by(I::LANES) {
            let held = lanes.saturating_sub(v).min(I::LANES);
            for block in self.features.clone().step_by(FACTORS) {
                let (mut sum, mut product) = (zero, one);
                for feature in block..(block + FACTORS).min(self.features.end) {
                    let at = y.get().wrapping_add(layout.index(feature, strip * layout.strip()) + v);
                    // SAFETY: as above; a strip's lanes are a multiple of LANES.
                    unsafe {
                        let y = isa.load(at);
                        let e = exp(isa, isa.sub(zero, isa.max(y, isa.sub(zero, y))));
                        let factor = isa.add(one, e);
                        // 1 where y > 0, else e.
                        let share = isa.add(e, isa.where_positive(y, isa.sub(one, e)));
                        let poison = isa.mul(y, zero);
                        sum = isa.add(sum, isa.add(isa.max(y, zero), poison));
                        product = isa.mul(product, factor);
                        let slope = isa.mul_add(isa.div(share, factor), scales, poison);
                        isa.store(at, isa.keep_first(slope, held));
                    }
                }
                let (mut sums, mut products) = ([0f32; 16], [1f32; 16]);
                // SAFETY: no vector is longer than 16.
                unsafe {
                    isa.store(sums.as_mut_ptr(), sum);
                    isa.store(products.as_mut_ptr(), product);
                }
                for (sum, product) in sums.iter().zip(&products).take(held) {
                    total += f64::from(*sum) + f64::from(*product).ln();
                }
            }
        }
        for at in self.had() {
            // SAFETY: as above.
            unsafe { *y.get().add(at) -= scale };
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use crate::testing::lists;

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            features in 1usize..90, first in 0usize..50, lanes in 1usize..70,
            strip in prop::sample::select(vec![16usize, 32]), scale in 0.01f32..2.0, seed in 0u64..1000
        ) {
            for cpu in BACKENDS.iter() {
                lists::label_loss(cpu, [features, first, lanes], strip, scale, seed);
            }
        }
    }

    #[test]
    fn many_labels() {
        for cpu in BACKENDS.iter() {
            lists::label_loss(cpu, [1500, 7, 40], 32, 0.25, 1);
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        same_for_all_threads(|cpu| lists::label_loss_results(cpu, [5000, 3, 300], 32, 0.5, 2));
    }
}
