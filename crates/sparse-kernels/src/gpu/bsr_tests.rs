//! Block-sparse products and growth of blocks against the reference.

use proptest::prelude::*;

use super::*;
use crate::gpu::testing::{gpu, gpu_with_limit};
use crate::random::Key;
use crate::testing::bsr::{self, Case, case};

fn verify(gpu: &Gpu, case: &Case) {
    let results = case.verify("gpu", gpu, &case.expected());
    if !case.exact {
        let bits = |r: &[Vec<f32>; 4]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&case.run(gpu)), bits(&results), "not the same twice");
    }
}

/// A block's rows or columns.
fn sizes() -> impl Strategy<Value = usize> {
    prop::sample::select(BsrPattern::BLOCK_SIZES.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn products_agree_with_the_reference(
        nrows in 0usize..80, ncols in 0usize..80, lanes in 0usize..140, r in sizes(), c in sizes(),
        strip in prop::sample::select(vec![16, 32, 48, 64]), density in 0.0f32..1.0, shape in 0u8..6,
        seed in 0u64..1_000_000, exact: bool
    ) {
        if let Some(gpu) = gpu() {
            verify(gpu, &case([nrows, ncols, lanes], [r, c], strip, (density * density, shape), seed, exact));
        }
    }

    // Whole numbers, so that norms tie often and are equal to the reference's exactly.
    #[test]
    fn growth_finds_the_largest_blocks(
        nrows in 1usize..140, ncols in 1usize..140, lanes in 0usize..70, r in sizes(), c in sizes(),
        strip in prop::sample::select(vec![16, 32, 64]), density in 0.0f32..1.0, fraction in 0.0f64..1.2,
        seed in 0u64..1_000_000, exact: bool
    ) {
        let Some(gpu) = gpu() else { return Ok(()) };
        let case = case([nrows, ncols, lanes], [r, c], strip, (density * density, 5), seed, exact);
        let blocks = case.pattern.blocks().nrows() * case.pattern.blocks().ncols();
        let count = (fraction * fraction * blocks as f64) as usize;
        case.verify_growth("gpu", gpu, count, Key::new(seed).with_name("ties"));
    }
}

/// Every block size on a ragged matrix, exactly and not.
fn verify_block_sizes(i: usize) {
    let Some(gpu) = gpu() else { return };
    for (j, c) in BsrPattern::BLOCK_SIZES.into_iter().enumerate() {
        let (lanes, strip) = ([1, 8, 17, 33, 65, 129, 31][(5 * i + j) % 7], [16, 32, 64][j % 3]);
        let block_size = [BsrPattern::BLOCK_SIZES[i], c];
        verify(gpu, &case([37, 51, lanes], block_size, strip, (0.4, 5), i as u64, (i + j).is_multiple_of(2)));
    }
}

#[test]
fn blocks_of_1_row() {
    verify_block_sizes(0);
}

#[test]
fn blocks_of_2_rows() {
    verify_block_sizes(1);
}

#[test]
fn blocks_of_4_rows() {
    verify_block_sizes(2);
}

#[test]
fn blocks_of_8_rows() {
    verify_block_sizes(3);
}

#[test]
fn blocks_of_16_rows() {
    verify_block_sizes(4);
}

#[test]
fn edges() {
    let Some(gpu) = gpu() else { return };
    for (nrows, ncols, lanes) in [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (16, 16, 32)] {
        for block_size in [[4, 4], [16, 1], [1, 16]] {
            for density in [0.0, 1.0] {
                verify(gpu, &case([nrows, ncols, lanes], block_size, 32, (density, 5), 1, true));
            }
        }
    }
}

/// Enough for eight rows an invocation, and for more workgroups than a dimension of the grid has.
#[test]
fn many_blocks() {
    let Some(gpu) = gpu() else { return };
    verify(gpu, &case([1600, 33, 1400], [8, 8], 64, (0.1, 5), 4, true));
    verify(gpu, &case([70_001, 3, 5], [1, 2], 16, (0.3, 5), 3, true));
}

/// Values, indices and activations larger than what a kernel may see; bands of one row of blocks.
#[test]
fn windows_and_bands() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    for (sizes, block_size, strip) in
        [([60, 56, 300], [4, 4], 32), ([120, 128, 40], [16, 16], 16), ([96, 64, 70], [1, 2], 32)]
    {
        let case = case(sizes, block_size, strip, (0.9, 5), 5, true);
        verify(&gpu, &case);
    }
    for (sizes, block_size) in [([120, 128, 20], [4, 4]), ([112, 128, 5], [2, 1]), ([100, 68, 3], [16, 8])] {
        let case = case(sizes, block_size, 32, (0.2, 5), 5, true);
        let blocks = case.pattern.blocks().nrows() * case.pattern.blocks().ncols();
        for count in [3, blocks / 3, blocks] {
            case.verify_growth("gpu in bands", &gpu, count, Key::new(1));
        }
    }
}

/// Blocks of one entry are what unstructured growth finds, with the same scores; numbers that f32 cannot square; uses that
/// add up; and what is refused.
#[test]
fn growth_and_refusals() {
    let Some(gpu) = gpu() else { return };
    bsr::growth_of_single_entries_is_growth(gpu);
    bsr::growth_with_numbers_out_of_the_ordinary(gpu);
    bsr::growth_sums_over_uses(gpu);
    bsr::impossible_growth_is_refused_by_name(gpu);
    bsr::wrong_shapes_are_refused_by_name(gpu);
}
