//! Block-sparse products on every instruction set and several thread counts, against the reference.

use std::sync::Arc;

use proptest::prelude::*;

use crate::cpu::testing::{self, check, read};
use crate::cpu::{Buffer, Cpu, IsaName};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{
    BlockMatrix, BlockSparseLinear, BsrPattern, Candidate, CsrPattern, GrowRequest, Op, PlanOptions, SparseLinear,
    StripLayout, Strips,
};

/// A product's operands: pattern, values with NaN in padding, and row-major activations.
#[derive(Debug, Clone)]
struct Case {
    lanes: usize,
    strip: usize,
    pattern: Arc<BsrPattern>,
    values: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    /// Small whole numbers: every order of summation gives the same bits.
    exact: bool,
}

/// Sizes `[nrows, ncols, lanes]`; `shape` 0: one full block row among empty ones, 1: every third block row empty, else
/// uniform.
fn case(
    sizes: [usize; 3],
    block_size: [usize; 2],
    strip: usize,
    (density, shape): (f32, u8),
    seed: u64,
    exact: bool,
) -> Case {
    let [nrows, ncols, lanes] = sizes;
    let key = Key::new(seed).with_name("case");
    let number = |stream: u64, i: usize| {
        let bits = key.with(stream).bits(i as u64);
        if exact { (bits % 9) as f32 - 4.0 } else { (bits as u32 as f32 / u32::MAX as f32) * 2.0 - 1.0 }
    };
    let (rows, columns) = (nrows.div_ceil(block_size[0]), ncols.div_ceil(block_size[1]));
    let stored = |row: usize, column: usize| match shape {
        0 => row == rows / 2,
        1 => !row.is_multiple_of(3) && key.uniform((row * columns + column) as u64) < density,
        _ => key.uniform((row * columns + column) as u64) < density,
    };
    let positions = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).filter(|&(r, c)| stored(r, c));
    let positions = positions.map(|(r, c)| (r as u32, c as u32)).collect();
    let blocks = Arc::new(CsrPattern::from_positions(rows, columns, positions).unwrap());
    let pattern = Arc::new(BsrPattern::from_blocks(nrows, ncols, block_size, blocks).unwrap());
    // Products must not read padding.
    let mut values = vec![f32::NAN; pattern.nnz()];
    pattern.entries().for_each(|e| values[e.position] = number(1, e.position));
    let fill = |stream, len| (0..len).map(|i| number(stream, i)).collect::<Vec<_>>();
    Case { lanes, strip, values, x: fill(2, ncols * lanes), dy: fill(3, nrows * lanes), exact, pattern }
}

impl Case {
    fn options(&self) -> PlanOptions {
        PlanOptions { strip: self.strip, transpose: true }
    }

    fn layout(&self, features: usize) -> StripLayout {
        StripLayout::new(self.lanes, features, self.strip).unwrap()
    }

    /// `data` in strips; features of which `used` says no hold NaN.
    fn strips(&self, cpu: &Cpu, data: &[f32], used: &[bool]) -> Strips<Cpu> {
        let mut data = data.to_vec();
        for (feature, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            data[feature * self.lanes..][..self.lanes].fill(f32::NAN);
        }
        testing::strips(cpu, self.layout(used.len()), &data)
    }

    fn poisoned(&self, cpu: &Cpu, features: usize) -> Strips<Cpu> {
        testing::poisoned(cpu, self.layout(features))
    }

    fn check(&self, what: &str, got: &[f32], expected: &[Exact]) {
        check(what, self.exact, got, expected);
    }

    /// The three products, and the sampled one added to itself.
    fn run(&self, cpu: &Cpu) -> [Vec<f32>; 4] {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let (mut rows, mut columns) = (vec![false; m], vec![false; k]);
        self.pattern.entries().for_each(|e| (rows[e.row], columns[e.column]) = (true, true));
        let w = BlockMatrix::new(cpu, self.pattern.clone(), &self.values, self.options()).unwrap();
        let (x, dy) = (self.strips(cpu, &self.x, &columns), self.strips(cpu, &self.dy, &rows));
        let (mut y, mut dx) = (self.poisoned(cpu, m), self.poisoned(cpu, k));
        cpu.spmm_bsr(Op::NoTranspose, &w, &x, &mut y).unwrap();
        cpu.spmm_bsr(Op::Transpose, &w, &dy, &mut dx).unwrap();
        let mut dw = Buffer::zeros(self.pattern.nnz());
        dw.fill(f32::NAN);
        cpu.sddmm_bsr(&w.plan, &dy, &x, &mut dw, false).unwrap();
        let once = dw.to_vec();
        cpu.sddmm_bsr(&w.plan, &dy, &x, &mut dw, true).unwrap();
        [read(&y), read(&dx), once, dw.to_vec()]
    }

