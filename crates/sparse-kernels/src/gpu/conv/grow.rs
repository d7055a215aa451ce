//! Growth of convolutions.

use std::ops::Range;

use super::dense_check;
use crate::backend::GrowRequest;
use crate::error::expect_equal;
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, Candidate, ConvShape, Images};

/// See [`crate::SparseConv::grow_conv`].
pub(super) fn grow(
    gpu: &Gpu,
    shape: ConvShape,
    request: &GrowRequest,
    pairs: &[(&Images<Gpu>, &Images<Gpu>)],
) -> Result<Vec<Candidate>, BackendError> {
    const OP: &str = "grow_conv";
    expect_equal(OP, "number of rows", shape.rows(), request.exclude.nrows())?;
    expect_equal(OP, "number of columns", shape.columns(), request.exclude.ncols())?;
    for (dy, x) in pairs {
        dense_check(OP, shape, shape.rows() * shape.columns(), x, dy, false)?;
    }
    gpu.grow_from_bands(request, |rows, out| gpu.conv_band(shape, rows, pairs, out))
}

impl Gpu {
    /// Rows of the dense gradient of W, summed over pairs of `(dy, x)`, at the start of `out`.
    fn conv_band(
        &self,
        shape: ConvShape,
        rows: Range<usize>,
        pairs: &[(&Images<Self>, &Images<Self>)],
        out: &Buffer,
    ) -> Result<(), BackendError> {
        if pairs.is_empty() {
            return self.fill_buffer(0.0, out);
        }
        for (index, (dy, x)) in pairs.iter().enumerate() {
            self.conv_weight_rows(shape, rows.clone(), dy, x, out, index > 0)?;
        }
        Ok(())
    }
}
