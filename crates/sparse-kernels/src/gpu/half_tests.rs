//! Activations in 16 bits: conversion to the bit, products against the reference.

use half::{bf16, f16};
use proptest::prelude::*;

use super::half::{HalfStrips, HalfType};
use super::testing::{gpu, gpu_with_limit};
use super::{Gpu, Indices};
use crate::testing::linear::{Case, case};
use crate::testing::{check, host, poison, read};
use crate::{Element, Op, PlanOptions, SparseMatrix, StripLayout, Strips, reference};

const TYPES: [HalfType; 2] = [HalfType::F16, HalfType::Bf16];

fn rounded<T: Element>(values: &[f32]) -> Vec<f32> {
    let (mut narrow, mut wide) = (vec![T::default(); values.len()], vec![0.0; values.len()]);
    T::from_f32(values, &mut narrow);
    T::to_f32(&narrow, &mut wide);
    wide
}

/// What is left of numbers stored so.
fn stored_as(ty: HalfType, values: &[f32]) -> Vec<f32> {
    match ty {
        HalfType::F16 => rounded::<f16>(values),
        HalfType::Bf16 => rounded::<bf16>(values),
    }
}

fn bits(ty: HalfType, value: f32) -> u16 {
    match ty {
        HalfType::F16 => f16::from_f32(value).to_bits(),
        HalfType::Bf16 => bf16::from_f32(value).to_bits(),
    }
}

fn halves(gpu: &Gpu, ty: HalfType, strips: &Strips<Gpu>) -> HalfStrips {
    let mut to = gpu.half_strips(strips.layout, ty).unwrap();
    gpu.halve(strips, &mut to).unwrap();
    to
}

