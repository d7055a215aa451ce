//! Every operation as plain loops with f64 sums: what the kernels are tested against. No cleverness, row-major
//! operands, no errors beyond panics on wrong sizes.

#[cfg(feature = "conv")]
pub mod conv;
#[cfg(feature = "nn")]
pub mod images;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "nn")]
pub mod recurrent;
#[cfg(feature = "nn")]
pub mod sequence;

use crate::backend::GrowRequest;
use crate::{BsrPattern, Candidate, CsrPattern};

/// A sum of products and what its terms amount to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exact {
    /// The sum.
    pub value: f64,
    /// `Σ abs(term)`: the scale of the rounding error that any order of summation in f32 may make.
    pub magnitude: f64,
    /// Number of terms.
    pub terms: usize,
}

impl Exact {
    /// The empty sum.
    pub const ZERO: Exact = Exact { value: 0.0, magnitude: 0.0, terms: 0 };

    /// Adds the term `a · b`.
    pub fn add(&mut self, a: f32, b: f32) {
        let term = f64::from(a) * f64::from(b);
        self.value += term;
        self.magnitude += term.abs();
        self.terms += 1;
    }

    /// Error of `got` as a fraction of the largest that f32 arithmetic may make: `(terms + 1) · ε · Σ abs(term)`.
    /// At most 1 for a correct result; infinite for NaN.
    pub fn error(&self, got: f32) -> f64 {
        let allowed = (self.terms + 1) as f64 * f64::from(f32::EPSILON) * self.magnitude;
        let error = (f64::from(got) - self.value).abs();
        if error == 0.0 {
            0.0
        } else if error.is_nan() || allowed == 0.0 {
            f64::INFINITY
        } else {
            error / allowed
        }
    }
}

/// `Y[m, n] = W[m, k] · X[k, n]`, all row-major.
pub fn spmm(pattern: &CsrPattern, values: &[f32], x: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((values.len(), x.len()), (pattern.nnz(), pattern.ncols() * lanes));
    let mut y = vec![Exact::ZERO; pattern.nrows() * lanes];
    for ((row, column), &value) in pattern.positions().zip(values) {
        for n in 0..lanes {
            y[row as usize * lanes + n].add(value, x[column as usize * lanes + n]);
        }
    }
    y
}

/// `X[k, n] = Wᵀ[k, m] · Y[m, n]`, all row-major.
pub fn spmm_transposed(pattern: &CsrPattern, values: &[f32], y: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((values.len(), y.len()), (pattern.nnz(), pattern.nrows() * lanes));
    let mut x = vec![Exact::ZERO; pattern.ncols() * lanes];
    for ((row, column), &value) in pattern.positions().zip(values) {
        for n in 0..lanes {
            x[column as usize * lanes + n].add(value, y[row as usize * lanes + n]);
        }
    }
    x
}

/// `dW[e] = Σ_n dY[i, n] · X[j, n]` for every stored entry `e = (i, j)`.
pub fn sddmm(pattern: &CsrPattern, dy: &[f32], x: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((dy.len(), x.len()), (pattern.nrows() * lanes, pattern.ncols() * lanes));
    let dot = |(row, column): (u32, u32)| {
        let mut sum = Exact::ZERO;
        (0..lanes).for_each(|n| sum.add(dy[row as usize * lanes + n], x[column as usize * lanes + n]));
        sum
    };
    pattern.positions().map(dot).collect()
}

/// `Y[m, n] = W[m, k] · X[k, n]` with `W` in blocks, all row-major.
pub fn spmm_bsr(pattern: &BsrPattern, values: &[f32], x: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((values.len(), x.len()), (pattern.nnz(), pattern.ncols() * lanes));
    let mut y = vec![Exact::ZERO; pattern.nrows() * lanes];
    for e in pattern.entries() {
        for n in 0..lanes {
            y[e.row * lanes + n].add(values[e.position], x[e.column * lanes + n]);
        }
    }
    y
}

/// `X[k, n] = Wᵀ[k, m] · Y[m, n]` with `W` in blocks, all row-major.
pub fn spmm_bsr_transposed(pattern: &BsrPattern, values: &[f32], y: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((values.len(), y.len()), (pattern.nnz(), pattern.nrows() * lanes));
    let mut x = vec![Exact::ZERO; pattern.ncols() * lanes];
    for e in pattern.entries() {
        for n in 0..lanes {
            x[e.column * lanes + n].add(values[e.position], y[e.row * lanes + n]);
        }
    }
    x
}

/// `dW[e] = Σ_n dY[i, n] · X[j, n]` for every stored entry `e = (i, j)` of the blocks; padding is an empty sum.
pub fn sddmm_bsr(pattern: &BsrPattern, dy: &[f32], x: &[f32], lanes: usize) -> Vec<Exact> {
    assert_eq!((dy.len(), x.len()), (pattern.nrows() * lanes, pattern.ncols() * lanes));
    let mut values = vec![Exact::ZERO; pattern.nnz()];
    for e in pattern.entries() {
        (0..lanes).for_each(|n| values[e.position].add(dy[e.row * lanes + n], x[e.column * lanes + n]));
    }
    values
}

/// The Frobenius norm of `dY · Xᵀ` in each stored block of the pattern. What of a block lies outside the matrix does not
/// count.
///
/// The magnitude is the norm of the entries' magnitudes: rounding moves a norm by no more than the norm of what it moves
/// the entries by.
pub fn block_norms(pattern: &BsrPattern, dy: &[f32], x: &[f32], lanes: usize) -> Vec<Exact> {
    let [r, c] = pattern.block_size();
    let norm = |entries: &[Exact]| {
        let of = |part: fn(&Exact) -> f64| entries.iter().map(|e| part(e) * part(e)).sum::<f64>().sqrt();
        Exact { value: of(|e| e.value), magnitude: of(|e| e.magnitude), terms: lanes }
    };
    sddmm_bsr(pattern, dy, x, lanes).chunks_exact(r * c).map(norm).collect()
}

/// The blocks that [`crate::BlockSparseLinear::grow_blocks`] finds in a matrix of `[nrows, ncols]`: all norms are sorted.
pub fn grow_blocks(
    [nrows, ncols]: [usize; 2],
    block_size: [usize; 2],
    request: &GrowRequest,
    dy: &[f32],
    x: &[f32],
    lanes: usize,
) -> Vec<Candidate> {
    let columns = request.exclude.ncols();
    let full = BsrPattern::full(nrows, ncols, block_size).expect("a matrix that fits memory fits its indices");
    let norms = block_norms(&full, dy, x, lanes);
    let is_free = |at: &usize| request.exclude.row(at / columns).binary_search(&((at % columns) as u32)).is_err();
    let mut free: Vec<(usize, f32)> = (0..norms.len())
        .filter(is_free)
        .map(|at| (at, if norms[at].value.is_nan() { 0.0 } else { norms[at].value as f32 }))
        .collect();
    let hash = |at: usize| request.ties.bits(at as u64) as u32;
    free.sort_by(|a, b| b.1.total_cmp(&a.1).then(hash(a.0).cmp(&hash(b.0))).then(a.0.cmp(&b.0)));
    free.truncate(request.count);
    free.sort_by_key(|&(at, _)| at);
    let candidate = |(at, score)| Candidate { row: (at / columns) as u32, column: (at % columns) as u32, score };
    free.into_iter().map(candidate).collect()
}
