//! Losses of each output against a number, with their gradients: one pass.
//!
//! ```text
//! for each unit of 16 lanes, lanes side by side; for each output:
//!   squared:   d = y - t;                        loss += d²;                      grad = scale · 2 · d
//!   Huber:     d = y - t;  c = clamp(d, ±δ);     loss += c · (d - c / 2);         grad = scale · c
//!   binary:    e = exp(-|y|);                    loss += max(y, 0) - y · t,  product *= 1 + e;
//!                                                grad = scale · ((y > 0 ? 1 : e) / (1 + e) - t)
//! each lane, of binary every 64 outputs:         loss += ln(product)
//! ```
//!
//! One logarithm for 64 factors of at most 2, whose product no f32 is too small for, instead of one for each. `0 · y` and
//! `0 · t` are NaN where the numbers are not finite. Losses are summed in f64, in the order of the lanes within a task and in
//! the order of the tasks between them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::exp::exp;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{PointwiseLoss, StripLayout, Strips};

/// Lanes handled together.
const UNIT: usize = StripLayout::STRIP_UNIT;
/// Tasks whose sums are held at a time.
const TASKS_PER_ROUND: usize = 64;
/// Factors of a product.
const FACTORS: usize = 64;

pub(super) fn run(
    cpu: &Cpu,
    loss: PointwiseLoss,
    scale: f32,
    [outputs, targets]: [&Strips<Cpu>; 2],
    stats: &mut [f32],
    grad: Option<&mut Strips<Cpu>>,
) {
    let layout = outputs.layout;
    let grad = grad.map(|grad| SharedMut::new(&mut grad.data));
    let units = layout.strips() * layout.strip() / UNIT;
    let units_per_task = (ELEMENTS_PER_TASK / (UNIT * layout.features())).max(1);
    let tasks = units.div_ceil(units_per_task);
    let operations = 20 * layout.len() as u64;
    let mut sum = 0f64;
    for first in (0..tasks).step_by(TASKS_PER_ROUND) {
        let sums: [_; TASKS_PER_ROUND] = std::array::from_fn(|_| AtomicU64::new(0));
        let count = (tasks - first).min(TASKS_PER_ROUND);
        cpu.for_each_task(count, operations, |task| {
            let start = (first + task) * units_per_task;
            let units = start..(start + units_per_task).min(units);
            let (outputs, targets) = (&outputs.data[..], &targets.data[..]);
            let sum = dispatch(cpu.isa, Units { layout, loss, scale, outputs, targets, grad, units });
            sums[task].store(sum.to_bits(), Ordering::Relaxed);
        });
        sums[..count].iter().for_each(|of_task| sum += f64::from_bits(of_task.load(Ordering::Relaxed)));
    }
    stats.copy_from_slice(&[(sum / layout.features() as f64) as f32, 0.0]);
}

/// Some units of 16 lanes; returns the sum of their losses.
struct Units<'a> {
    layout: StripLayout,
    loss: PointwiseLoss,
    scale: f32,
    outputs: &'a [f32],
    targets: &'a [f32],
    /// `layout.len()` elements, of which this task touches its units only.
    grad: Option<SharedMut>,
    units: std::ops::Range<usize>,
}

impl Kernel for Units<'_> {
    type Output = f64;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f64 {
        match self.loss {
            PointwiseLoss::Squared => self.each(isa, Squared),
            PointwiseLoss::Huber { delta } => self.each(isa, Huber(delta)),
            PointwiseLoss::BinaryCrossEntropy => self.each(isa, Binary),
        }
    }
}

