//! Every product on every instruction set and several thread counts, against the reference.

use proptest::prelude::*;

use super::{Cpu, IsaName};
use crate::random::Key;
use crate::testing::linear::{Case, case};
use crate::testing::{growth, refusals};
use crate::{Op, PlanOptions, SparseLinear, SparseMatrix, Storage, StripLayout, Strips};

/// On all instruction sets; with more threads, and with other caches, the bits are the same.
fn verify(case: &Case) {
    for isa in IsaName::ALL {
        if !isa.is_available() {
            continue;
        }
        let results = case.verify(isa.name(), &Cpu::new(1, Some(isa)).unwrap());
        let bits = |r: &[Vec<f32>]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
        for threads in [2, 7] {
            let cpu = Cpu::new(threads, Some(isa)).unwrap();
            assert_eq!(bits(&case.run(&cpu)), bits(&results), "{isa} with {threads} threads");
        }
        // Chunks follow the caches; with next to none, everything is fetched ahead too.
        for caches in [[1 << 10, 1 << 10], [48 << 10, 16 << 20]] {
            let cpu = Cpu::with_caches(1, isa, caches);
            assert_eq!(bits(&case.run(&cpu)), bits(&results), "{isa} with caches of {caches:?}");
        }
    }
}

#[test]
fn which_instruction_sets_these_tests_run() {
    for isa in IsaName::ALL {
        println!("{isa}: {}", if isa.is_available() { "run" } else { "not run, this machine lacks it" });
        if std::env::var_os("RIGL_REQUIRE_ISA").is_some_and(|names| names.to_string_lossy().contains(isa.name())) {
            assert!(isa.is_available(), "RIGL_REQUIRE_ISA asks for {isa}, which this machine lacks");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn products_agree_with_the_reference(
        nrows in 0usize..80, ncols in 0usize..80, lanes in 0usize..140, strip in prop::sample::select(vec![16, 32, 64]),
        density in 0.0f32..1.0, shape in 0u8..6, seed in 0u64..1_000_000, exact: bool
    ) {
        verify(&case([nrows, ncols, lanes], strip, (density * density, shape), seed, exact));
    }
}

#[test]
fn edges() {
    for (nrows, ncols, lanes) in
        [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (3, 9, 15), (3, 9, 16), (3, 9, 17)]
    {
        for (density, strip) in [(0.0, 32), (1.0, 32), (0.5, 16), (0.5, 64)] {
            verify(&case([nrows, ncols, lanes], strip, (density, 5), 1, true));
            verify(&case([nrows, ncols, lanes], strip, (density, 5), 2, false));
        }
    }
}

/// Large enough for several column chunks and row blocks, and for the thread pool to be used.
#[test]
fn many_chunks_and_blocks() {
    verify(&case([700, 900, 130], 32, (0.25, 5), 3, true));
    verify(&case([900, 600, 66], 64, (0.3, 1), 4, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    // Whole numbers, so that scores tie often and are equal to the reference's exactly.
    #[test]
    fn growth_finds_the_largest_and_breaks_ties_by_hash(
        nrows in 1usize..150, ncols in 1usize..90, lanes in 0usize..40, density in 0.0f32..0.5, fraction in 0.0f64..1.2,
        seed in 0u64..1_000_000
    ) {
        let case = case([nrows, ncols, lanes], 32, (density, 5), seed, true);
        let count = (fraction * (nrows * ncols) as f64) as usize / 3;
        let cpus = [1, 2, 7].map(|threads| Cpu::new(threads, None).unwrap());
        growth::verify(&cpus.each_ref(), &case, count, Key::new(seed).with_name("ties"));
    }
}

#[test]
fn growth_sums_over_uses() {
    growth::sums_over_uses(&Cpu::new(2, None).unwrap());
}

#[test]
fn growth_ignores_uses_without_lanes() {
    growth::ignores_uses_without_lanes(&Cpu::new(1, None).unwrap());
}

#[test]
fn growth_orders_all_numbers() {
    growth::orders_all_numbers(&Cpu::new(1, None).unwrap());
}

#[test]
fn growth_refuses_wrong_shapes() {
    growth::refuses_wrong_shapes(&Cpu::new(1, None).unwrap());
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    let cpu = Cpu::new(1, None).unwrap();
    let case = case([4, 5, 6], 32, (0.5, 5), 1, true);
    let options = PlanOptions { strip: 32, transpose: false };
    let w = SparseMatrix::new(&cpu, case.pattern.clone(), &case.values, options).unwrap();
    let (x, mut y) = (case.strips(&cpu, &case.x, 5), case.poisoned(&cpu, 4));
    let message = |result: Result<(), crate::BackendError>| result.unwrap_err().to_string();
    let mut wrong = case.poisoned(&cpu, 5);
    let shape = message(cpu.spmm(Op::NoTranspose, &w, &x, &mut wrong));
    assert!(shape.contains("rows of Y is 5, expected 4"), "{shape}");
    let no_transpose = message(cpu.spmm(Op::Transpose, &w, &y, &mut wrong));
    assert!(no_transpose.contains("transpose"), "{no_transpose}");
    let mut short = cpu.zeros(1).unwrap();
    assert!(cpu.sddmm(&w.plan, &y, &x, &mut short, false).is_err());
    let mut other = Strips::zeros(&cpu, StripLayout::new(6, 4, 16).unwrap()).unwrap();
    let strips = message(cpu.spmm(Op::NoTranspose, &w, &x, &mut other));
    assert!(strips.contains("strip width"), "{strips}");
    y.data = cpu.zeros(3).unwrap();
    assert!(message(cpu.spmm(Op::NoTranspose, &w, &x, &mut y)).contains("length of Y"));
}

#[test]
fn every_wrong_operand_is_refused() {
    let cpu = Cpu::new(2, None).unwrap();
    refusals::products(&cpu);
    refusals::convolutions(&cpu);
    refusals::block_convolutions(&cpu);
    #[cfg(feature = "nn")]
    refusals::batch_norm(&cpu);
}
