//! Updates of parameters: one pass over values, gradient and moments.

use super::super::kernel::{Kernel, Read, Write};
use super::super::shaders;
use super::super::{Buffer, Gpu};
use crate::BackendError;
use crate::backend::{AdamStep, SgdStep};

static SGD: Kernel = Kernel::new("sgd", shaders::SGD, &[Read, Write, Write]);
static SGD_PLAIN: Kernel = Kernel::new("sgd_plain", shaders::SGD, &[Read, Write]).called("sgd");
static ADAM: Kernel = Kernel::new("adam", shaders::ADAM, &[Read, Write, Write, Write]);

/// Updates all elements; the gradient is read, the others are read and written.
fn update(gpu: &Gpu, kernel: &'static Kernel, factors: &[u32], buffers: &[&Buffer]) -> Result<(), BackendError> {
    gpu.each_quad(kernel, factors, buffers, [2 * buffers.len() - 1, 4 * buffers.len()])
}

pub(super) fn sgd(
    gpu: &Gpu,
    step: SgdStep,
    values: &Buffer,
    grad: &Buffer,
    velocity: Option<&Buffer>,
) -> Result<(), BackendError> {
    let factors = [
        u32::from(step.nesterov),
        (-step.learning_rate).to_bits(),
        step.momentum.to_bits(),
        step.weight_decay.to_bits(),
    ];
    match velocity {
        Some(velocity) => update(gpu, &SGD, &factors, &[grad, values, velocity]),
        None => update(gpu, &SGD_PLAIN, &factors, &[grad, values]),
    }
}

pub(super) fn adam(gpu: &Gpu, step: AdamStep, [values, grad, first, second]: [&Buffer; 4]) -> Result<(), BackendError> {
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let learning_rate = f64::from(step.learning_rate);
    let shrink = if step.decoupled { 1.0 - learning_rate * f64::from(step.weight_decay) } else { 1.0 };
    let factors = [
        step.beta1,
        (1.0 - beta1) as f32,
        step.beta2,
        (1.0 - beta2) as f32,
        if step.decoupled { 0.0 } else { step.weight_decay },
        shrink as f32,
        (-learning_rate / correction(beta1)) as f32,
        (1.0 / correction(beta2).sqrt()) as f32,
        step.epsilon,
    ];
    update(gpu, &ADAM, &factors.map(f32::to_bits), &[grad, values, first, second])
}
