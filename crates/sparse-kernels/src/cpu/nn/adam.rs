//! Adam and AdamW: one pass over values, gradient and both moments.
//!
//! `m ← β₁·m + (1 − β₁)·g`, `v ← β₂·v + (1 − β₂)·g²`, `w ← w − η/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`; the factors that do
//! not depend on the element are computed once, in f64.

use crate::AdamStep;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Buffer, Cpu, ELEMENTS_PER_TASK, SharedMut};

pub(super) fn run(
    cpu: &Cpu,
    step: AdamStep,
    values: &mut [f32],
    grad: &[f32],
    [first, second]: [&mut Buffer; 2],
    corrections: Option<[&mut Buffer; 2]>,
) {
    let factors = Factors::new(step);
    let moments = [SharedMut::new(first), SharedMut::new(second)];
    let corrections = corrections.map(|pair| pair.map(|buffer| SharedMut::new(buffer)));
    cpu.for_each_chunk(values, ELEMENTS_PER_TASK, 8 * grad.len() as u64, |start, values| {
        let len = values.len();
        // SAFETY: as long as `values`, which was checked; chunks are disjoint.
        let part = |of: SharedMut| unsafe { std::slice::from_raw_parts_mut(of.get().add(start), len) };
        let ([first, second], grad) = (moments.map(part), &grad[start..][..len]);
        match corrections.map(|pair| pair.map(part)) {
            None => dispatch(cpu.isa, Adam { factors, values, grad, first, second }),
            Some(corrections) => dispatch(cpu.isa, OwnAdam { factors, values, grad, first, second, corrections }),
        }
    });
}

/// What does not depend on the element.
#[derive(Clone, Copy)]
struct Factors {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// Factor on the weight in the gradient: L2 decay.
    decay: f32,
    /// Factor on the weight itself: decoupled decay.
    shrink: f32,
    /// `−η / (1 − β₁ᵗ)`.
    rate: f32,
    /// `1 / √(1 − β₂ᵗ)`.
    root: f32,
    /// `−η`, for corrections of each element.
    minus_rate: f32,
    epsilon: f32,
}

impl Factors {
    fn new(step: AdamStep) -> Self {
        let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
        let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
        let learning_rate = f64::from(step.learning_rate);
        let shrink = if step.decoupled { 1.0 - learning_rate * f64::from(step.weight_decay) } else { 1.0 };
        Self {
            beta1: step.beta1,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: step.beta2,
            one_minus_beta2: (1.0 - beta2) as f32,
            decay: if step.decoupled { 0.0 } else { step.weight_decay },
            shrink: shrink as f32,
            rate: (-learning_rate / correction(beta1)) as f32,
            root: (1.0 / correction(beta2).sqrt()) as f32,
            minus_rate: -step.learning_rate,
            epsilon: step.epsilon,
        }
    }
}

struct Adam<'a> {
    factors: Factors,
    values: &'a mut [f32],
    grad: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Adam<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { factors, values, grad, first, second } = self;
        let whole = values.len() - values.len() % I::LANES;
        let tail = values.len() - whole;
        let (values, values_tail) = values.split_at_mut(whole);
        let (grad, grad_tail) = grad.split_at(whole);
        let (first, first_tail) = first.split_at_mut(whole);
        let (second, second_tail) = second.split_at_mut(whole);
        update(isa, factors, values, grad, first, second);
        // The tail is padded to a vector, so that it is computed like all others.
        let [mut w, mut g, mut m, mut v] = [[0f32; 16]; 4];
        w[..tail].copy_from_slice(values_tail);
        g[..tail].copy_from_slice(grad_tail);
        m[..tail].copy_from_slice(first_tail);
        v[..tail].copy_from_slice(second_tail);
        update(isa, factors, &mut w[..I::LANES], &g[..I::LANES], &mut m[..I::LANES], &mut v[..I::LANES]);
        values_tail.copy_from_slice(&w[..tail]);
        first_tail.copy_from_slice(&m[..tail]);
        second_tail.copy_from_slice(&v[..tail]);
    }
}

