//! What the tests of all backends share: operands into strips and results out of them, and their comparison with the
//! reference.

pub mod bsr;
#[cfg(feature = "conv")]
pub mod conv;
pub mod growth;
#[cfg(feature = "nn")]
pub mod images;
pub mod linear;
#[cfg(feature = "nn")]
pub mod lists;
#[cfg(feature = "nn")]
pub mod neural;
#[cfg(feature = "nn")]
pub mod precision;
#[cfg(feature = "nn")]
pub mod recurrent;
pub mod refusals;
#[cfg(feature = "nn")]
pub mod sequence;

use crate::reference::Exact;
use crate::{MatrixMut, MatrixRef, Storage, StripLayout, Strips};

/// A buffer of these elements.
pub fn buffer<B: Storage>(backend: &B, data: &[f32]) -> B::Buffer {
    let mut buffer = backend.zeros(data.len()).unwrap();
    backend.upload(data, &mut buffer).unwrap();
    buffer
}

/// A buffer of `len` NaN.
pub fn poison<B: Storage>(backend: &B, len: usize) -> B::Buffer {
    let mut buffer = backend.zeros(len).unwrap();
    backend.fill(f32::NAN, &mut buffer).unwrap();
    buffer
}

/// The elements of a buffer.
pub fn host<B: Storage>(backend: &B, buffer: &B::Buffer) -> Vec<f32> {
    let mut host = vec![0.0; backend.len(buffer)];
    backend.download(buffer, &mut host).unwrap();
    host
}

/// Row-major `data`, `[feature][lane]`, in strips.
pub fn strips<B: Storage>(backend: &B, layout: StripLayout, data: &[f32]) -> Strips<B> {
    let mut packed = vec![0.0; layout.len()];
    let view = MatrixRef::new(data, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.pack(view, &mut packed).unwrap();
    Strips { layout, data: buffer(backend, &packed) }
}

/// An output that holds NaN everywhere.
pub fn poisoned<B: Storage>(backend: &B, layout: StripLayout) -> Strips<B> {
    Strips { layout, data: poison(backend, layout.len()) }
}

/// Lanes of `strips` row-major, after a check that padding lanes are zero.
pub fn read<B: Storage>(backend: &B, strips: &Strips<B>) -> Vec<f32> {
    let layout = strips.layout;
    let held = host(backend, &strips.data);
    for feature in 0..layout.features() {
        for lane in layout.lanes()..layout.strips() * layout.strip() {
            assert_eq!(held[layout.index(feature, lane)], 0.0, "padding lane {lane} of feature {feature}");
        }
    }
    let mut data = vec![0.0f32; layout.features() * layout.lanes()];
    let view = MatrixMut::new(&mut data, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.unpack(&held, view).unwrap();
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