/// Both products and the sampled one, of operands that were rounded before.
fn verify(gpu: &Gpu, case: &Case, ty: HalfType) {
    let (m, k) = (case.pattern.nrows(), case.pattern.ncols());
    let case = Case { x: stored_as(ty, &case.x), dy: stored_as(ty, &case.dy), ..case.clone() };
    let options = PlanOptions { strip: case.strip, transpose: true };
    let w = SparseMatrix::new(gpu, case.pattern.clone(), &case.values, options).unwrap();
    let x = halves(gpu, ty, &case.strips(gpu, &case.x, k));
    let dy = halves(gpu, ty, &case.strips(gpu, &case.dy, m));
    let (mut y, mut dx) = (case.poisoned(gpu, m), case.poisoned(gpu, k));
    gpu.spmm_half(Op::NoTranspose, &w, &x, &mut y).unwrap();
    gpu.spmm_half(Op::Transpose, &w, &dy, &mut dx).unwrap();
    let mut dw = poison(gpu, case.pattern.nnz());
    gpu.sddmm_half(&w.plan, &dy, &x, &mut dw, false).unwrap();
    let name = |op| format!("{op} of {ty:?}");
    let exact = reference::spmm(&case.pattern, &case.values, &case.x, case.lanes);
    check(&name("spmm"), case.exact, &read(gpu, &y), &exact);
    let exact = reference::spmm_transposed(&case.pattern, &case.values, &case.dy, case.lanes);
    check(&name("spmm_t"), case.exact, &read(gpu, &dx), &exact);
    let exact = reference::sddmm(&case.pattern, &case.dy, &case.x, case.lanes);
    check(&name("sddmm"), case.exact, &host(gpu, &dw), &exact);
    if case.exact {
        gpu.sddmm_half(&w.plan, &dy, &x, &mut dw, true).unwrap();
        let twice: Vec<f32> = exact.iter().map(|e| 2.0 * e.value as f32).collect();
        assert_eq!(host(gpu, &dw), twice, "accumulated");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn products_agree_with_the_reference(
        nrows in 0usize..80, ncols in 0usize..80, lanes in 0usize..140, strip in prop::sample::select(vec![16, 32, 64]),
        density in 0.0f32..1.0, shape in 0u8..6, seed in 0u64..1_000_000, exact: bool, ty in prop::sample::select(TYPES.to_vec())
    ) {
        if let Some(gpu) = gpu() {
            verify(gpu, &case([nrows, ncols, lanes], strip, (density * density, shape), seed, exact), ty);
        }
    }
}

#[test]
fn edges_and_windows() {
    let Some(gpu) = gpu() else { return };
    let Some(small) = gpu_with_limit(16 << 10) else { return };
    for ty in TYPES {
        for sizes in [[0, 5, 5], [5, 0, 5], [5, 5, 0], [1, 1, 1], [70, 1, 31], [3, 9, 15], [3, 9, 16], [3, 9, 17]] {
            verify(gpu, &case(sizes, 32, (0.5, 5), 1, true), ty);
        }
        verify(gpu, &case([700, 900, 130], 32, (0.25, 5), 3, true), ty);
        verify(&small, &case([60, 50, 300], 32, (0.9, 5), 5, true), ty);
        verify(&small, &case([100, 36, 70], 16, (0.6, 5), 6, false), ty);
    }
}

/// Bit by bit as on the processor: ties, subnormal numbers, the largest, what is beyond them, and what is no number.
#[test]
fn conversion_rounds_as_the_processor_does() {
    let Some(gpu) = gpu() else { return };
    let special =
        [0.0, 1.0, 65504.0, 65519.99, 65520.0, 1e6, f32::MAX, f32::INFINITY, 6e-8, 3e-8, 2.9e-8, 6.1e-5, 6.104e-5];
    let ties = (0..64u32).flat_map(|i| [1.0 + i as f32 / 2048.0, 1.0 + i as f32 / 256.0, i as f32 * 2.0f32.powi(-25)]);
    let random = (0..4000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761) & 0x7fff_ffff));
    // Drivers may take subnormal f32 numbers for zeros.
    let usable = |v: &f32| *v == 0.0 || v.is_nan() || v.abs() >= f32::MIN_POSITIVE;
    let values: Vec<f32> = special.into_iter().chain(ties).chain(random).filter(usable).flat_map(|v| [v, -v]).collect();
    let layout = StripLayout::new(values.len(), 1, 16).unwrap();
    let strips = crate::testing::strips(gpu, layout, &values);
    for ty in TYPES {
        let converted = halves(gpu, ty, &strips);
        let mut words = vec![0u32; layout.len() / 2];
        let from: &Indices = converted.words();
        gpu.read_all(&[from], &mut [&mut words]).unwrap();
        for (i, &value) in values.iter().enumerate() {
            let at = layout.index(0, i);
            let (got, expected) = ((words[at / 2] >> (16 * (at % 2))) as u16, bits(ty, value));
            let is_nan = |bits| match ty {
                HalfType::F16 => f16::from_bits(bits).is_nan(),
                HalfType::Bf16 => bf16::from_bits(bits).is_nan(),
            };
            assert!(
                got == expected || value.is_nan() && is_nan(got),
                "{value:e} as {ty:?}: {got:04x}, not {expected:04x}"
            );
        }
    }
}

#[test]
fn shapes_are_checked() {
    let Some(gpu) = gpu() else { return };
    let of = |lanes, features| StripLayout::new(lanes, features, 16).unwrap();
    let mut to = gpu.half_strips(of(20, 3), HalfType::F16).unwrap();
    assert_eq!((to.layout(), to.stored_as()), (of(20, 3), HalfType::F16));
    let from = Strips::zeros(gpu, of(20, 4)).unwrap();
    let message = gpu.halve(&from, &mut to).unwrap_err().to_string();
    assert!(message.contains("number of features") && message.contains('4'), "{message}");
    let case = case([5, 4, 20], 16, (0.5, 5), 1, true);
    let options = PlanOptions { strip: 16, transpose: false };
    let w = SparseMatrix::new(gpu, case.pattern.clone(), &case.values, options).unwrap();
    let mut y = case.poisoned(gpu, 5);
    let message = gpu.spmm_half(Op::NoTranspose, &w, &to, &mut y).unwrap_err().to_string();
    assert!(message.contains("rows of X"), "{message}");
}
