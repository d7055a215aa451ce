//! Operands of block-sparse products, and all of what backends do with blocks against the reference.

use std::sync::Arc;

use super::{check, host, poison, read};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{
    BlockMatrix, BlockSparseLinear, BsrPattern, Candidate, CsrPattern, GrowRequest, Op, PlanOptions, SparseLinear,
    Storage, StripLayout, Strips,
};

/// A product's operands: pattern, values with NaN in padding, and row-major activations.
#[derive(Debug, Clone)]
pub struct Case {
    pub lanes: usize,
    pub strip: usize,
    pub pattern: Arc<BsrPattern>,
    pub values: Vec<f32>,
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
    /// Small whole numbers: every order of summation gives the same bits.
    pub exact: bool,
}

/// Sizes `[nrows, ncols, lanes]`; `shape` 0: one full block row among empty ones, 1: every third block row empty, else
/// uniform.
pub fn case(
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
    pub fn options(&self) -> PlanOptions {
        PlanOptions { strip: self.strip, transpose: true }
    }

    fn layout(&self, features: usize) -> StripLayout {
        StripLayout::new(self.lanes, features, self.strip).unwrap()
    }

    /// `data` in strips; features of which `used` says no hold NaN.
    pub fn strips<B: Storage>(&self, backend: &B, data: &[f32], used: &[bool]) -> Strips<B> {
        let mut data = data.to_vec();
        for (feature, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            data[feature * self.lanes..][..self.lanes].fill(f32::NAN);
        }
        super::strips(backend, self.layout(used.len()), &data)
    }

    pub fn poisoned<B: Storage>(&self, backend: &B, features: usize) -> Strips<B> {
        super::poisoned(backend, self.layout(features))
    }

    fn check(&self, what: &str, got: &[f32], expected: &[Exact]) {
        check(what, self.exact, got, expected);
    }

    /// The three products, and the sampled one added to itself.
    pub fn run<B: BlockSparseLinear>(&self, backend: &B) -> [Vec<f32>; 4] {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let (mut rows, mut columns) = (vec![false; m], vec![false; k]);
        self.pattern.entries().for_each(|e| (rows[e.row], columns[e.column]) = (true, true));
        let w = BlockMatrix::new(backend, self.pattern.clone(), &self.values, self.options()).unwrap();
        let (x, dy) = (self.strips(backend, &self.x, &columns), self.strips(backend, &self.dy, &rows));
        let (mut y, mut dx) = (self.poisoned(backend, m), self.poisoned(backend, k));
        backend.spmm_bsr(Op::NoTranspose, &w, &x, &mut y).unwrap();
        backend.spmm_bsr(Op::Transpose, &w, &dy, &mut dx).unwrap();
        let mut dw = poison(backend, self.pattern.nnz());
        backend.sddmm_bsr(&w.plan, &dy, &x, &mut dw, false).unwrap();
        let once = host(backend, &dw);
        backend.sddmm_bsr(&w.plan, &dy, &x, &mut dw, true).unwrap();
        [read(backend, &y), read(backend, &dx), once, host(backend, &dw)]
    }

    /// What every backend's products must be.
    pub fn expected(&self) -> [Vec<Exact>; 3] {
        [
            reference::spmm_bsr(&self.pattern, &self.values, &self.x, self.lanes),
            reference::spmm_bsr_transposed(&self.pattern, &self.values, &self.dy, self.lanes),
            // Padding is an empty sum: the check asks for 0 there.
            reference::sddmm_bsr(&self.pattern, &self.dy, &self.x, self.lanes),
        ]
    }

    /// All products of one backend against what is expected; its results, as [`Case::run`] orders them.
    pub fn verify<B: BlockSparseLinear>(&self, name: &str, backend: &B, expected: &[Vec<Exact>; 3]) -> [Vec<f32>; 4] {
        let results = self.run(backend);
        self.check(&format!("{name} spmm_bsr"), &results[0], &expected[0]);
        self.check(&format!("{name} spmm_bsr, transposed"), &results[1], &expected[1]);
        self.check(&format!("{name} sddmm_bsr"), &results[2], &expected[2]);
        for (once, twice) in results[2].iter().zip(&results[3]) {
            assert_eq!(2.0 * once, *twice, "{name} sddmm_bsr accumulated");
        }
        results
    }

    /// Growth outside the case's blocks, with all uses of the weight in one.
    pub fn grow<B: BlockSparseLinear>(&self, backend: &B, count: usize, ties: Key) -> Vec<Candidate> {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let (x, dy) = (self.strips(backend, &self.x, &vec![true; k]), self.strips(backend, &self.dy, &vec![true; m]));
        let request = GrowRequest { exclude: self.pattern.blocks().clone(), count, ties };
        backend.grow_blocks(self.pattern.block_size(), &request, &[(&dy, &x)]).unwrap()
    }

    /// What growth must find.
    pub fn expected_growth(&self, count: usize, ties: Key) -> Vec<Candidate> {
        let (shape, block_size) = ([self.pattern.nrows(), self.pattern.ncols()], self.pattern.block_size());
        let request = GrowRequest { exclude: self.pattern.blocks().clone(), count, ties };
        reference::grow_blocks(shape, block_size, &request, &self.dy, &self.x, self.lanes)
    }

    /// That a backend found it.
    pub fn check_growth(&self, name: &str, got: &[Candidate], expected: &[Candidate]) {
        if self.exact {
            assert_eq!(got, expected, "{name}");
            return;
        }
        // Rounding may exchange blocks whose norms differ by no more than it.
        assert_eq!(got.len(), expected.len(), "{name}");
        assert!(got.is_sorted_by_key(|c| (c.row, c.column)), "{name}");
        let (nrows, ncols, blocks) = (self.pattern.nrows(), self.pattern.ncols(), self.pattern.blocks());
        let full = BsrPattern::full(nrows, ncols, self.pattern.block_size()).unwrap();
        let norms = reference::block_norms(&full, &self.dy, &self.x, self.lanes);
        let at = |c: &Candidate| norms[c.row as usize * blocks.ncols() + c.column as usize];
        let least = expected.iter().map(|c| at(c).value).fold(f64::INFINITY, f64::min);
        for found in got {
            let exact = at(found);
            assert!(exact.error(found.score) <= 1.0, "{name}: {found:?}, {exact:?}");
            let slack = exact.magnitude * 2.0 * (self.lanes + 1) as f64 * f64::from(f32::EPSILON);
            assert!(exact.value + slack >= least, "{name}: {found:?} is not among the largest");
            assert!(blocks.row(found.row as usize).binary_search(&found.column).is_err());
        }
    }

    /// Growth of one backend against the reference.
    pub fn verify_growth<B: BlockSparseLinear>(&self, name: &str, backend: &B, count: usize, ties: Key) {
        self.check_growth(name, &self.grow(backend, count, ties), &self.expected_growth(count, ties));
    }
}

