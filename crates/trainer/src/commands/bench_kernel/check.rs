//! The check of a result against plain loops in f64.

use std::sync::Arc;

use rigl::topology::random_pattern;
use sparse_kernels::random::Key;
use sparse_kernels::reference::{self, Exact};
use sparse_kernels::{Candidate, CsrPattern, GrowRequest};

use super::arguments::Shape;
use super::operands::Numbers;
use super::subject::{Layer, Pass, Subject};
use crate::error::Context;

/// Results of a forward pass or an input gradient of a convolution that are checked, at most: a full reference takes
/// minutes.
const CHECKED_PIXELS: usize = 4096;
/// The same of a weight gradient, each a sum over all pixels and samples.
const CHECKED_WEIGHTS: usize = 256;
/// Blocks that growth of a convolution found, and blocks of all, that are checked at least, however large they are.
const CHECKED_BLOCKS: usize = 16;
/// Weights of a product that are checked, at most, besides those that growth found.
const CHECKED_ENTRIES: usize = 200_000;

/// The largest error of a result, 1 being what rounding may cause.
pub(super) fn error(subject: &Subject, numbers: &Numbers, got: &[f32]) -> crate::Result<f64> {
    if got.iter().any(|number| number.is_nan()) {
        return Ok(f64::INFINITY);
    }
    Ok(exact(subject, numbers)?.into_iter().map(|(position, exact)| exact.error(got[position])).fold(0.0, f64::max))
}

/// The results of a pass other than growth with their positions; of a convolution some, drawn by chance.
fn exact(subject: &Subject, numbers: &Numbers) -> crate::Result<Vec<(usize, Exact)>> {
    let Numbers { seed, values, x, dy } = numbers;
    let (pass, pattern) = (subject.pass, &*subject.stored.blocks);
    let (shape, size) = match subject.layer {
        Layer::Conv { shape, size, .. } => (shape, size),
        Layer::Linear(Shape { n, .. }) => {
            let exact = match pass {
                Pass::Forward => reference::spmm_bsr(pattern, values, x, n),
                Pass::InputGrad => reference::spmm_bsr_transposed(pattern, values, dy, n),
                Pass::WeightGrad | Pass::Grow => reference::sddmm_bsr(pattern, dy, x, n),
            };
            return Ok(exact.into_iter().enumerate().collect());
        }
    };
    let weight = pattern.to_dense(values)?;
    let key = Key::new(*seed).with_name("checked");
    let some = |all: usize, most: usize, exact: &dyn Fn(usize) -> Exact| {
        let draw = |i: usize| if all <= most { i } else { key.below(i as u64, all as u64) as usize };
        (0..all.min(most)).map(draw).map(|position| (position, exact(position))).collect()
    };
    Ok(match pass {
        Pass::Forward => some(dy.len(), CHECKED_PIXELS, &|at| reference::conv::forward_at(shape, size, &weight, x, at)),
        Pass::InputGrad => {
            some(x.len(), CHECKED_PIXELS, &|at| reference::conv::input_grad_at(shape, size, &weight, dy, at))
        }
        Pass::WeightGrad | Pass::Grow => {
            // None for the padding of blocks.
            let mut places = vec![None; pattern.nnz()];
            pattern.entries().for_each(|entry| places[entry.position] = Some([entry.row, entry.column]));
            let exact = |at| gradient_at(subject.layer, at, numbers);
            some(places.len(), CHECKED_WEIGHTS, &|position| places[position].map_or(Exact::ZERO, exact))
        }
    })
}

/// The dense gradient at a row and column.
fn gradient_at(layer: Layer, [row, column]: [usize; 2], Numbers { x, dy, .. }: &Numbers) -> Exact {
    match layer {
        Layer::Linear(Shape { n, .. }) => {
            let mut sum = Exact::ZERO;
            dy[row * n..][..n].iter().zip(&x[column * n..]).for_each(|(&dy, &x)| sum.add(dy, x));
            sum
        }
        Layer::Conv { shape, size, samples } => {
            reference::conv::weight_grad_at(shape, size, samples, dy, x, row * shape.columns() + column)
        }
    }
}

