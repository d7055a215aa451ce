//! Every product on every instruction set and several thread counts, against the reference.

use std::sync::Arc;

use proptest::prelude::*;

use super::testing::{self, check, read};
use super::{Cpu, IsaName};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{
    Candidate, CsrPattern, DenseLinear, GrowRequest, Op, PlanOptions, SparseLinear, SparseMatrix, Storage, StripLayout,
    Strips,
};

/// A product's operands: shapes, pattern, and row-major activations.
#[derive(Debug, Clone)]
struct Case {
    lanes: usize,
    strip: usize,
    pattern: Arc<CsrPattern>,
    values: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// Small whole numbers: every order of summation gives the same bits.
    exact: bool,
}

/// Sizes `[nrows, ncols, lanes]`; `shape` 0: one full row among empty ones, 1: every third row empty, else uniform.
fn case(sizes: [usize; 3], strip: usize, (density, shape): (f32, u8), seed: u64, exact: bool) -> Case {
    let [nrows, ncols, lanes] = sizes;
    let key = Key::new(seed).with_name("case");
    let number = |stream: u64, i: usize| {
        let bits = key.with(stream).bits(i as u64);
        if exact { (bits % 9) as f32 - 4.0 } else { (bits as u32 as f32 / u32::MAX as f32) * 2.0 - 1.0 }
    };
    let stored = |row: usize, column: usize| match shape {
        0 => row == nrows / 2,
        1 => !row.is_multiple_of(3) && key.uniform((row * ncols + column) as u64) < density,
        _ => key.uniform((row * ncols + column) as u64) < density,
    };
    let positions = (0..nrows).flat_map(|r| (0..ncols).map(move |c| (r, c))).filter(|&(r, c)| stored(r, c));
    let positions = positions.map(|(r, c)| (r as u32, c as u32)).collect();
    let pattern = Arc::new(CsrPattern::from_positions(nrows, ncols, positions).unwrap());
    let fill = |stream, len| (0..len).map(|i| number(stream, i)).collect::<Vec<_>>();
    let (values, x, dy) = (fill(1, pattern.nnz()), fill(2, ncols * lanes), fill(3, nrows * lanes));
    Case { lanes, strip, pattern, values, x, dy, exact }
}

impl Case {
    fn layout(&self, features: usize) -> StripLayout {
        StripLayout::new(self.lanes, features, self.strip).unwrap()
    }

    fn strips(&self, cpu: &Cpu, data: &[f32], features: usize) -> Strips<Cpu> {
        testing::strips(cpu, self.layout(features), data)
    }

    fn poisoned(&self, cpu: &Cpu, features: usize) -> Strips<Cpu> {
        testing::poisoned(cpu, self.layout(features))
    }

    fn check(&self, what: &str, got: &[f32], expected: &[Exact]) {
        check(what, self.exact, got, expected);
    }

    /// All products on one backend, as bits for comparison between backends of one instruction set.
    fn run(&self, cpu: &Cpu) -> Vec<Vec<f32>> {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let options = PlanOptions { strip: self.strip, transpose: true };
        let w = SparseMatrix::new(cpu, self.pattern.clone(), &self.values, options).unwrap();
        let (x, dy) = (self.strips(cpu, &self.x, k), self.strips(cpu, &self.dy, m));
        let (mut y, mut dx) = (self.poisoned(cpu, m), self.poisoned(cpu, k));
        cpu.spmm(Op::NoTranspose, &w, &x, &mut y).unwrap();
        let mut bias = cpu.zeros(m).unwrap();
        cpu.upload(&self.bias(), &mut bias).unwrap();
        let fused = |relu| {
            let mut y = self.poisoned(cpu, m);
            cpu.spmm_bias_relu(&w, &bias, relu, &x, &mut y).unwrap();
            read(&y)
        };
        let (biased, rectified) = (fused(false), fused(true));
        cpu.spmm(Op::Transpose, &w, &dy, &mut dx).unwrap();
        let mut dw = cpu.zeros(self.pattern.nnz()).unwrap();
        cpu.fill(f32::NAN, &mut dw).unwrap();
        cpu.sddmm(&w.plan, &dy, &x, &mut dw, false).unwrap();
        let mut twice = cpu.zeros(self.pattern.nnz()).unwrap();
        cpu.upload(&dw, &mut twice).unwrap();
        cpu.sddmm(&w.plan, &dy, &x, &mut twice, true).unwrap();
        let dense = self.dense_weight(cpu);
        let (mut y_dense, mut dx_dense) = (self.poisoned(cpu, m), self.poisoned(cpu, k));
        cpu.gemm(Op::NoTranspose, &dense, &x, &mut y_dense).unwrap();
        cpu.gemm(Op::Transpose, &dense, &dy, &mut dx_dense).unwrap();
        let mut dw_dense = cpu.zeros(m * k).unwrap();
        cpu.fill(f32::NAN, &mut dw_dense).unwrap();
        cpu.gemm_weight_grad(&dy, &x, &mut dw_dense, false).unwrap();
        let dense = [read(&y_dense), read(&dx_dense), dw_dense.to_vec()];
        [read(&y), read(&dx), dw.to_vec(), twice.to_vec()].into_iter().chain(dense).chain([biased, rectified]).collect()
    }

