//! Operands of products with a linear layer's weight, and all of its products against the reference.

use std::sync::Arc;

use super::{check, host, read};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{
    Candidate, CsrPattern, DenseLinear, Op, PlanOptions, SparseLinear, SparseMatrix, Storage, StripLayout, Strips,
};

/// A product's operands: shapes, pattern, and row-major activations.
#[derive(Debug, Clone)]
pub struct Case {
    pub lanes: usize,
    pub strip: usize,
    pub pattern: Arc<CsrPattern>,
    pub values: Vec<f32>,
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
    /// Small whole numbers: every order of summation gives the same bits.
    pub exact: bool,
}

/// Sizes `[nrows, ncols, lanes]`; `shape` 0: one full row among empty ones, 1: every third row empty, else uniform.
pub fn case(sizes: [usize; 3], strip: usize, (density, shape): (f32, u8), seed: u64, exact: bool) -> Case {
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

    pub fn strips<B: Storage>(&self, backend: &B, data: &[f32], features: usize) -> Strips<B> {
        super::strips(backend, self.layout(features), data)
    }

    pub fn poisoned<B: Storage>(&self, backend: &B, features: usize) -> Strips<B> {
        super::poisoned(backend, self.layout(features))
    }

    fn check(&self, what: &str, got: &[f32], expected: &[Exact]) {
        check(what, self.exact, got, expected);
    }

    /// All products on one backend, as bits for comparison between backends of one instruction set.
    pub fn run<B: SparseLinear + DenseLinear>(&self, backend: &B) -> Vec<Vec<f32>> {
        let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
        let options = PlanOptions { strip: self.strip, transpose: true };
        let w = SparseMatrix::new(backend, self.pattern.clone(), &self.values, options).unwrap();
        let (x, dy) = (self.strips(backend, &self.x, k), self.strips(backend, &self.dy, m));
        let (mut y, mut dx) = (self.poisoned(backend, m), self.poisoned(backend, k));
        backend.spmm(Op::NoTranspose, &w, &x, &mut y).unwrap();
        let mut bias = backend.zeros(m).unwrap();
        backend.upload(&self.bias(), &mut bias).unwrap();
        let fused = |relu| {
            let mut y = self.poisoned(backend, m);
            backend.spmm_bias_relu(&w, &bias, relu, &x, &mut y).unwrap();
            read(backend, &y)
        };
        let (biased, rectified) = (fused(false), fused(true));
        backend.spmm(Op::Transpose, &w, &dy, &mut dx).unwrap();
        let mut dw = backend.zeros(self.pattern.nnz()).unwrap();
        backend.fill(f32::NAN, &mut dw).unwrap();
        backend.sddmm(&w.plan, &dy, &x, &mut dw, false).unwrap();
        let mut twice = backend.zeros(self.pattern.nnz()).unwrap();
        backend.copy(&dw, &mut twice).unwrap();
        backend.sddmm(&w.plan, &dy, &x, &mut twice, true).unwrap();
        let dense = self.dense_weight(backend);
        let (mut y_dense, mut dx_dense) = (self.poisoned(backend, m), self.poisoned(backend, k));
        backend.gemm(Op::NoTranspose, &dense, &x, &mut y_dense).unwrap();
        backend.gemm(Op::Transpose, &dense, &dy, &mut dx_dense).unwrap();
        let mut dw_dense = backend.zeros(m * k).unwrap();
        backend.fill(f32::NAN, &mut dw_dense).unwrap();
        backend.gemm_weight_grad(&dy, &x, &mut dw_dense, false).unwrap();
        let dense = [read(backend, &y_dense), read(backend, &dx_dense), host(backend, &dw_dense)];
        [read(backend, &y), read(backend, &dx), host(backend, &dw), host(backend, &twice)]
            .into_iter()
            .chain(dense)
            .chain([biased, rectified])
            .collect()
    }

    /// Some below and some above the sums, whole numbers as all that must be exact.
    fn bias(&self) -> Vec<f32> {
        (0..self.pattern.nrows()).map(|row| (row % 5) as f32 - 2.0).collect()
    }

    fn dense_weight<B: Storage>(&self, backend: &B) -> B::Buffer {
        let mut dense = backend.zeros(self.pattern.nrows() * self.pattern.ncols()).unwrap();
        let w = crate::Csr::new(self.pattern.clone(), self.values.clone()).unwrap();
        backend.upload(&w.to_dense(), &mut dense).unwrap();
        dense
    }

    /// Every product of one backend against the reference; its results, as [`Case::run`] orders them.
    pub fn verify<B: SparseLinear + DenseLinear>(&self, name: &str, backend: &B) -> Vec<Vec<f32>> {
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
        let results = self.run(backend);
        self.check(&format!("{name} spmm"), &results[0], &y);
        self.check(&format!("{name} spmm_t"), &results[1], &dx);
        self.check(&format!("{name} sddmm"), &results[2], &dw);
        for (once, twice) in results[2].iter().zip(&results[3]) {
            let bound = 1e-4 * (1.0 + once.abs()) * f32::from(!self.exact);
            assert!((2.0 * once - twice).abs() <= bound, "{name} sddmm accumulated: {once} to {twice}");
        }
        // The dense product sums zeros too: more terms, the same magnitude.
        let dense = |exact: &[Exact], terms| exact.iter().map(|e| Exact { terms, ..*e }).collect::<Vec<_>>();
        self.check(&format!("{name} gemm"), &results[4], &dense(&y, self.pattern.ncols()));
        self.check(&format!("{name} gemm_t"), &results[5], &dense(&dx, self.pattern.nrows()));
        self.check(&format!("{name} gemm_weight_grad"), &results[6], &dw_dense);
        self.check(&format!("{name} spmm with bias"), &results[7], &biased);
        self.check(&format!("{name} spmm with bias and ReLU"), &results[8], &rectified);
        results
    }
}

/// The reference for growth: score everything, sort.
pub fn grow_reference(case: &Case, exclude: &CsrPattern, count: usize, ties: Key) -> Vec<Candidate> {
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
