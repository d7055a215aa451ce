//! What the tests of the products share: operands into strips and results out of them, and their comparison with the
//! reference.

use super::Cpu;
use crate::reference::Exact;
use crate::{MatrixMut, MatrixRef, Storage, StripLayout, Strips};

/// Row-major `data`, `[feature][lane]`, in strips.
pub fn strips(cpu: &Cpu, layout: StripLayout, data: &[f32]) -> Strips<Cpu> {
    let mut strips = Strips::zeros(cpu, layout).unwrap();
    let view = MatrixRef::new(data, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.pack(view, &mut strips.data).unwrap();
    strips
}

/// An output that holds NaN everywhere.
pub fn poisoned(cpu: &Cpu, layout: StripLayout) -> Strips<Cpu> {
    let mut strips = Strips::zeros(cpu, layout).unwrap();
    cpu.fill(f32::NAN, &mut strips.data).unwrap();
    strips
}

/// Lanes of `strips` row-major, after a check that padding lanes are zero.
pub fn read(strips: &Strips<Cpu>) -> Vec<f32> {
    let layout = strips.layout;
    for feature in 0..layout.features() {
        for lane in layout.lanes()..layout.strips() * layout.strip() {
            assert_eq!(strips.data[layout.index(feature, lane)], 0.0, "padding lane {lane} of feature {feature}");
        }
    }
    let mut data = vec![0.0f32; layout.features() * layout.lanes()];
    let view = MatrixMut::new(&mut data, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.unpack(&strips.data, view).unwrap();
    data
}

/// `is_exact`: sums of small whole numbers, which every order of summation makes the same.
#[track_caller]
pub fn check(what: &str, is_exact: bool, got: &[f32], expected: &[Exact]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        if is_exact {
            assert_eq!(f64::from(got), expected.value, "{what} entry {i}");
        } else {
            assert!(expected.error(got) <= 1.0, "{what} entry {i}: {got} instead of {expected:?}");
        }
    }
}
