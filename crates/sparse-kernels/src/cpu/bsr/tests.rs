//! Block-sparse products on every instruction set and several thread counts, against the reference.

use proptest::prelude::*;

use crate::cpu::{Cpu, IsaName};
use crate::random::Key;
use crate::testing::bsr::{self, Case, case};
use crate::{BlockSparseLinear, BsrPattern, Candidate, PlanOptions};

/// On all instruction sets; with more threads the bits are the same.
fn verify(case: &Case) {
    let expected = case.expected();
    for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
        let results = case.verify(isa.name(), &Cpu::new(1, Some(isa)).unwrap(), &expected);
        for threads in [2, 7] {
            let cpu = Cpu::new(threads, Some(isa)).unwrap();
            let bits = |r: &[Vec<f32>; 4]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&case.run(&cpu)), bits(&results), "{isa} with {threads} threads");
        }
    }
}

/// A block's rows or columns.
fn sizes() -> impl Strategy<Value = usize> {
    prop::sample::select(BsrPattern::BLOCK_SIZES.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn products_agree_with_the_reference(
        nrows in 0usize..80, ncols in 0usize..80, lanes in 0usize..140, r in sizes(), c in sizes(),
        strip in prop::sample::select(vec![16, 32, 64]), density in 0.0f32..1.0, shape in 0u8..6,
        seed in 0u64..1_000_000, exact: bool
    ) {
        verify(&case([nrows, ncols, lanes], [r, c], strip, (density * density, shape), seed, exact));
    }
}

/// Every block size on a ragged matrix, with lanes around the widths of vectors and strips.
#[test]
fn every_block_size() {
    for r in BsrPattern::BLOCK_SIZES {
        for c in BsrPattern::BLOCK_SIZES {
            for (i, lanes) in [0, 1, 7, 8, 9, 15, 17, 31, 33, 63, 65, 97, 127, 129, 200].into_iter().enumerate() {
                verify(&case([37, 51, lanes], [r, c], [16, 32, 64][i % 3], (0.4, 5), i as u64, i % 2 == 0));
            }
        }
    }
}

#[test]
fn edges() {
    for (nrows, ncols, lanes) in [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (16, 16, 32)] {
        for block_size in [[4, 4], [8, 8], [16, 1], [1, 16]] {
            for density in [0.0, 1.0] {
                verify(&case([nrows, ncols, lanes], block_size, 32, (density, 5), 1, true));
            }
        }
    }
}

/// Large enough for several bands, and for the thread pool to be used.
#[test]
fn many_bands() {
    verify(&case([700, 901, 130], [4, 4], 32, (0.4, 5), 3, true));
    verify(&case([902, 603, 200], [8, 8], 64, (0.5, 1), 4, false));
    // Strips enough for seven threads, which then scatter.
    verify(&case([700, 901, 300], [16, 1], 32, (0.4, 5), 5, false));
    verify(&case([702, 601, 300], [4, 1], 32, (0.3, 1), 6, false));
}

/// Every instruction set and number of threads finds what the reference finds.
fn verify_growth(case: &Case, count: usize, seed: u64) {
    let ties = Key::new(seed).with_name("ties");
    let expected = case.expected_growth(count, ties);
    for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
        let got = case.grow(&Cpu::new(1, Some(isa)).unwrap(), count, ties);
        for threads in [2, 7] {
            let again = case.grow(&Cpu::new(threads, Some(isa)).unwrap(), count, ties);
            let bits = |found: &[Candidate]| -> Vec<_> {
                found.iter().map(|c| (c.row, c.column, c.score.to_bits())).collect()
            };
            assert_eq!(bits(&again), bits(&got), "{isa} with {threads} threads");
        }
        case.check_growth(isa.name(), &got, &expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    // Whole numbers, so that norms tie often and are equal to the reference's exactly.
    #[test]
    fn growth_finds_the_largest_blocks(
        nrows in 1usize..140, ncols in 1usize..140, lanes in 0usize..70, r in sizes(), c in sizes(),
        strip in prop::sample::select(vec![16, 32, 64]), density in 0.0f32..1.0, fraction in 0.0f64..1.2,
        seed in 0u64..1_000_000, exact: bool
    ) {
        let case = case([nrows, ncols, lanes], [r, c], strip, (density * density, 5), seed, exact);
        let blocks = case.pattern.blocks().nrows() * case.pattern.blocks().ncols();
        verify_growth(&case, (fraction * fraction * blocks as f64) as usize, seed);
    }
}

/// Several bands and tiles, chunks that end in a group of rows, and enough work for the threads.
#[test]
fn growth_over_many_tiles() {
    for (nrows, ncols, lanes) in [(1100, 70, 20), (53, 2100, 33), (5, 40, 3), (49, 33, 2300), (1025, 1030, 3)] {
        for block_size in [[1, 1], [4, 4], [8, 16], [16, 2]] {
            let case = case([nrows, ncols, lanes], block_size, 32, (0.2, 5), 7, true);
            for share in [50, 3, 1] {
                verify_growth(&case, case.pattern.blocks().nrows() * case.pattern.blocks().ncols() / share + 1, 3);
            }
        }
    }
}

#[test]
fn strips_that_the_kernels_do_not_take_are_refused() {
    let case = case([4, 5, 6], [2, 2], 32, (1.0, 5), 1, true);
    let options = PlanOptions { strip: 48, transpose: false };
    let message = Cpu::new(1, None).unwrap().plan_blocks(case.pattern, options).unwrap_err().to_string();
    assert!(message.contains("plan_blocks: strip is 48"), "{message}");
}

#[test]
fn growth_of_single_entries_is_growth() {
    bsr::growth_of_single_entries_is_growth(&Cpu::new(2, None).unwrap());
}

#[test]
fn growth_with_numbers_out_of_the_ordinary() {
    bsr::growth_with_numbers_out_of_the_ordinary(&Cpu::new(2, None).unwrap());
}

#[test]
fn growth_sums_over_uses() {
    bsr::growth_sums_over_uses(&Cpu::new(2, None).unwrap());
}

#[test]
fn impossible_growth_is_refused_by_name() {
    bsr::impossible_growth_is_refused_by_name(&Cpu::new(2, None).unwrap());
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    bsr::wrong_shapes_are_refused_by_name(&Cpu::new(2, None).unwrap());
}