/// The largest error of what growth found: scores must be right, and no position left out may be larger than the smallest
/// one found, up to rounding.
pub(super) fn growth_error(
    subject: &Subject,
    numbers: &Numbers,
    request: &GrowRequest,
    found: &[Candidate],
) -> crate::Result<f64> {
    let exclude = &request.exclude;
    let (rows, columns) = (exclude.nrows(), exclude.ncols());
    let positions: Vec<_> = found.iter().map(|candidate| (candidate.row, candidate.column)).collect();
    if found.len() != request.count.min(rows * columns - exclude.nnz())
        || !positions.is_sorted_by(|a, b| a < b)
        || found.iter().any(|candidate| candidate.score.is_nan())
    {
        return Ok(f64::INFINITY);
    }
    let sample = CsrPattern::from_positions(rows, columns, growth_sample(subject, numbers.seed, request, &positions)?);
    let sample = Arc::new(sample.context(|| "growth gave positions outside the matrix")?);
    let smallest = found.iter().map(|candidate| f64::from(candidate.score)).fold(f64::INFINITY, f64::min);
    let error = |(at, exact): ((u32, u32), Exact)| {
        let is_stored = exclude.row(at.0 as usize).binary_search(&at.1).is_ok();
        match positions.binary_search(&at) {
            Ok(_) if is_stored => f64::INFINITY,
            Ok(i) => exact.error(found[i].score),
            Err(_) if is_stored || exact.value <= smallest => 0.0,
            Err(_) => Exact { value: smallest, ..exact }.error(exact.value as f32),
        }
    };
    Ok(sample.positions().zip(gradient_norms(subject, numbers, &sample)?).map(error).fold(0.0, f64::max))
}

/// Where growth is checked: of a product all that it found, and of all positions as many as a reference can compute; of a
/// convolution some of both, drawn by chance.
fn growth_sample(
    subject: &Subject,
    seed: u64,
    request: &GrowRequest,
    found: &[(u32, u32)],
) -> crate::Result<Vec<(u32, u32)>> {
    let (rows, columns) = (request.exclude.nrows(), request.exclude.ncols());
    let block: usize = subject.stored.blocks.block_size().iter().product();
    if let Layer::Linear(_) = subject.layer {
        let others = random_pattern(rows, columns, (rows * columns).min(CHECKED_ENTRIES / block), request.ties)?;
        return Ok(others.positions().chain(found.iter().copied()).collect());
    }
    let key = Key::new(seed).with_name("checked");
    let draws = 0..(CHECKED_WEIGHTS / block).max(CHECKED_BLOCKS) as u64;
    let both = |draw| {
        let candidate = found.get(key.below(2 * draw, found.len().max(1) as u64) as usize);
        let other = key.below(2 * draw + 1, (rows * columns) as u64) as usize;
        [candidate.copied(), Some(((other / columns) as u32, (other % columns) as u32))]
    };
    Ok(draws.flat_map(both).flatten().collect())
}

/// The Frobenius norm of the dense gradient in each of these blocks. The magnitude is the norm of the entries' magnitudes:
/// rounding moves a norm by no more than the norm of what it moves the entries by.
fn gradient_norms(subject: &Subject, numbers: &Numbers, blocks: &Arc<CsrPattern>) -> crate::Result<Vec<Exact>> {
    let pattern = subject.stored.blocks.with_blocks(blocks.clone())?;
    let [r, c] = pattern.block_size();
    let mut norms = vec![Exact::ZERO; pattern.nnz_blocks()];
    for entry in pattern.entries() {
        let exact = gradient_at(subject.layer, [entry.row, entry.column], numbers);
        let norm = &mut norms[entry.position / (r * c)];
        norm.value += exact.value * exact.value;
        norm.magnitude += exact.magnitude * exact.magnitude;
        // Equally many in all of a block: its lanes, or the pixels that its tap meets.
        norm.terms = exact.terms;
    }
    let root = |norm: Exact| Exact { value: norm.value.sqrt(), magnitude: norm.magnitude.sqrt(), ..norm };
    Ok(norms.into_iter().map(root).collect())
}