/// With bias corrections of each element: `1 − β₁ⁿ` and `1 − β₂ⁿ` after its n-th step, as averages of 1.
struct OwnAdam<'a> {
    factors: Factors,
    values: &'a mut [f32],
    grad: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    corrections: [&'a mut [f32]; 2],
}

impl Kernel for OwnAdam<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { factors: f, values, grad, first, second, corrections: [c1, c2] } = self;
        for i in 0..values.len().min(grad.len()).min(first.len()).min(second.len()).min(c1.len()).min(c2.len()) {
            let g = f.decay.mul_add(values[i], grad[i]);
            let m = f.beta1.mul_add(first[i], f.one_minus_beta1 * g);
            let v = f.beta2.mul_add(second[i], f.one_minus_beta2 * g * g);
            let (n1, n2) = (f.beta1.mul_add(c1[i], f.one_minus_beta1), f.beta2.mul_add(c2[i], f.one_minus_beta2));
            (first[i], second[i], c1[i], c2[i]) = (m, v, n1, n2);
            let direction = (m / n1) / ((v / n2).sqrt() + f.epsilon);
            values[i] = f.minus_rate.mul_add(direction, f.shrink * values[i]);
        }
    }
}

#[inline(always)]
fn update<I: Isa>(isa: I, f: Factors, values: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32]) {
    let (beta1, one_minus_beta1) = (isa.splat(f.beta1), isa.splat(f.one_minus_beta1));
    let (beta2, one_minus_beta2) = (isa.splat(f.beta2), isa.splat(f.one_minus_beta2));
    let (decay, shrink, rate) = (isa.splat(f.decay), isa.splat(f.shrink), isa.splat(f.rate));
    let (root, epsilon) = (isa.splat(f.root), isa.splat(f.epsilon));
    let parts = values.chunks_exact_mut(I::LANES).zip(grad.chunks_exact(I::LANES));
    let moments = first.chunks_exact_mut(I::LANES).zip(second.chunks_exact_mut(I::LANES));
    for ((w_at, g_at), (m_at, v_at)) in parts.zip(moments) {
        // SAFETY: each part is LANES long.
        unsafe {
            let w = isa.load(w_at.as_ptr());
            let g = isa.mul_add(decay, w, isa.load(g_at.as_ptr()));
            let m = isa.mul_add(beta1, isa.load(m_at.as_ptr()), isa.mul(one_minus_beta1, g));
            let v = isa.mul_add(beta2, isa.load(v_at.as_ptr()), isa.mul(isa.mul(one_minus_beta2, g), g));
            let denominator = isa.mul_add(isa.sqrt(v), root, epsilon);
            let w = isa.mul_add(rate, isa.div(m, denominator), isa.mul(shrink, w));
            isa.store(m_at.as_mut_ptr(), m);
            isa.store(v_at.as_mut_ptr(), v);
            isa.store(w_at.as_mut_ptr(), w);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use crate::cpu::Buffer;
    use crate::testing::neural::{self, ADAM};
    use crate::{AdamStep, Optimizer};

    proptest! {
        #[test]
        fn agrees_with_the_reference(len in 0usize..70, steps in 1u64..5, decoupled: bool, own: bool) {
            for cpu in BACKENDS.iter() {
                neural::adam(cpu, len, steps, decoupled, own);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let (w, g) = (normals("w", 300_001), normals("g", 300_001));
        same_for_all_threads(|cpu| {
            let (mut w, mut m, mut v) = (buffer(&w), buffer(&g), Buffer::zeros(300_001));
            cpu.adam(AdamStep { step: 3, ..ADAM }, &mut w, &buffer(&g), [&mut m, &mut v], None).unwrap();
            [&w[..], &m[..], &v[..]].concat()
        });
    }
}
