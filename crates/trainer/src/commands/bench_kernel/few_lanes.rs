//! Products with few lanes, which run row-major on the processor.

use std::cell::RefCell;

use autograd::Geometry;
use sparse_kernels::cpu::{Cpu, Workspace};
use sparse_kernels::{MatrixMut, MatrixRef, Op, SparseMatrix};

use super::super::machine::MachineArgs;
use super::case::{CHECKED, Case, LEAST_CALLS, Measurement, Times};
use super::check;
use super::operands::Operands;
use super::subject::{Pass, Subject};
use crate::bench::alternate;

/// As [`super::case::measure`]; the dense side is the faster of the kernel for few lanes and crate `gemm`. Weights do not
/// change between the calls of an inference, so the transpose's copy of them is not refreshed.
pub(super) fn measure(cpu: &Cpu, subject: &Subject, lanes: usize, machine: &MachineArgs) -> crate::Result<Measurement> {
    let case = Case::new(cpu, subject, machine)?;
    let Geometry::Linear { options, .. } = case.geometry else { unreachable!("a convolution has no lanes") };
    let (numbers, pattern) = (&case.numbers, subject.stored.blocks.blocks().clone());
    let weight = SparseMatrix::new(cpu, pattern, &numbers.values, options)?;
    let (op, len) = match subject.pass {
        Pass::InputGrad => (Op::Transpose, numbers.x.len()),
        _ => (Op::NoTranspose, numbers.dy.len()),
    };
    let operands = Operands::new(numbers, [|data: &[f32]| Ok(data.to_vec()); 2])?;
    let next = || {
        let (x, dy) = operands.next();
        let x = if op == Op::Transpose { dy } else { x };
        MatrixRef::new(x, x.len() / lanes, lanes, lanes).expect("a row for each feature")
    };
    let (mut y, mut workspace) = (vec![f32::NAN; len], Workspace::default());
    let mut product = |y: &mut [f32]| {
        cpu.spmm_row_major(op, &weight, next(), MatrixMut::new(y, len / lanes, lanes, lanes)?, &mut workspace)
    };
    product(&mut y)?;
    case.outcome(check::error(subject, numbers, &y)?, || {
        let (mut y_dense, mut workspace) = (vec![0.0; len], Workspace::default());
        let dense = RefCell::new(case.dense()?);
        let mut gemv = || {
            let dense = dense.borrow();
            let y = MatrixMut::new(&mut y_dense, len / lanes, lanes, lanes).expect(CHECKED);
            cpu.gemm_row_major(op, dense.weight.values(), next(), y, &mut workspace).expect(CHECKED);
        };
        let mut gemm = || dense.borrow_mut().run(cpu).expect(CHECKED);
        let [few, many] = alternate(case.budget / 10, 3, &mut gemv, &mut gemm);
        let (source, dense): (_, &mut dyn FnMut()) =
            if few.time <= many.time { ("gemv", &mut gemv) } else { ("gemm", &mut gemm) };
        Ok(Times::new(alternate(case.budget, LEAST_CALLS, || product(&mut y).expect(CHECKED), dense), 1, source))
    })
}
