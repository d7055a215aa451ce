//! Softmax cross-entropy with its gradient, fused: three short passes over the classes of a few lanes, which stay in L1.
//!
//! ```text
//! for each unit of 16 lanes, lanes side by side:
//!   pass 1 over classes:  top = max x;  best = lowest class with x == top;  poison += 0 · x
//!   pass 2 over classes:  e = exp(x - top);  sum += e;  below += x - top;  grad = e
//!   each lane:            loss = ln(sum) - (1 - ε)·(x[label] - top) - ε/C · below
//!   pass 3 over classes:  grad = grad · scale/sum - scale·ε/C
//!   each lane:            grad[label] -= scale·(1 - ε)
//! ```
//!
//! `0 · x` is NaN where x is not finite, which makes loss and gradient of that lane NaN, unless it is ignored. Losses are summed in f64, in
//! the order of the lanes within a task and in the order of the tasks between them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::exp::exp;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{BackendError, CrossEntropy, StripLayout, Strips};

/// Lanes handled together.
const UNIT: usize = StripLayout::STRIP_UNIT;
/// Tasks whose sums are held at a time.
const TASKS_PER_ROUND: usize = 64;

pub(super) fn run(
    cpu: &Cpu,
    parameters: CrossEntropy,
    logits: &Strips<Cpu>,
    labels: &[u32],
    stats: &mut [f32],
    grad: Option<&mut Strips<Cpu>>,
) -> Result<(), BackendError> {
    let layout = logits.layout;
    let labels = &labels[..layout.lanes()];
    let grad = grad.map(|grad| SharedMut::new(&mut grad.data));
    let units = layout.strips() * layout.strip() / UNIT;
    let units_per_task = (ELEMENTS_PER_TASK / (UNIT * layout.features())).max(1);
    let tasks = units.div_ceil(units_per_task);
    // An element costs some 20 operations, most of them in exp.
    let operations = 20 * layout.len() as u64;
    let (mut loss, mut correct) = (0f64, 0usize);
    for first in (0..tasks).step_by(TASKS_PER_ROUND) {
        let sums: [_; TASKS_PER_ROUND] = std::array::from_fn(|_| (AtomicU64::new(0), AtomicU32::new(0)));
        let count = (tasks - first).min(TASKS_PER_ROUND);
        cpu.for_each_task(count, operations, |task| {
            let start = (first + task) * units_per_task;
            let units = start..(start + units_per_task).min(units);
            let (loss, correct) =
                dispatch(cpu.isa, Units { layout, parameters, logits: &logits.data, labels, grad, units });
            sums[task].0.store(loss.to_bits(), Ordering::Relaxed);
            sums[task].1.store(correct, Ordering::Relaxed);
        });
        for (task_loss, task_correct) in &sums[..count] {
            loss += f64::from_bits(task_loss.load(Ordering::Relaxed));
            correct += task_correct.load(Ordering::Relaxed) as usize;
        }
    }
    stats.copy_from_slice(&[loss as f32, correct as f32]);
    Ok(())
}

/// Some units of 16 lanes; returns the sum of their losses and the number of correct lanes.
struct Units<'a> {
    layout: StripLayout,
    parameters: CrossEntropy,
    logits: &'a [f32],
    labels: &'a [u32],
    /// `layout.len()` elements, of which this task touches its units only.
    grad: Option<SharedMut>,
    units: std::ops::Range<usize>,
}

/// Results of the passes over classes, a number a lane.
struct Lanes {
    top: [f32; UNIT],
    best: [f32; UNIT],
    poison: [f32; UNIT],
    sum: [f32; UNIT],
    below: [f32; UNIT],
}

impl Kernel for Units<'_> {
    type Output = (f64, u32);

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> (f64, u32) {
        let classes = self.layout.features();
        let CrossEntropy { label_smoothing: epsilon, gradient_scale: scale } = self.parameters;
        let spread = epsilon / classes as f32;
        let (mut loss, mut correct) = (0f64, 0u32);
        for unit in self.units.clone() {
            let first_lane = unit * UNIT;
            let lanes = self.layout.lanes().saturating_sub(first_lane).min(UNIT);
            let start = self.layout.index(0, first_lane);
            let found = self.over_classes(isa, start);
            // Factor and offset of pass 3; zero in lanes that do not count.
            let (mut factor, mut offset) = ([0f32; UNIT], [0f32; UNIT]);
            for i in 0..lanes {
                let label = self.labels[first_lane + i];
                if label == CrossEntropy::IGNORED {
                    continue;
                }
                let (label, mut poison) = (label as usize, found.poison[i]);
                if label < classes {
                    let at_label = self.logits[start + label * self.layout.strip() + i] - found.top[i];
                    let mut lane_loss = f64::from(found.sum[i]).ln() - f64::from(1.0 - epsilon) * f64::from(at_label);
                    if epsilon != 0.0 {
                        lane_loss -= f64::from(spread) * f64::from(found.below[i]);
                    }
                    loss += lane_loss + f64::from(poison);
                    correct += u32::from(found.best[i] == label as f32 && !poison.is_nan());
                } else {
                    poison = f32::NAN;
                    loss = f64::NAN;
                }
                factor[i] = scale / found.sum[i] + poison;
                offset[i] = -scale * spread;
            }
            if let Some(grad) = self.grad {
                self.scale_gradient(isa, grad, start, &factor, &offset);
                for i in 0..lanes {
                    let label = self.labels[first_lane + i];
                    let at = |class: usize| start + class * self.layout.strip() + i;
                    if (label as usize) < classes {
                        // SAFETY: label < classes, so the place lies in this task's unit of the checked gradient.
                        unsafe { *grad.get().add(at(label as usize)) -= scale * (1.0 - epsilon) };
                    } else if label == CrossEntropy::IGNORED {
                        // A factor of zero leaves NaN where a logit is not finite.
                        // SAFETY: as above, of each class.
                        (0..classes).for_each(|class| unsafe { *grad.get().add(at(class)) = 0.0 });
                    }
                }
            }
        }
        (loss, correct)
    }
}

