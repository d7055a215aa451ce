//! Operations of sequence models against the reference.

use proptest::prelude::*;

use super::super::super::testing::{gpu, gpu_with_limit};
use crate::testing::{neural, sequence};
use crate::{Attention, FeatureNorm, NormKind, StripLayout};

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

    #[test]
    fn feature_norm(
        layout in neural::layouts(), more in 0usize..40, is_rms: bool, accumulate: bool, seed in 0u32..100
    ) {
        if let Some(gpu) = gpu() {
            let layout = layout.with_features(1 + layout.features() + more);
            let kind = if is_rms { NormKind::Rms } else { NormKind::Layer };
            sequence::feature_norm(gpu, layout, FeatureNorm { kind, epsilon: 1e-5 }, accumulate, seed);
        }
    }

    #[test]
    fn gelu(layout in neural::layouts(), seed in 0u64..100) {
        if let Some(gpu) = gpu() {
            sequence::gelu(gpu, layout, seed);
        }
    }

    #[test]
    fn attention((layout, attention) in sequence::attentions(), seed in 0u32..100) {
        if let Some(gpu) = gpu() {
            sequence::attention(gpu, layout, attention, seed);
        }
    }
}

#[test]
fn wrong_input_is_refused() {
    if let Some(gpu) = gpu() {
        sequence::wrong_shapes_are_refused(gpu);
        sequence::tokens_that_are_no_symbols(gpu);
        sequence::large_means_do_not_cancel(gpu);
        sequence::attention_is_causal_and_stable(gpu);
    }
}

#[test]
fn large_shapes() {
    let Some(gpu) = gpu() else { return };
    sequence::embed(gpu, StripLayout::sparse(1003, 300), 100, 77, false, 1);
    sequence::embed(gpu, StripLayout::single(1003, 300), 3, 0, true, 1);
    let norm = FeatureNorm { kind: NormKind::Layer, epsilon: 1e-5 };
    sequence::feature_norm(gpu, StripLayout::sparse(3003, 37), norm, true, 1);
    sequence::gelu(gpu, StripLayout::sparse(3003, 300), 1);
    sequence::attention(gpu, StripLayout::sparse(400, 80), Attention { heads: 2, length: 200, rotary: Some(1e4) }, 1);
    // More rows than a dimension of the grid has workgroups.
    sequence::embed(gpu, StripLayout::sparse(40, 1), 70_000, 5, false, 1);
}

#[test]
fn buffers_in_windows() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    for layout in [StripLayout::sparse(300, 21), StripLayout::new(900, 5, 16).unwrap(), StripLayout::single(200, 3)] {
        sequence::embed(&gpu, layout, 9, 13, false, 1);
        sequence::embed(&gpu, layout, 9, 13, true, 2);
        sequence::feature_norm(&gpu, layout, FeatureNorm { kind: NormKind::Layer, epsilon: 1e-5 }, true, 1);
        sequence::gelu(&gpu, layout, 1);
    }
}
