//! Operations on images against the reference.

use proptest::prelude::*;

use super::super::super::Gpu;
use super::super::super::testing::{gpu, gpu_with_limit};
use crate::testing::images::{self, Case, Normalization, cases, normalizations, windows};
use crate::{Activation, ImageLayout, PoolShape};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn bias_relu(case in cases(), relu: bool, accumulate: bool) {
        if let Some(gpu) = gpu() {
            images::bias_relu(gpu, &case, relu, accumulate);
        }
    }

    #[test]
    fn relu_and_sums(case in cases()) {
        if let Some(gpu) = gpu() {
            images::relu(gpu, &case);
            images::add(gpu, &case);
            images::copy_channels(gpu, &case, [1, 2]);
        }
    }

    #[test]
    fn dropout(case in cases(), rate in 0.0f32..0.99, seed: u64) {
        if let Some(gpu) = gpu() {
            images::dropout(gpu, &case, rate, seed, false);
        }
    }

    #[test]
    fn flatten(case in cases(), strip in 1usize..5) {
        if let Some(gpu) = gpu() {
            images::flatten(gpu, &case, 16 * strip);
        }
    }

    #[test]
    fn global_avg_pool(case in cases(), strip in 1usize..5) {
        if let Some(gpu) = gpu() {
            images::global_avg_pool(gpu, &case, 16 * strip, false);
        }
    }

    #[test]
    fn max_pool(case in cases(), window in windows(), ties: bool, accumulate: bool) {
        if let Some(gpu) = gpu() {
            images::max_pool(gpu, &case.enlarged(window), window, ties, accumulate);
        }
    }

    #[test]
    fn avg_pool(case in cases(), window in windows(), accumulate: bool) {
        if let Some(gpu) = gpu() {
            images::avg_pool(gpu, &case.enlarged(window), window, accumulate);
        }
    }

    #[test]
    fn batch_norm(case in normalizations()) {
        if let Some(gpu) = gpu() {
            case.verify(gpu);
        }
    }
}

fn overlapping() -> PoolShape {
    PoolShape::new([3, 3]).unwrap().with_stride([2, 1]).unwrap().with_padding([1, 1]).unwrap()
}

/// All operations; `strip` is that of strips.
fn everything(gpu: &Gpu, case: &Case, strip: usize) {
    images::bias_relu(gpu, case, true, true);
    images::bias_relu(gpu, case, false, false);
    images::relu(gpu, case);
    images::add(gpu, case);
    images::copy_channels(gpu, case, [2, 0]);
    images::dropout(gpu, case, 0.4, 3, false);
    images::flatten(gpu, case, strip);
    images::global_avg_pool(gpu, case, strip, false);
    images::max_pool(gpu, case, overlapping(), true, false);
    images::avg_pool(gpu, case, overlapping(), true);
    for (mean, activation, residual, addend) in [
        (100.0, Activation::None, true, true),
        (0.0, Activation::Relu, true, false),
        (0.0, Activation::Relu6, true, false),
        (0.0, Activation::Relu6, false, false),
        (1e4, Activation::None, false, false),
    ] {
        Normalization { case: *case, mean, activation, residual, addend }.verify(gpu);
    }
}

/// Several slices of a sum.
#[test]
fn large_images() {
    let Some(gpu) = gpu() else { return };
    for strip in ImageLayout::STRIPS {
        let case = Case { samples: 37, channels: 5, size: [13, 17], borders: [1, 0], strip, seed: 7 };
        everything(gpu, &case, 48);
    }
}

#[test]
fn buffers_in_windows() {
    let Some(gpu) = gpu_with_limit(64 << 10) else { return };
    for strip in ImageLayout::STRIPS {
        everything(&gpu, &Case { samples: 300, channels: 2, size: [3, 5], borders: [1, 2], strip, seed: 3 }, 32);
    }
}

#[test]
fn unusual_numbers() {
    if let Some(gpu) = gpu() {
        images::nan_is_not_hidden(gpu);
        images::nan_and_infinities(gpu);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    if let Some(gpu) = gpu() {
        images::wrong_shapes_are_refused(gpu);
        images::wrong_pools_are_refused(gpu);
        images::wrong_moments_are_refused(gpu);
    }
}
