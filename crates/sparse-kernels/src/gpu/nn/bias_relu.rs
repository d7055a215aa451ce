//! Bias and ReLU in one pass, in place; backward masks the gradient and sums it per feature in one pass.

use super::super::elementwise::{GROUP, QUAD};
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::super::{Buffer, Gpu};
use super::sums::slices;
use crate::{BackendError, Strips};

static FORWARD: Kernel = Kernel::new("bias_relu", shaders::BIAS_RELU, &[Read, Write]);
static BACKWARD: Kernel = Kernel::new("bias_relu_grad", shaders::BIAS_RELU, &[Write, Read, Write]);
static LANE_SUMS: Kernel = Kernel::new("lane_sums", shaders::BIAS_RELU, &[Write, Read]);

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
    if relu { sums(gpu, &BACKWARD, &[y, grad], dbias, accumulate) } else { lane_sums(gpu, grad, dbias, accumulate) }
}

/// The sums of each feature's lanes.
pub(super) fn lane_sums(
    gpu: &Gpu,
    x: &Strips<Gpu>,
    sums_of_lanes: &Buffer,
    accumulate: bool,
) -> Result<(), BackendError> {
    sums(gpu, &LANE_SUMS, &[x], sums_of_lanes, accumulate)
}

/// Runs a kernel that sums the lanes of the last of some tensors of one layout.
fn sums(
    gpu: &Gpu,
    kernel: &'static Kernel,
    tensors: &[&Strips<Gpu>],
    sums: &Buffer,
    accumulate: bool,
) -> Result<(), BackendError> {
    let Some(layout) = tensors.first().map(|tensor| tensor.layout) else { return Ok(()) };
    let windows = gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch()])?;
    let (strip_quads, groups) = (layout.strip() / QUAD, layout.features().div_ceil(FEATURES));
    let slices = slices(windows, strip_quads, QUADS, groups);
    gpu.sum_in_slices(sums, &slices, accumulate, |sums, accumulate, all| {
        for slice in &slices {
            let quads = slice.strips.len() * strip_quads;
            let elements = slice.strips.len() * layout.strip_pitch();
            let mut operands = vec![gpu.visible("sums", sums)?];
            operands.extend(tensors.iter().map(|tensor| of_strips(tensor, &slice.strips)));
            gpu.launch(&Launch {
                kernel,
                constants: &[],
                params: &[
                    layout.features() as u32,
                    strip_quads as u32,
                    quads as u32,
                    0,
                    0,
                    all as u32,
                    slice.first as u32,
                    slice.quads as u32,
                    u32::from(accumulate),
                ],
                operands: &operands,
                workgroups: groups * slice.count,
                // A gradient is read and written.
                work: Work::words((2 * tensors.len() - 1) * elements),
            })?;
        }
        Ok(())
    })
}