    fn verify(&self) {
        let y = reference::spmm_bsr(&self.pattern, &self.values, &self.x, self.lanes);
        let dx = reference::spmm_bsr_transposed(&self.pattern, &self.values, &self.dy, self.lanes);
        // Padding is an empty sum: the check asks for 0 there.
        let dw = reference::sddmm_bsr(&self.pattern, &self.dy, &self.x, self.lanes);
        for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
            let results = self.run(&Cpu::new(1, Some(isa)).unwrap());
            self.check(&format!("{isa} spmm_bsr"), &results[0], &y);
            self.check(&format!("{isa} spmm_bsr, transposed"), &results[1], &dx);
            self.check(&format!("{isa} sddmm_bsr"), &results[2], &dw);
            for (once, twice) in results[2].iter().zip(&results[3]) {
                assert_eq!(2.0 * once, *twice, "{isa} sddmm_bsr accumulated");
            }
            for threads in [2, 7] {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                let bits = |r: &[Vec<f32>; 4]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&self.run(&cpu)), bits(&results), "{isa} with {threads} threads");
            }
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
        case([nrows, ncols, lanes], [r, c], strip, (density * density, shape), seed, exact).verify();
    }
}

/// Every block size on a ragged matrix, with lanes around the widths of vectors and strips.
#[test]
fn every_block_size() {
    for r in BsrPattern::BLOCK_SIZES {
        for c in BsrPattern::BLOCK_SIZES {
            for (i, lanes) in [0, 1, 7, 8, 9, 15, 17, 31, 33, 63, 65, 97, 127, 129, 200].into_iter().enumerate() {
                case([37, 51, lanes], [r, c], [16, 32, 64][i % 3], (0.4, 5), i as u64, i % 2 == 0).verify();
            }
        }
    }
}

#[test]
fn edges() {
    for (nrows, ncols, lanes) in [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (16, 16, 32)] {
        for block_size in [[4, 4], [8, 8], [16, 1], [1, 16]] {
            for density in [0.0, 1.0] {
                case([nrows, ncols, lanes], block_size, 32, (density, 5), 1, true).verify();
            }
        }
    }
}

/// Large enough for several bands, and for the thread pool to be used.
#[test]
fn many_bands() {
    case([700, 901, 130], [4, 4], 32, (0.4, 5), 3, true).verify();
    case([902, 603, 200], [8, 8], 64, (0.5, 1), 4, false).verify();
}

impl Case {
    /// Growth outside the case's blocks, with all uses of the weight in one.
    fn grow(&self, cpu: &Cpu, count: usize, ties: Key) -> Vec<Candidate> {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let (x, dy) = (self.strips(cpu, &self.x, &vec![true; k]), self.strips(cpu, &self.dy, &vec![true; m]));
        let request = GrowRequest { exclude: self.pattern.blocks(), count, ties };
        cpu.grow_blocks(self.pattern.block_size(), &request, &[(&dy, &x)]).unwrap()
    }