impl Units<'_> {
    /// Passes 1 and 2 over the unit whose class 0 stands at `start`; leaves exp(x − top) in the gradient.
    #[inline(always)]
    fn over_classes<I: Isa>(&self, isa: I, start: usize) -> Lanes {
        let zeros = [0f32; UNIT];
        let mut found = Lanes { top: zeros, best: zeros, poison: zeros, sum: zeros, below: zeros };
        let (strip, zero) = (self.layout.strip(), isa.splat(0.0));
        for v in (0..UNIT).step_by(I::LANES) {
            let load = |class: usize| {
                let row = &self.logits[start + class * strip + v..][..I::LANES];
                // SAFETY: `row` is LANES long.
                unsafe { isa.load(row.as_ptr()) }
            };
            let mut top = load(0);
            let (mut best, mut poison) = (zero, isa.mul(top, zero));
            for class in 1..self.layout.features() {
                let x = load(class);
                // x − top > 0 exactly where x > top, and all class numbers are exact in f32: a select by arithmetic.
                let higher = isa.where_positive(isa.sub(x, top), isa.sub(isa.splat(class as f32), best));
                best = isa.add(best, higher);
                top = isa.max(x, top);
                poison = isa.mul_add(x, zero, poison);
            }
            let (mut sum, mut below) = (zero, zero);
            for class in 0..self.layout.features() {
                let distance = isa.sub(load(class), top);
                let e = exp(isa, distance);
                sum = isa.add(sum, e);
                below = isa.add(below, distance);
                if let Some(grad) = self.grad {
                    // SAFETY: same place as `load(class)` in a gradient of the same checked layout, and of this
                    // task's unit alone.
                    unsafe { isa.store(grad.get().add(start + class * strip + v), e) };
                }
            }
            let lanes = [
                (&mut found.top, top),
                (&mut found.best, best),
                (&mut found.poison, poison),
                (&mut found.sum, sum),
                (&mut found.below, below),
            ];
            for (to, from) in lanes {
                // SAFETY: v + LANES <= UNIT, the length of `to`.
                unsafe { isa.store(to.as_mut_ptr().add(v), from) };
            }
        }
        found
    }

    /// Pass 3.
    #[inline(always)]
    fn scale_gradient<I: Isa>(
        &self,
        isa: I,
        grad: SharedMut,
        start: usize,
        factor: &[f32; UNIT],
        offset: &[f32; UNIT],
    ) {
        for v in (0..UNIT).step_by(I::LANES) {
            // SAFETY: v + LANES <= UNIT, the length of both.
            let (factor, offset) = unsafe { (isa.load(factor.as_ptr().add(v)), isa.load(offset.as_ptr().add(v))) };
            for class in 0..self.layout.features() {
                let at = start + class * self.layout.strip() + v;
                // SAFETY: the place that pass 2 wrote.
                unsafe {
                    let at = grad.get().add(at);
                    isa.store(at, isa.mul_add(isa.load(at), factor, offset));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::Neural;
    use crate::cpu::Buffer;
    use crate::testing::neural;

    fn poisoned_stats() -> Buffer {
        buffer(&[f32::NAN; 2])
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), smooth: bool, scale in 0.01f32..2.0, seed in 0u64..100
        ) {
            let layout = layout.with_features(layout.features() + 1);
            let parameters = CrossEntropy { label_smoothing: if smooth { 0.1 } else { 0.0 }, gradient_scale: scale };
            for cpu in BACKENDS.iter() {
                neural::softmax_cross_entropy(cpu, layout, parameters, seed);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for layout in [StripLayout::sparse(50_001, 10), StripLayout::single(50_001, 10)] {
            let logits = pack(layout, &normals("logits", 500_010));
            let labels: Vec<u32> = (0..50_001).map(|i| i % 10).collect();
            let parameters = CrossEntropy { label_smoothing: 0.1, gradient_scale: 1.0 };
            same_for_all_threads(|cpu| {
                let (mut stats, mut grad) = (poisoned_stats(), poisoned(layout));
                cpu.softmax_cross_entropy(parameters, &logits, &labels, &mut stats, Some(&mut grad)).unwrap();
                [&stats[..], &grad.data[..]].concat()
            });
        }
    }

    #[test]
    fn unusual_logits() {
        BACKENDS.iter().for_each(neural::unusual_logits);
    }
}
