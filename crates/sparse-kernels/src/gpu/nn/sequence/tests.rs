//! Operations of sequence models against the reference.

use proptest::prelude::*;

use super::super::super::testing::{gpu, gpu_with_limit};
use crate::StripLayout;
use crate::testing::{neural, sequence};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn embed(
        layout in neural::layouts(), more in 0usize..40, symbols in 1usize..9, length in 0usize..12, accumulate: bool,
        seed in 0u64..100
    ) {
        if let Some(gpu) = gpu() {
            let layout = layout.with_features(1 + layout.features() + more);
            sequence::embed(gpu, layout, symbols, length, accumulate, seed);
        }
    }
}

#[test]
fn wrong_input_is_refused() {
    if let Some(gpu) = gpu() {
        sequence::wrong_shapes_are_refused(gpu);
        sequence::tokens_that_are_no_symbols(gpu);
    }
}

#[test]
fn large_shapes() {
    let Some(gpu) = gpu() else { return };
    sequence::embed(gpu, StripLayout::sparse(1003, 300), 100, 77, false, 1);
    sequence::embed(gpu, StripLayout::single(1003, 300), 3, 0, true, 1);
    // More rows than a dimension of the grid has workgroups.
    sequence::embed(gpu, StripLayout::sparse(40, 1), 70_000, 5, false, 1);
}

#[test]
fn buffers_in_windows() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    for layout in [StripLayout::sparse(300, 21), StripLayout::new(900, 5, 16).unwrap(), StripLayout::single(200, 3)] {
        sequence::embed(&gpu, layout, 9, 13, false, 1);
        sequence::embed(&gpu, layout, 9, 13, true, 2);
    }
}
