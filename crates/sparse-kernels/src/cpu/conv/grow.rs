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

use super::dense::check;
use crate::backend::GrowRequest;
use crate::cpu::Cpu;
use crate::cpu::grow::{BAND_ROWS, Best, PLACE_ROW, Ranking, in_order};
use crate::error::expect_equal;
use crate::{BackendError, Candidate, ConvShape, Images};

/// Floats of a band of the gradient, if one row has not more already.
const BAND_FLOATS: usize = 1 << 18;

/// See [`crate::SparseConv::grow_conv`].
pub(super) fn grow(
    cpu: &Cpu,
    shape: ConvShape,
    request: &GrowRequest,
    pairs: &[(&Images<Cpu>, &Images<Cpu>)],
) -> Result<Vec<Candidate>, BackendError> {
    const OP: &str = "grow_conv";
    let (exclude, rows, columns) = (&*request.exclude, shape.rows(), shape.columns());
    expect_equal(OP, "number of rows", rows, exclude.nrows())?;
    expect_equal(OP, "number of columns", columns, exclude.ncols())?;
    for (dy, x) in pairs {
        check(OP, shape, rows * columns, x, dy, false)?;
    }
    // There are no more candidates than this.
    let count = request.count.min(rows * columns - exclude.nnz());
    if count == 0 {
        return Ok(Vec::new());
    }
    let ranking = Ranking { ties: request.ties, ncols: columns as u64 };
    let mut best = Best::new(ranking, count, 0.0, columns.min(PLACE_ROW));
    let bands = rows.div_ceil((BAND_FLOATS / columns).clamp(1, BAND_ROWS));
    let mut dw = cpu.scratch(0);
    for band in 0..bands {
        let band = band * rows / bands..(band + 1) * rows / bands;
        dw.resize(band.len() * columns);
        if pairs.is_empty() {
            dw.fill(0.0);
        }
        for (i, (dy, x)) in pairs.iter().enumerate() {
            cpu.dense_weight_grad(shape, band.clone(), dy, x, &mut dw, i > 0);
        }
        best.push_rows(exclude, band, &dw);
    }
    cpu.give_back(dw);
    Ok(in_order(&best.list, ranking, count))
}