    /// Some below and some above the sums, whole numbers as all that must be exact.
    fn bias(&self) -> Vec<f32> {
        (0..self.pattern.nrows()).map(|row| (row % 5) as f32 - 2.0).collect()
    }

    fn dense_weight(&self, cpu: &Cpu) -> super::Buffer {
        let mut dense = cpu.zeros(self.pattern.nrows() * self.pattern.ncols()).unwrap();
        let w = crate::Csr::new(self.pattern.clone(), self.values.clone()).unwrap();
        cpu.upload(&w.to_dense(), &mut dense).unwrap();
        dense
    }

    fn verify(&self) {
        let y = reference::spmm(&self.pattern, &self.values, &self.x, self.lanes);
        let bias = self.bias();
        let with_bias = |(i, e): (usize, &Exact)| {
            let bias = f64::from(bias[i / self.lanes]);
            Exact { value: e.value + bias, magnitude: e.magnitude + bias.abs(), terms: e.terms + 1 }
        };
        let biased: Vec<Exact> = y.iter().enumerate().map(with_bias).collect();
        let rectified: Vec<Exact> = biased.iter().map(|e| Exact { value: e.value.max(0.0), ..*e }).collect();
        let dx = reference::spmm_transposed(&self.pattern, &self.values, &self.dy, self.lanes);
        let dw = reference::sddmm(&self.pattern, &self.dy, &self.x, self.lanes);
        let full = CsrPattern::full(self.pattern.nrows(), self.pattern.ncols()).unwrap();
        let dw_dense = reference::sddmm(&full, &self.dy, &self.x, self.lanes);
        for isa in IsaName::ALL {
            if !isa.is_available() {
                continue;
            }
            let cpu = Cpu::new(1, Some(isa)).unwrap();
            let results = self.run(&cpu);
            self.check(&format!("{isa} spmm"), &results[0], &y);
            self.check(&format!("{isa} spmm_t"), &results[1], &dx);
            self.check(&format!("{isa} sddmm"), &results[2], &dw);
            for (once, twice) in results[2].iter().zip(&results[3]) {
                let bound = 1e-4 * (1.0 + once.abs()) * f32::from(!self.exact);
                assert!((2.0 * once - twice).abs() <= bound, "{isa} sddmm accumulated: {once} to {twice}");
            }
            // The dense product sums zeros too: more terms, the same magnitude.
            let dense = |exact: &[Exact], terms| exact.iter().map(|e| Exact { terms, ..*e }).collect::<Vec<_>>();
            self.check(&format!("{isa} gemm"), &results[4], &dense(&y, self.pattern.ncols()));
            self.check(&format!("{isa} gemm_t"), &results[5], &dense(&dx, self.pattern.nrows()));
            self.check(&format!("{isa} gemm_weight_grad"), &results[6], &dw_dense);
            self.check(&format!("{isa} spmm with bias"), &results[7], &biased);
            self.check(&format!("{isa} spmm with bias and ReLU"), &results[8], &rectified);
            for threads in [2, 7] {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                let bits = |r: &[Vec<f32>]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&self.run(&cpu)), bits(&results), "{isa} with {threads} threads");
            }
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
        case([nrows, ncols, lanes], strip, (density * density, shape), seed, exact).verify();
    }
}

#[test]
fn edges() {
    for (nrows, ncols, lanes) in
        [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (3, 9, 15), (3, 9, 16), (3, 9, 17)]
    {
        for (density, strip) in [(0.0, 32), (1.0, 32), (0.5, 16), (0.5, 64)] {
            case([nrows, ncols, lanes], strip, (density, 5), 1, true).verify();
            case([nrows, ncols, lanes], strip, (density, 5), 2, false).verify();
        }
    }
}

/// Large enough for several column chunks and row blocks, and for the thread pool to be used.
#[test]
fn many_chunks_and_blocks() {
    case([700, 900, 130], 32, (0.25, 5), 3, true).verify();
    case([900, 600, 66], 64, (0.3, 1), 4, false).verify();
}

