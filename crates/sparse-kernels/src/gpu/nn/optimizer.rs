//! Updates of parameters: one pass over values, gradient and moments.

use super::super::elementwise::{GROUP, QUAD};
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::{Buffer, Gpu, shaders, windows};
use super::sums::slices;
use crate::BackendError;
use crate::backend::{AdamStep, SgdStep};

static SGD: Kernel = Kernel::new("sgd", shaders::SGD, &[Read, Write, Write]);
static SGD_PLAIN: Kernel = Kernel::new("sgd_plain", shaders::SGD, &[Read, Write]).called("sgd");
static ADAM: Kernel = Kernel::new("adam", shaders::ADAM, &[Read, Write, Write, Write]);
static ADAM_OWN: Kernel = Kernel::new("adam_own", shaders::ADAM_OWN, &[Read, Write, Write, Write, Write, Write]);
static SQUARES: Kernel = Kernel::new("squares", shaders::CLIP, &[Read, Write]);
static CLIP: Kernel = Kernel::new("clip", shaders::CLIP, &[Read, Write]);

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

pub(super) fn adam(
    gpu: &Gpu,
    step: AdamStep,
    values: &Buffer,
    grad: &Buffer,
    moments: [&Buffer; 2],
    corrections: Option<[&Buffer; 2]>,
) -> Result<(), BackendError> {
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let learning_rate = f64::from(step.learning_rate);
    let shrink = if step.decoupled { 1.0 - learning_rate * f64::from(step.weight_decay) } else { 1.0 };
    let decay = if step.decoupled { 0.0 } else { step.weight_decay };
    let factors = [step.beta1, (1.0 - beta1) as f32, step.beta2, (1.0 - beta2) as f32, decay, shrink as f32];
    let [first, second] = moments;
    match corrections {
        None => {
            let of_step = [(-learning_rate / correction(beta1)) as f32, (1.0 / correction(beta2).sqrt()) as f32];
            let factors = [&factors[..], &of_step, &[step.epsilon]].concat();
            update(gpu, &ADAM, &bits(&factors), &[grad, values, first, second])
        }
        Some([first_correction, second_correction]) => {
            let factors = [&factors[..], &[-step.learning_rate, step.epsilon]].concat();
            update(gpu, &ADAM_OWN, &bits(&factors), &[grad, values, first, second, first_correction, second_correction])
        }
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Quads of a slice of a sum of squares at least: a workgroup goes round four times.
const SLICE_QUADS: usize = 4 * GROUP;

pub(super) fn add_squares(gpu: &Gpu, values: &Buffer, sum: &Buffer) -> Result<(), BackendError> {
    let windows: Vec<_> = windows::flat(values.len(), gpu.window_elements()).collect();
    let slices = slices(windows, 1, QUAD * SLICE_QUADS, 1);
    gpu.sum_in_slices(sum, &slices, true, |sums, accumulate, _| {
        for slice in &slices {
            let (start, len) = (slice.strips.start, slice.strips.len());
            let quads = slice.quads / QUAD;
            let params = [0, 0, len as u32, quads as u32, slice.first as u32, u32::from(accumulate)];
            gpu.launch(&Launch {
                kernel: &SQUARES,
                constants: &[],
                params: &params,
                operands: &[values.window(start, len), gpu.visible("sums", sums)?],
                workgroups: slice.count,
                work: Work { bytes: 4 * len as u64, operations: 2 * len as u64 },
            })?;
        }
        Ok(())
    })
}

pub(super) fn clip(gpu: &Gpu, norm_squared: &Buffer, largest: f32, values: &Buffer) -> Result<(), BackendError> {
    for part in windows::flat(values.len(), gpu.window_elements()) {
        let quads = part.len().div_ceil(QUAD);
        gpu.launch(&Launch {
            kernel: &CLIP,
            constants: &[],
            params: &[quads as u32, largest.to_bits(), 0, 0, 0, 0],
            operands: &[norm_squared.first(1), values.window(part.start, part.len())],
            workgroups: quads.div_ceil(GROUP),
            work: Work::words(2 * part.len()),
        })?;
    }
    Ok(())
}
