//! Products whose activations are stored in 16 bits, on a GPU.

use autograd::Geometry;
use sparse_kernels::gpu::{Gpu, HalfStrips, HalfType};
use sparse_kernels::{Activations, BackendError, Element, Op, SparseMatrix};

use super::super::machine::MachineArgs;
use super::case::{Case, Measurement, Output};
use super::subject::Subject;

/// As [`super::case::measure`], with X and dY stored as `T`.
pub(super) fn measure<T: Element>(
    gpu: &Gpu,
    subject: &Subject,
    machine: &MachineArgs,
    stored_as: HalfType,
) -> crate::Result<Measurement> {
    let mut case = Case::new(gpu, subject, machine)?;
    let Geometry::Linear { options, .. } = case.geometry else { unreachable!("convolutions are refused") };
    let operands = case.operands.map(|activations| {
        let Activations::Strips(strips) = activations else { unreachable!("convolutions are refused") };
        let mut to = gpu.half_strips(strips.layout, stored_as)?;
        gpu.halve(strips, &mut to)?;
        Ok(to)
    })?;
    for data in [&mut case.numbers.x, &mut case.numbers.dy] {
        // What the products see.
        let mut narrow = vec![T::default(); data.len()];
        T::from_f32(data, &mut narrow);
        T::to_f32(&narrow, data);
    }
    let pattern = subject.stored.blocks.blocks().clone();
    let mut weight = SparseMatrix::new(gpu, pattern, &case.numbers.values, options)?;
    let mut out = case.output()?;
    run(gpu, &mut weight, operands.next(), &mut out)?;
    case.outcome(case.error(&out)?, || case.time(|| run(gpu, &mut weight, operands.next(), &mut out)))
}

/// The product, as a training step pays it.
fn run(
    gpu: &Gpu,
    weight: &mut SparseMatrix<Gpu>,
    (x, dy): (&HalfStrips, &HalfStrips),
    out: &mut Output<Gpu>,
) -> Result<(), BackendError> {
    match out {
        Output::Y(Activations::Strips(y)) => gpu.spmm_half(Op::NoTranspose, weight, x, y),
        Output::Dx(Activations::Strips(dx)) => {
            weight.refresh(gpu)?;
            gpu.spmm_half(Op::Transpose, weight, dy, dx)
        }
        Output::Dw(dw) => gpu.sddmm_half(&weight.plan, dy, x, dw, false),
        Output::Y(_) | Output::Dx(_) | Output::Grown(..) => unreachable!("convolutions and growth are refused"),
    }
}
