//! Bias and ReLU in one pass, in place; backward masks the gradient and sums it per feature in one pass.

use super::super::elementwise::{GROUP, QUAD};
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::super::{Buffer, Gpu};
use super::sums::slices;
use crate::{BackendError, Strips};

static FORWARD: Kernel = Kernel::new("bias_relu", shaders::BIAS_RELU, &[Read, Write]);
static BACKWARD: Kernel = Kernel::new("bias_relu_grad", shaders::BIAS_RELU, &[Read, Write, Write]);

/// Features of a workgroup, and quads that it passes over at once of each.
const FEATURES: usize = 8;
const QUADS: usize = 8;

pub(super) fn forward(gpu: &Gpu, bias: &Buffer, relu: bool, x: &Strips<Gpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    let bias = gpu.visible("bias", bias)?;
    for strips in gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch()])? {
        let quads = strips.len() * layout.strip_pitch() / QUAD;
        gpu.launch(&Launch {
            kernel: &FORWARD,
            constants: &[],
            params: &[
                layout.features() as u32,
                (layout.strip() / QUAD) as u32,
                quads as u32,
                lanes_within(layout, &strips) as u32,
                u32::from(relu),
            ],
            operands: &[bias, of_strips(x, &strips)],
            workgroups: quads.div_ceil(GROUP),
            work: Work::words(2 * QUAD * quads),
        })?;
    }
    Ok(())
}

pub(super) fn backward(
    gpu: &Gpu,
    y: &Strips<Gpu>,
    relu: bool,
    grad: &Strips<Gpu>,
    dbias: &Buffer,
    accumulate: bool,
) -> Result<(), BackendError> {
    let layout = y.layout;
    let windows = gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch()])?;
    let (strip_quads, groups) = (layout.strip() / QUAD, layout.features().div_ceil(FEATURES));
    let slices = slices(windows, strip_quads, QUADS, groups);
    gpu.sum_in_slices(dbias, &slices, accumulate, |sums, accumulate, all| {
        for slice in &slices {
            let quads = slice.strips.len() * strip_quads;
            let elements = slice.strips.len() * layout.strip_pitch();
            gpu.launch(&Launch {
                kernel: &BACKWARD,
                constants: &[],
                params: &[
                    layout.features() as u32,
                    strip_quads as u32,
                    quads as u32,
                    0,
                    u32::from(relu),
                    all as u32,
                    slice.first as u32,
                    slice.quads as u32,
                    u32::from(accumulate),
                ],
                operands: &[of_strips(y, &slice.strips), of_strips(grad, &slice.strips), gpu.visible("sums", sums)?],
                workgroups: groups * slice.count,
                work: Work::words(if relu { 3 } else { 1 } * elements),
            })?;
        }
        Ok(())
    })
}
