//! Streaming growth for convolutions: the k largest entries of the dense weight gradient outside a pattern.
//!
//! ```text
//! for each band of output channels
//!     dW[band] = Σ over pairs of the dense gradient          in memory of fixed size
//!     for each row of the band
//!         append abs(dW) >= threshold outside the pattern to the candidates;
//!             if those are too many, keep the best k and raise the threshold
//! keep the best k, in order of position
//! ```
//!
//! Selection is that of the linear layers' growth, with the same total order. The gradient is a sum over pixels that stays
//! in registers too short a time to be compared there, as the linear one is; but a position costs thousands of
//! multiply-adds, beside which writing and reading it again is nothing.

use crate::backend::GrowRequest;
use crate::cpu::Cpu;
use crate::cpu::grow::{BAND_ROWS, Best, PLACE_ROW, Ranking, in_order};
use crate::{Candidate, ConvShape, Images};

/// Floats of a band of the gradient, if one row has not more already.
const BAND_FLOATS: usize = 1 << 18;

/// See [`crate::SparseConv::grow_conv`] and, of blocks, [`crate::BlockSparseConv::grow_conv_blocks`].
pub(super) fn grow(
    cpu: &Cpu,
    shape: ConvShape,
    block_size: Option<[usize; 2]>,
    request: &GrowRequest,
    pairs: &[(&Images<Cpu>, &Images<Cpu>)],
) -> Vec<Candidate> {
    let r = block_size.map_or(1, |[r, _]| r);
    let (exclude, rows, columns) = (&*request.exclude, shape.rows(), shape.columns());
    let [grid_rows, grid_columns] = [exclude.nrows(), exclude.ncols()];
    // There are no more candidates than this.
    let count = request.count.min(grid_rows * grid_columns - exclude.nnz());
    if count == 0 {
        return Vec::new();
    }
    let ranking = Ranking { ties: request.ties, ncols: grid_columns as u64 };
    let mut best = Best::new(ranking, count, 0.0, grid_columns.min(PLACE_ROW));
    let bands = grid_rows.div_ceil((BAND_FLOATS / (r * columns)).clamp(1, BAND_ROWS));
    let (mut dw, mut norms) = (cpu.scratch(0), Vec::new());
    for band in 0..bands {
        let band = band * grid_rows / bands..(band + 1) * grid_rows / bands;
        let rows = band.start * r..(band.end * r).min(rows);
        dw.resize(rows.len() * columns);
        if pairs.is_empty() {
            dw.fill(0.0);
        }
        for (i, (dy, x)) in pairs.iter().enumerate() {
            cpu.dense_weight_grad(shape, rows.clone(), dy, x, &mut dw, i > 0);
        }
        match block_size {
            None => best.push_rows(exclude, band, &dw),
            Some(block_size) => {
                block_norms(shape, block_size, &dw, &mut norms);
                best.push_rows(exclude, band, &norms);
            }
        }
    }
    cpu.give_back(dw);
    in_order(&best.list, ranking, count)
}

/// The norms of the blocks of some rows of the gradient, `[row of blocks][tap][block of channels]`: squares summed down the
/// rows, then across a block's channels, in f64.
fn block_norms(shape: ConvShape, [r, c]: [usize; 2], dw: &[f32], norms: &mut Vec<f32>) {
    let (columns, taps) = (shape.columns(), shape.taps());
    let mut squares = vec![0.0f64; columns];
    norms.clear();
    for rows in dw.chunks(r * columns) {
        squares.fill(0.0);
        for row in rows.chunks_exact(columns) {
            for (sum, &value) in squares.iter_mut().zip(row) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
        for tap in 0..taps {
            for channels in squares.chunks_exact(c * taps) {
                norms.push(channels.iter().skip(tap).step_by(taps).sum::<f64>().sqrt() as f32);
            }
        }
    }
}
