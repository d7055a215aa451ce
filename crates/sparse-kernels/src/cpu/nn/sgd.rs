//! Stochastic gradient descent: one pass over values, gradient and velocity.

use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{BackendError, SgdStep};

pub(super) fn run(
    cpu: &Cpu,
    step: SgdStep,
    values: &mut [f32],
    grad: &[f32],
    velocity: Option<&mut [f32]>,
) -> Result<(), BackendError> {
    let velocity = velocity.map(SharedMut::new);
    cpu.for_each_chunk(values, ELEMENTS_PER_TASK, 8 * grad.len() as u64, |start, values| {
        let grad = &grad[start..][..values.len()];
        // SAFETY: as long as `values`, which was checked; chunks are disjoint.
        let velocity = velocity.map(|v| unsafe { std::slice::from_raw_parts_mut(v.get().add(start), values.len()) });
        dispatch(cpu.isa, Sgd { step, values, grad, velocity });
    });
    Ok(())
}

struct Sgd<'a> {
    step: SgdStep,
    values: &'a mut [f32],
    grad: &'a [f32],
    velocity: Option<&'a mut [f32]>,
}

impl Kernel for Sgd<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { step, values, grad, velocity } = self;
        let whole = values.len() - values.len() % I::LANES;
        let (values, values_tail) = values.split_at_mut(whole);
        let (grad, grad_tail) = grad.split_at(whole);
        // The tail is padded to a vector, so that it is computed like all others.
        let mut w_tail = [0f32; 16];
        let mut g_tail = [0f32; 16];
        let mut v_tail = [0f32; 16];
        w_tail[..values_tail.len()].copy_from_slice(values_tail);
        g_tail[..grad_tail.len()].copy_from_slice(grad_tail);
        match velocity {
            Some(velocity) => {
                let (velocity, velocity_tail) = velocity.split_at_mut(whole);
                v_tail[..velocity_tail.len()].copy_from_slice(velocity_tail);
                with_velocity(isa, step, values, grad, velocity);
                with_velocity(isa, step, &mut w_tail[..I::LANES], &g_tail[..I::LANES], &mut v_tail[..I::LANES]);
                velocity_tail.copy_from_slice(&v_tail[..velocity_tail.len()]);
            }
            None => {
                plain(isa, step, values, grad);
                plain(isa, step, &mut w_tail[..I::LANES], &g_tail[..I::LANES]);
            }
        }
        values_tail.copy_from_slice(&w_tail[..values_tail.len()]);
    }
}

#[inline(always)]
fn with_velocity<I: Isa>(isa: I, step: SgdStep, values: &mut [f32], grad: &[f32], velocity: &mut [f32]) {
    let (decay, momentum) = (isa.splat(step.weight_decay), isa.splat(step.momentum));
    let rate = isa.splat(-step.learning_rate);
    let parts = values.chunks_exact_mut(I::LANES).zip(grad.chunks_exact(I::LANES));
    for ((w_at, g_at), v_at) in parts.zip(velocity.chunks_exact_mut(I::LANES)) {
        // SAFETY: each part is LANES long.
        unsafe {
            let w = isa.load(w_at.as_ptr());
            let g = isa.mul_add(decay, w, isa.load(g_at.as_ptr()));
            let v = isa.mul_add(momentum, isa.load(v_at.as_ptr()), g);
            let update = if step.nesterov { isa.mul_add(momentum, v, g) } else { v };
            isa.store(v_at.as_mut_ptr(), v);
            isa.store(w_at.as_mut_ptr(), isa.mul_add(rate, update, w));
        }
    }
}

#[inline(always)]
fn plain<I: Isa>(isa: I, step: SgdStep, values: &mut [f32], grad: &[f32]) {
    let (decay, rate) = (isa.splat(step.weight_decay), isa.splat(-step.learning_rate));
    for (w_at, g_at) in values.chunks_exact_mut(I::LANES).zip(grad.chunks_exact(I::LANES)) {
        // SAFETY: each part is LANES long.
        unsafe {
            let w = isa.load(w_at.as_ptr());
            let g = isa.mul_add(decay, w, isa.load(g_at.as_ptr()));
            isa.store(w_at.as_mut_ptr(), isa.mul_add(rate, g, w));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use crate::testing::neural;
    use crate::{Optimizer, SgdStep};

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            len in 0usize..70, momentum in prop::sample::select(vec![0.0f32, 0.9]), nesterov: bool,
            weight_decay in prop::sample::select(vec![0.0f32, 0.01]), keep_velocity: bool
        ) {
            let step = SgdStep { learning_rate: 0.1, momentum, nesterov: nesterov && momentum > 0.0, weight_decay };
            for cpu in BACKENDS.iter() {
                neural::sgd(cpu, len, step, keep_velocity);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let (w, g, v) = (normals("w", 300_001), normals("g", 300_001), normals("v", 300_001));
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
        same_for_all_threads(|cpu| {
            let (mut w, mut v) = (buffer(&w), buffer(&v));
            cpu.sgd(step, &mut w, &buffer(&g), Some(&mut v)).unwrap();
            [&w[..], &v[..]].concat()
        });
    }
}