/// The reference for growth: score everything, sort.
fn grow_reference(case: &Case, exclude: &CsrPattern, count: usize, ties: Key) -> Vec<Candidate> {
    let full = CsrPattern::full(case.pattern.nrows(), case.pattern.ncols()).unwrap();
    let scores = reference::sddmm(&full, &case.dy, &case.x, case.lanes);
    let excluded: std::collections::HashSet<_> = exclude.positions().collect();
    let mut all: Vec<_> = full.positions().zip(&scores).filter(|(p, _)| !excluded.contains(p)).collect();
    all.sort_by(|((r1, c1), s1), ((r2, c2), s2)| {
        let index = |r: &u32, c: &u32| u64::from(*r) * full.ncols() as u64 + u64::from(*c);
        let hash = |r: &u32, c: &u32| ties.bits(index(r, c)) as u32;
        let by_score = s2.value.abs().total_cmp(&s1.value.abs());
        by_score.then(hash(r1, c1).cmp(&hash(r2, c2))).then(index(r1, c1).cmp(&index(r2, c2)))
    });
    all.truncate(count);
    let candidate = |((row, column), s): ((u32, u32), &Exact)| Candidate { row, column, score: s.value.abs() as f32 };
    let mut best: Vec<_> = all.into_iter().map(candidate).collect();
    best.sort_by_key(|c| (c.row, c.column));
    best
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
        let ties = Key::new(seed).with_name("ties");
        let count = (fraction * (nrows * ncols) as f64) as usize / 3;
        let request = GrowRequest { exclude: &case.pattern, count, ties };
        let expected = grow_reference(&case, &case.pattern, count, ties);
        for threads in [1, 2, 7] {
            let cpu = Cpu::new(threads, None).unwrap();
            let (x, dy) = (case.strips(&cpu, &case.x, ncols), case.strips(&cpu, &case.dy, nrows));
            prop_assert_eq!(&cpu.grow(&request, &[(&dy, &x)]).unwrap(), &expected);
        }
    }
}

#[test]
fn growth_sums_over_uses() {
    // Two uses of a weight score as one use with the lanes of both.
    let (a, b) = (case([30, 40, 20], 32, (0.2, 5), 1, true), case([30, 40, 13], 32, (0.2, 5), 2, true));
    let joined = |a: &[f32], b: &[f32], rows: usize| -> Vec<f32> {
        (0..rows).flat_map(|r| [&a[r * 20..(r + 1) * 20], &b[r * 13..(r + 1) * 13]].concat()).collect()
    };
    let both = Case { lanes: 33, x: joined(&a.x, &b.x, 40), dy: joined(&a.dy, &b.dy, 30), ..a.clone() };
    let cpu = Cpu::new(2, None).unwrap();
    let request = GrowRequest { exclude: &a.pattern, count: 50, ties: Key::new(5) };
    let (x1, dy1) = (a.strips(&cpu, &a.x, 40), a.strips(&cpu, &a.dy, 30));
    let (x2, dy2) = (b.strips(&cpu, &b.x, 40), b.strips(&cpu, &b.dy, 30));
    let got = cpu.grow(&request, &[(&dy1, &x1), (&dy2, &x2)]).unwrap();
    assert_eq!(got, grow_reference(&both, &a.pattern, 50, request.ties));
}

/// A use without lanes adds nothing, also when a tile's buffer holds an earlier tile's numbers.
#[test]
fn growth_ignores_uses_without_lanes() {
    // More rows than a tile has: the second band reuses the first one's buffer.
    let (full, empty) = (case([200, 40, 20], 32, (0.2, 5), 1, true), case([200, 40, 0], 32, (0.2, 5), 2, true));
    let cpu = Cpu::new(1, None).unwrap();
    let request = GrowRequest { exclude: &full.pattern, count: 300, ties: Key::new(5) };
    let (x, dy) = (full.strips(&cpu, &full.x, 40), full.strips(&cpu, &full.dy, 200));
    let (no_x, no_dy) = (empty.strips(&cpu, &empty.x, 40), empty.strips(&cpu, &empty.dy, 200));
    let expected = grow_reference(&full, &full.pattern, 300, request.ties);
    assert_eq!(cpu.grow(&request, &[(&no_dy, &no_x), (&dy, &x)]).unwrap(), expected);
    assert_eq!(cpu.grow(&request, &[(&dy, &x), (&no_dy, &no_x)]).unwrap(), expected);
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
