//! Sums of squares, and the scaling of gradients by the root of such a sum.

use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};

/// The sum over tasks of fixed length, each in f32 and added up in f64 in their order.
pub(super) fn squares(cpu: &Cpu, values: &[f32], sum: &mut f32) {
    let tasks = values.len().div_ceil(ELEMENTS_PER_TASK);
    let mut sums = cpu.scratch(tasks);
    let shared = SharedMut::new(&mut sums);
    cpu.for_each_task(tasks, 2 * values.len() as u64, |task| {
        let part =
            &values[task * ELEMENTS_PER_TASK..][..ELEMENTS_PER_TASK.min(values.len() - task * ELEMENTS_PER_TASK)];
        let sum = dispatch(cpu.isa, Squares(part));
        // SAFETY: there is one sum for each task.
        unsafe { *shared.offset(task).get() = sum };
    });
    *sum = (f64::from(*sum) + sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()) as f32;
    cpu.give_back(sums);
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> f32 {
        let mut sums = [isa.splat(0.0); 4];
        let mut groups = self.0.chunks_exact(4 * I::LANES);
        for group in &mut groups {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a group has four vectors.
                let x = unsafe { isa.load(group.as_ptr().add(i * I::LANES)) };
                *sum = isa.mul_add(x, x, *sum);
            }
        }
        let sum = isa.add(isa.add(sums[0], sums[1]), isa.add(sums[2], sums[3]));
        let mut lanes = [0f32; 16];
        // SAFETY: no vector is longer.
        unsafe { isa.store(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum::<f32>() + groups.remainder().iter().map(|x| x * x).sum::<f32>()
    }
}

/// Scales by `min(1, largest / (√norm_squared + 1e-6))`.
pub(super) fn clip(cpu: &Cpu, norm_squared: f32, largest: f32, values: &mut [f32]) {
    let factor = largest / (norm_squared.sqrt() + 1e-6);
    if factor >= 1.0 {
        return;
    }
    cpu.for_each_chunk(values, ELEMENTS_PER_TASK, values.len() as u64, |_, values| {
        dispatch(cpu.isa, Scale { factor, values });
    });
}

struct Scale<'a> {
    factor: f32,
    values: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        self.values.iter_mut().for_each(|value| *value *= self.factor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use crate::Optimizer;
    use crate::testing::neural;

    proptest! {
        #[test]
        fn agrees_with_the_reference(len in 0usize..300, largest in 0.1f32..40.0) {
            for cpu in BACKENDS.iter() {
                neural::clip(cpu, len, largest);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let g = normals("g", 300_001);
        same_for_all_threads(|cpu| {
            let (mut sum, mut values) = (buffer(&[0.5]), buffer(&g));
            cpu.add_squares(&values, &mut sum).unwrap();
            cpu.clip(&sum, 1.0, &mut values).unwrap();
            [&sum[..], &values[..]].concat()
        });
    }
}