    /// Every instruction set and number of threads finds what the reference finds.
    fn verify_growth(&self, count: usize, seed: u64) {
        let ties = Key::new(seed).with_name("ties");
        let (shape, block_size) = ([self.pattern.nrows(), self.pattern.ncols()], self.pattern.block_size());
        let request = GrowRequest { exclude: self.pattern.blocks(), count, ties };
        let expected = reference::grow_blocks(shape, block_size, &request, &self.dy, &self.x, self.lanes);
        for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
            let got = self.grow(&Cpu::new(1, Some(isa)).unwrap(), count, ties);
            for threads in [2, 7] {
                let again = self.grow(&Cpu::new(threads, Some(isa)).unwrap(), count, ties);
                let bits = |found: &[Candidate]| -> Vec<_> {
                    found.iter().map(|c| (c.row, c.column, c.score.to_bits())).collect()
                };
                assert_eq!(bits(&again), bits(&got), "{isa} with {threads} threads");
            }
            if self.exact {
                assert_eq!(got, expected, "{isa}");
                continue;
            }
            // Rounding may exchange blocks whose norms differ by no more than it.
            assert_eq!(got.len(), expected.len(), "{isa}");
            assert!(got.is_sorted_by_key(|c| (c.row, c.column)), "{isa}");
            let full = BsrPattern::full(shape[0], shape[1], block_size).unwrap();
            let norms = reference::block_norms(&full, &self.dy, &self.x, self.lanes);
            let columns = self.pattern.blocks().ncols();
            let at = |c: &Candidate| norms[c.row as usize * columns + c.column as usize];
            let least = expected.iter().map(|c| at(c).value).fold(f64::INFINITY, f64::min);
            for found in &got {
                let exact = at(found);
                assert!(exact.error(found.score) <= 1.0, "{isa}: {found:?}, {exact:?}");
                let slack = exact.magnitude * 2.0 * (self.lanes + 1) as f64 * f64::from(f32::EPSILON);
                assert!(exact.value + slack >= least, "{isa}: {found:?} is not among the largest");
                assert!(request.exclude.row(found.row as usize).binary_search(&found.column).is_err());
            }
        }
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
        case.verify_growth((fraction * fraction * blocks as f64) as usize, seed);
    }
}

/// Several bands and tiles, chunks that end in a group of rows, and enough work for the threads.
#[test]
fn growth_over_many_tiles() {
    for (nrows, ncols, lanes) in [(1100, 70, 20), (53, 2100, 33), (5, 40, 3), (49, 33, 2300), (1025, 1030, 3)] {
        for block_size in [[1, 1], [4, 4], [8, 16], [16, 2]] {
            let case = case([nrows, ncols, lanes], block_size, 32, (0.2, 5), 7, true);
            for share in [50, 3, 1] {
                case.verify_growth(case.pattern.blocks().nrows() * case.pattern.blocks().ncols() / share + 1, 3);
            }
        }
    }
}

/// Blocks of one entry are what unstructured growth finds, with the same scores.
#[test]
fn growth_of_single_entries_is_growth() {
    let case = case([70, 90, 40], [1, 1], 32, (0.2, 5), 1, false);
    let cpu = Cpu::new(2, None).unwrap();
    let (x, dy) = (case.strips(&cpu, &case.x, &[true; 90]), case.strips(&cpu, &case.dy, &[true; 70]));
    let request = GrowRequest { exclude: case.pattern.blocks(), count: 300, ties: Key::new(2) };
    let expected = cpu.grow(&request, &[(&dy, &x)]).unwrap();
    assert_eq!(cpu.grow_blocks([1, 1], &request, &[(&dy, &x)]).unwrap(), expected);
}

/// A block with a NaN scores 0, one whose squares would overflow f32 does not; without uses all score 0.
#[test]
fn growth_with_numbers_out_of_the_ordinary() {
    let mut case = case([20, 20, 4], [4, 4], 32, (0.0, 5), 1, true);
    case.dy[9 * 4 + 1] = f32::NAN;
    case.dy[2 * 4..3 * 4].fill(2f32.powi(100));
    case.x[5 * 4..6 * 4].fill(1.0);
    case.verify_growth(7, 1);
    case.verify_growth(25, 1);
    let cpu = Cpu::new(1, None).unwrap();
    let found = case.grow(&cpu, 25, Key::new(1));
    assert!(found.iter().all(|c| c.score.is_finite() && (c.row != 2 || c.score == 0.0)), "{found:?}");
    assert!(found.iter().any(|c| c.score > 1e30));
    let request = GrowRequest { exclude: case.pattern.blocks(), count: 4, ties: Key::new(1) };
    let found = cpu.grow_blocks([4, 4], &request, &[]).unwrap();
    assert!(found.len() == 4 && found.iter().all(|c| c.score == 0.0), "{found:?}");
}