impl Units<'_> {
    #[inline(always)]
    fn each<I: Isa, L: Loss>(&self, isa: I, loss: L) -> f64 {
        let (features, strip) = (self.layout.features(), self.layout.strip());
        let (zero, scale) = (isa.splat(0.0), isa.splat(self.scale));
        let mut total = 0f64;
        for unit in self.units.clone() {
            let first_lane = unit * UNIT;
            let lanes = self.layout.lanes().saturating_sub(first_lane).min(UNIT);
            let start = self.layout.index(0, first_lane);
            for v in (0..UNIT).step_by(I::LANES) {
                let held = lanes.saturating_sub(v).min(I::LANES);
                let mut of_lanes = [0f64; UNIT];
                for block in (0..features).step_by(FACTORS) {
                    let (mut sum, mut product) = (zero, isa.splat(1.0));
                    for feature in block..(block + FACTORS).min(features) {
                        let at = start + feature * strip + v;
                        let (y, t) = (&self.outputs[at..][..I::LANES], &self.targets[at..][..I::LANES]);
                        // SAFETY: both are LANES long.
                        let (y, t) = unsafe { (isa.load(y.as_ptr()), isa.load(t.as_ptr())) };
                        let [term, factor, slope] = loss.at(isa, y, t);
                        let poison = isa.mul(isa.add(y, t), zero);
                        sum = isa.add(sum, isa.add(term, poison));
                        product = isa.mul(product, factor);
                        if let Some(grad) = self.grad {
                            let slope = isa.keep_first(isa.mul_add(slope, scale, poison), held);
                            // SAFETY: the same place in a gradient of the same checked layout, and of this task's unit
                            // alone.
                            unsafe { isa.store(grad.get().add(at), slope) };
                        }
                    }
                    let (mut sums, mut products) = ([0f32; UNIT], [1f32; UNIT]);
                    // SAFETY: no vector is longer than UNIT.
                    unsafe {
                        isa.store(sums.as_mut_ptr(), sum);
                        isa.store(products.as_mut_ptr(), product);
                    }
                    for i in 0..held {
                        of_lanes[i] += f64::from(sums[i]);
                        if L::HAS_FACTORS {
                            of_lanes[i] += f64::from(products[i]).ln();
                        }
                    }
                }
                of_lanes[..held].iter().for_each(|lane| total += lane);
            }
        }
        total
    }
}

/// What is computed of each output and its target.
trait Loss {
    /// Whether the logarithm of the factors counts.
    const HAS_FACTORS: bool;

    /// The loss is `term + ln(factor)`, the slope its derivative by `y`.
    fn at<I: Isa>(&self, isa: I, y: I::V, t: I::V) -> [I::V; 3];
}

struct Squared;

impl Loss for Squared {
    const HAS_FACTORS: bool = false;

    #[inline(always)]
    fn at<I: Isa>(&self, isa: I, y: I::V, t: I::V) -> [I::V; 3] {
        let d = isa.sub(y, t);
        [isa.mul(d, d), isa.splat(1.0), isa.add(d, d)]
    }
}

/// With its δ.
struct Huber(f32);

impl Loss for Huber {
    const HAS_FACTORS: bool = false;

    #[inline(always)]
    fn at<I: Isa>(&self, isa: I, y: I::V, t: I::V) -> [I::V; 3] {
        let (zero, delta) = (isa.splat(0.0), isa.splat(self.0));
        let d = isa.sub(y, t);
        let below = isa.sub(zero, isa.max(isa.sub(zero, d), isa.sub(zero, delta)));
        let c = isa.max(below, isa.sub(zero, delta));
        [isa.mul(c, isa.mul_add(c, isa.splat(-0.5), d)), isa.splat(1.0), c]
    }
}

struct Binary;

impl Loss for Binary {
    const HAS_FACTORS: bool = true;

    #[inline(always)]
    fn at<I: Isa>(&self, isa: I, y: I::V, t: I::V) -> [I::V; 3] {
        let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
        let e = exp(isa, isa.sub(zero, isa.max(y, isa.sub(zero, y))));
        let factor = isa.add(one, e);
        // 1 where y > 0, else e.
        let share = isa.add(e, isa.where_positive(y, isa.sub(one, e)));
        [isa.sub(isa.max(y, zero), isa.mul(y, t)), factor, isa.sub(isa.div(share, factor), t)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::Neural;
    use crate::testing::neural;

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), loss in neural::pointwise_losses(), scale in 0.01f32..2.0, seed in 0u32..100
        ) {
            let layout = layout.with_features(layout.features() + 1);
            for cpu in BACKENDS.iter() {
                neural::pointwise_loss(cpu, layout, loss, scale, seed);
            }
        }
    }

    #[test]
    fn many_outputs() {
        for cpu in BACKENDS.iter() {
            for loss in neural::POINTWISE_LOSSES {
                neural::pointwise_loss(cpu, StripLayout::sparse(33, 1003), loss, 0.5, 1);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for layout in [StripLayout::sparse(50_001, 10), StripLayout::single(50_001, 10)] {
            let [outputs, targets] = ["y", "t"].map(|name| pack(layout, &normals(name, 500_010)));
            for loss in neural::POINTWISE_LOSSES {
                same_for_all_threads(|cpu| {
                    let (mut stats, mut grad) = (buffer(&[f32::NAN; 2]), poisoned(layout));
                    cpu.pointwise_loss(loss, 1.0, &outputs, &targets, &mut stats, Some(&mut grad)).unwrap();
                    [&stats[..], &grad.data[..]].concat()
                });
            }
        }
    }

    #[test]
    fn unusual_outputs() {
        BACKENDS.iter().for_each(neural::unusual_outputs);
    }
}