/// Blocks of one entry are what unstructured growth finds, with the same scores.
pub fn growth_of_single_entries_is_growth<B: BlockSparseLinear + SparseLinear>(backend: &B) {
    let case = case([70, 90, 40], [1, 1], 32, (0.2, 5), 1, false);
    let (x, dy) = (case.strips(backend, &case.x, &[true; 90]), case.strips(backend, &case.dy, &[true; 70]));
    let request = GrowRequest { exclude: case.pattern.blocks().clone(), count: 300, ties: Key::new(2) };
    let expected = backend.grow(&request, &[(&dy, &x)]).unwrap();
    assert_eq!(backend.grow_blocks([1, 1], &request, &[(&dy, &x)]).unwrap(), expected);
}

/// A block with a NaN scores 0, one whose squares would overflow f32 does not; without uses all score 0.
pub fn growth_with_numbers_out_of_the_ordinary<B: BlockSparseLinear>(backend: &B) {
    let mut case = case([20, 20, 4], [4, 4], 32, (0.0, 5), 1, true);
    case.dy[9 * 4 + 1] = f32::NAN;
    case.dy[2 * 4..3 * 4].fill(2f32.powi(100));
    case.x[5 * 4..6 * 4].fill(1.0);
    case.verify_growth("strange numbers", backend, 7, Key::new(1).with_name("ties"));
    case.verify_growth("strange numbers", backend, 25, Key::new(1).with_name("ties"));
    let found = case.grow(backend, 25, Key::new(1));
    assert!(found.iter().all(|c| c.score.is_finite() && (c.row != 2 || c.score == 0.0)), "{found:?}");
    assert!(found.iter().any(|c| c.score > 1e30));
    let request = GrowRequest { exclude: case.pattern.blocks().clone(), count: 4, ties: Key::new(1) };
    let found = backend.grow_blocks([4, 4], &request, &[]).unwrap();
    assert!(found.len() == 4 && found.iter().all(|c| c.score == 0.0), "{found:?}");
}

