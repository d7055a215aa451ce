//! Updates of parameters: one pass over values, gradient and moments.

use super::super::elementwise::GROUP;
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::{Buffer, Gpu, windows};
use super::quads::QUAD;
use crate::BackendError;
use crate::backend::{AdamStep, SgdStep};

static SGD: Kernel = Kernel::new("sgd", shaders::SGD, &[Read, Write, Write]);
static SGD_PLAIN: Kernel = Kernel::new("sgd_plain", shaders::SGD, &[Read, Write]).called("sgd");
static ADAM: Kernel = Kernel::new("adam", shaders::ADAM, &[Read, Write, Write, Write]);

impl Gpu {
    /// Launches an update of all elements; the gradient is read, the others are read and written.
    fn update(&self, kernel: &'static Kernel, factors: &[u32], buffers: &[&Buffer]) -> Result<(), BackendError> {
        let len = buffers.first().map_or(0, |buffer| buffer.len());
        for part in windows::flat(len, self.window_elements()) {
            let quads = part.len().div_ceil(QUAD);
            let operands: Vec<_> = buffers.iter().map(|buffer| buffer.window(part.start, part.len())).collect();
            self.launch(&Launch {
                kernel,
                constants: &[],
                params: &[&[quads as u32], factors].concat(),
                operands: &operands,
                workgroups: quads.div_ceil(GROUP),
                work: Work {
                    bytes: 4 * ((2 * buffers.len() - 1) * part.len()) as u64,
                    operations: 4 * (buffers.len() * part.len()) as u64,
                },
            })?;
        }
        Ok(())
    }
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
        Some(velocity) => gpu.update(&SGD, &factors, &[grad, values, velocity]),
        None => gpu.update(&SGD_PLAIN, &factors, &[grad, values]),
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
    gpu.update(&ADAM, &factors.map(f32::to_bits), &[grad, values, first, second])
}
