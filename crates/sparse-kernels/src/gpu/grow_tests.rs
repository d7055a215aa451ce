//! Growth against the reference, in one band and in many.

use proptest::prelude::*;

use super::*;
use crate::gpu::testing::{gpu, gpu_with_limit};
use crate::testing::linear::{case, grow_reference};
use crate::testing::{buffer, growth};
use crate::{SparseLinear, Storage};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn growth_finds_the_largest_and_breaks_ties_by_hash(
        nrows in 1usize..150, ncols in 1usize..90, lanes in 0usize..40, density in 0.0f32..0.5, fraction in 0.0f64..1.2,
        seed in 0u64..1_000_000
    ) {
        let Some(gpu) = gpu() else { return Ok(()) };
        let case = case([nrows, ncols, lanes], 32, (density, 5), seed, true);
        let count = (fraction * (nrows * ncols) as f64) as usize / 3;
        growth::verify(&[gpu], &case, count, Key::new(seed).with_name("ties"));
    }
}

/// Bands of 4096 elements, lists of several windows, and bands that are wholly excluded.
#[test]
fn growth_in_bands_and_windows() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    for (sizes, density, shape) in [([152, 120, 20], 0.3, 5), ([252, 72, 40], 0.9, 1), ([100, 248, 0], 0.5, 5)] {
        let case = case(sizes, 16, (density, shape), 7, true);
        let positions = sizes[0] * sizes[1];
        for count in [1, positions / 50, positions / 3, 2 * positions] {
            growth::verify(&[&gpu], &case, count, Key::new(count as u64));
        }
    }
}

/// Gradients that another computes, of rows longer than a band among others.
#[test]
fn growth_from_bands() {
    let Some(gpu) = gpu_with_limit(2 << 10) else { return };
    for (sizes, density, shape) in [([7, 1300, 5], 0.5, 1), ([3000, 3, 4], 0.2, 5), ([5, 1500, 9], 1.0, 0)] {
        let case = case(sizes, 32, (density, shape), 7, true);
        let (gradient, [nrows, ncols, _]) = (growth::gradient(&case), sizes);
        for count in [1, nrows * ncols / 50, nrows * ncols] {
            let request = GrowRequest { exclude: case.pattern.clone(), count, ties: Key::new(count as u64) };
            let band =
                |rows: Range<usize>, out: &Buffer| gpu.write(&gradient[rows.start * ncols..rows.end * ncols], out);
            let expected = grow_reference(&case, &case.pattern, count, request.ties);
            assert_eq!(gpu.grow_from_bands(&request, band).unwrap(), expected);
        }
    }
}

#[test]
fn uses_and_edges() {
    let small = gpu_with_limit(32 << 10);
    for gpu in gpu().into_iter().chain(&small) {
        growth::sums_over_uses(gpu);
        growth::ignores_uses_without_lanes(gpu);
        growth::orders_all_numbers(gpu);
        growth::refuses_wrong_shapes(gpu);
    }
}

/// Many zeros: exactly as many as are asked for come back, in one submission, and the memory is kept.
#[test]
fn dead_inputs() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    let (nrows, ncols, count) = (250, 800, 9_000);
    let zeros = gpu.zeros(nrows * ncols).unwrap();
    let exclude =
        CsrPattern::from_positions(nrows, ncols, (0..250).map(|row| (row, (row * 7) % 800)).collect()).unwrap();
    let request = GrowRequest { exclude: exclude.clone().into(), count, ties: Key::new(9) };
    let found = gpu.largest(&zeros, &request).unwrap();
    let free = |&(r, c): &(u32, u32)| exclude.row(r as usize).binary_search(&c).is_err();
    let mut expected: Vec<(u32, u32)> = (0..250).flat_map(|r| (0..800).map(move |c| (r, c))).filter(free).collect();
    expected.sort_by_cached_key(|&(r, c)| {
        let position = u64::from(r) * 800 + u64::from(c);
        (request.ties.bits(position) as u32, position)
    });
    expected.truncate(count);
    expected.sort_unstable();
    assert_eq!(found.iter().map(|c| (c.row, c.column)).collect::<Vec<_>>(), expected);
    let (bytes, [submissions, _]) = (gpu.allocated_bytes(), gpu.submissions_and_launches());
    assert_eq!(gpu.largest(&zeros, &request).unwrap(), found);
    assert_eq!((gpu.allocated_bytes(), gpu.submissions_and_launches()[0]), (bytes, submissions + 1));
}

/// Positions around 2^32: words carry, and hashes are those of all 64 bits.
#[test]
fn positions_beyond_32_bits() {
    let Some(gpu) = gpu() else { return };
    let (start, len, ncols) = ((1u64 << 32) - 700, 400, 1 << 20);
    let ties = Key::new(3);
    let score = |position: u64| if position.is_multiple_of(5) { 2.0 } else { 1.0 };
    let mut scratch = gpu.growth.lock().unwrap();
    for count in [1, 100, 500, 1000] {
        let (mut selection, _) = scratch.selection(gpu, ties, count, (1 << 40, len), &[], 0).unwrap();
        for base in (0..3).map(|band| start + band * len as u64) {
            let scores: Vec<f32> = (base..base + len as u64).map(score).collect();
            gpu.keys_of(&buffer(gpu, &scores), 0, len, selection.keys).unwrap();
            selection.push(&Band { base, len, excluded: 0..0 }).unwrap();
        }
        let got = selection.finish(ncols).unwrap();
        let mut expected: Vec<u64> = (start..start + 3 * len as u64).collect();
        expected.sort_by_key(|&at| (score(at) < 2.0, ties.bits(at) as u32, at));
        expected.truncate(count);
        expected.sort_unstable();
        let candidate = |&at: &u64| Candidate {
            row: (at / ncols as u64) as u32,
            column: (at % ncols as u64) as u32,
            score: score(at),
        };
        assert_eq!(got, expected.iter().map(candidate).collect::<Vec<_>>());
    }
}