/// Two uses of a weight score as one use with the lanes of both; one without lanes adds nothing.
pub fn growth_sums_over_uses<B: BlockSparseLinear>(backend: &B) {
    let cases = [13, 0, 20].map(|lanes| case([30, 41, lanes], [8, 4], 32, (0.3, 5), lanes as u64, true));
    let joined = |part: fn(&Case) -> &Vec<f32>, rows: usize| -> Vec<f32> {
        (0..rows).flat_map(|r| cases.iter().flat_map(move |c| part(c)[r * c.lanes..][..c.lanes].to_vec())).collect()
    };
    let (dy, x) = (joined(|c| &c.dy, 30), joined(|c| &c.x, 41));
    let request = GrowRequest { exclude: cases[0].pattern.blocks().clone(), count: 9, ties: Key::new(5) };
    let strips = |c: &Case| (c.strips(backend, &c.dy, &[true; 30]), c.strips(backend, &c.x, &[true; 41]));
    let operands = [strips(&cases[0]), strips(&cases[1]), strips(&cases[2])];
    let pairs: Vec<_> = operands.iter().map(|(dy, x)| (dy, x)).collect();
    let expected = reference::grow_blocks([30, 41], [8, 4], &request, &dy, &x, 33);
    assert_eq!(backend.grow_blocks([8, 4], &request, &pairs).unwrap(), expected);
}

/// Errors name what does not fit.
pub fn impossible_growth_is_refused_by_name<B: BlockSparseLinear>(backend: &B) {
    let case = case([20, 30, 4], [4, 8], 32, (0.5, 5), 1, true);
    let (x, dy) = (case.strips(backend, &case.x, &[true; 30]), case.strips(backend, &case.dy, &[true; 20]));
    let request = GrowRequest { exclude: case.pattern.blocks().clone(), count: 1, ties: Key::new(1) };
    let message = |block_size| backend.grow_blocks(block_size, &request, &[(&dy, &x)]).unwrap_err().to_string();
    assert!(message([3, 8]).contains("3"), "{}", message([3, 8]));
    assert!(message([8, 8]).contains("number of block rows is 5, expected 3"), "{}", message([8, 8]));
    assert!(message([4, 4]).contains("number of block columns is 4, expected 8"), "{}", message([4, 4]));
    let other = case.strips(backend, &case.x[..4 * 29], &[true; 29]);
    assert!(backend.grow_blocks([4, 8], &request, &[(&dy, &x), (&dy, &other)]).is_err());
}

/// Errors name what does not fit.
pub fn wrong_shapes_are_refused_by_name<B: BlockSparseLinear>(backend: &B) {
    let case = case([4, 5, 6], [2, 2], 32, (1.0, 5), 1, true);
    let plan = |strip| backend.plan_blocks(case.pattern.clone(), PlanOptions { strip, transpose: false });
    assert!(plan(40).is_err());
    let w = BlockMatrix { plan: plan(32).unwrap(), values: backend.zeros(case.pattern.nnz()).unwrap() };
    assert!(backend.block_plan_bytes(&w.plan) > 0 && backend.block_plan_options(&w.plan).strip == 32);
    assert_eq!(backend.block_pattern(&w.plan), &case.pattern);
    assert!(BlockMatrix::new(backend, case.pattern.clone(), &[0.0], case.options()).is_err());
    let (x, mut y) = (case.strips(backend, &case.x, &[true; 5]), case.poisoned(backend, 4));
    let message = |result: Result<(), crate::BackendError>| result.unwrap_err().to_string();
    let mut wrong = case.poisoned(backend, 5);
    let shape = message(backend.spmm_bsr(Op::NoTranspose, &w, &x, &mut wrong));
    assert!(shape.contains("rows of Y is 5, expected 4"), "{shape}");
    let no_transpose = message(backend.spmm_bsr(Op::Transpose, &w, &y, &mut wrong));
    assert!(no_transpose.contains("transpose"), "{no_transpose}");
    let mut short = backend.zeros(1).unwrap();
    assert!(backend.sddmm_bsr(&w.plan, &y, &x, &mut short, false).is_err());
    let mut other = Strips::zeros(backend, StripLayout::new(6, 4, 16).unwrap()).unwrap();
    assert!(message(backend.spmm_bsr(Op::NoTranspose, &w, &x, &mut other)).contains("strip width"));
    let few = BlockMatrix { plan: plan(32).unwrap(), values: backend.zeros(3).unwrap() };
    assert!(message(backend.spmm_bsr(Op::NoTranspose, &few, &x, &mut y)).contains("3 values"));
    y.data = backend.zeros(3).unwrap();
    assert!(message(backend.spmm_bsr(Op::NoTranspose, &w, &x, &mut y)).contains("length of Y"));
}