/// Two uses of a weight score as one use with the lanes of both; one without lanes adds nothing.
#[test]
fn growth_sums_over_uses() {
    let cases = [13, 0, 20].map(|lanes| case([30, 41, lanes], [8, 4], 32, (0.3, 5), lanes as u64, true));
    let joined = |part: fn(&Case) -> &Vec<f32>, rows: usize| -> Vec<f32> {
        (0..rows).flat_map(|r| cases.iter().flat_map(move |c| part(c)[r * c.lanes..][..c.lanes].to_vec())).collect()
    };
    let (dy, x) = (joined(|c| &c.dy, 30), joined(|c| &c.x, 41));
    let exclude = cases[0].pattern.blocks();
    let request = GrowRequest { exclude, count: 9, ties: Key::new(5) };
    let cpu = Cpu::new(2, None).unwrap();
    let strips = |c: &Case| (c.strips(&cpu, &c.dy, &[true; 30]), c.strips(&cpu, &c.x, &[true; 41]));
    let operands = [strips(&cases[0]), strips(&cases[1]), strips(&cases[2])];
    let pairs: Vec<_> = operands.iter().map(|(dy, x)| (dy, x)).collect();
    let expected = reference::grow_blocks([30, 41], [8, 4], &request, &dy, &x, 33);
    assert_eq!(cpu.grow_blocks([8, 4], &request, &pairs).unwrap(), expected);
}

#[test]
fn impossible_growth_is_refused_by_name() {
    let cpu = Cpu::new(1, None).unwrap();
    let case = case([20, 30, 4], [4, 8], 32, (0.5, 5), 1, true);
    let (x, dy) = (case.strips(&cpu, &case.x, &[true; 30]), case.strips(&cpu, &case.dy, &[true; 20]));
    let request = GrowRequest { exclude: case.pattern.blocks(), count: 1, ties: Key::new(1) };
    let message = |block_size| cpu.grow_blocks(block_size, &request, &[(&dy, &x)]).unwrap_err().to_string();
    assert!(message([3, 8]).contains("3"), "{}", message([3, 8]));
    assert!(message([8, 8]).contains("number of block rows is 5, expected 3"), "{}", message([8, 8]));
    assert!(message([4, 4]).contains("number of block columns is 4, expected 8"), "{}", message([4, 4]));
    let other = case.strips(&cpu, &case.x[..4 * 29], &[true; 29]);
    assert!(cpu.grow_blocks([4, 8], &request, &[(&dy, &x), (&dy, &other)]).is_err());
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    let cpu = Cpu::new(1, None).unwrap();
    let case = case([4, 5, 6], [2, 2], 32, (1.0, 5), 1, true);
    let plan = |strip| cpu.plan_blocks(case.pattern.clone(), PlanOptions { strip, transpose: false });
    assert!(plan(48).unwrap_err().to_string().contains("plan_blocks: strip is 48"));
    let w = BlockMatrix { plan: plan(32).unwrap(), values: Buffer::zeros(case.pattern.nnz()) };
    assert!(cpu.block_plan_bytes(&w.plan) > 0 && cpu.block_plan_options(&w.plan).strip == 32);
    assert_eq!(cpu.block_pattern(&w.plan), &case.pattern);
    assert!(BlockMatrix::new(&cpu, case.pattern.clone(), &[0.0], case.options()).is_err());
    let (x, mut y) = (case.strips(&cpu, &case.x, &[true; 5]), case.poisoned(&cpu, 4));
    let message = |result: Result<(), crate::BackendError>| result.unwrap_err().to_string();
    let mut wrong = case.poisoned(&cpu, 5);
    let shape = message(cpu.spmm_bsr(Op::NoTranspose, &w, &x, &mut wrong));
    assert!(shape.contains("rows of Y is 5, expected 4"), "{shape}");
    let no_transpose = message(cpu.spmm_bsr(Op::Transpose, &w, &y, &mut wrong));
    assert!(no_transpose.contains("transpose"), "{no_transpose}");
    let mut short = Buffer::zeros(1);
    assert!(cpu.sddmm_bsr(&w.plan, &y, &x, &mut short, false).is_err());
    let mut other = Strips::zeros(&cpu, StripLayout::new(6, 4, 16).unwrap()).unwrap();
    assert!(message(cpu.spmm_bsr(Op::NoTranspose, &w, &x, &mut other)).contains("strip width"));
    let few = BlockMatrix { plan: plan(32).unwrap(), values: Buffer::zeros(3) };
    assert!(message(cpu.spmm_bsr(Op::NoTranspose, &few, &x, &mut y)).contains("3 values"));
    y.data = Buffer::zeros(3);
    assert!(message(cpu.spmm_bsr(Op::NoTranspose, &w, &x, &mut y)).contains("length of Y"));
}
