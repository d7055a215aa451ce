//! Samples and labels as lists: what a device must be able to do.

use super::check::{Checked, Done, strips_fit};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::error::expect_equal;
use crate::{BackendError, BsrPattern, Csr, CsrPattern, Strips, Transposed};

/// Where a weight matrix `W[m, k]` holds its values, column by column: what a product with samples that are lists goes by.
#[derive(Debug, Clone)]
pub struct ColumnIndex(pub(crate) Columns);

/// Kinds of [`ColumnIndex`].
#[derive(Debug, Clone)]
pub(crate) enum Columns {
    /// All positions, row by row.
    Dense([usize; 2]),
    /// Blocks of `block_size`, which is `[1, 1]` for single entries.
    Blocks {
        size: [usize; 2],
        block_size: [usize; 2],
        /// For each column of the grid of blocks the rows of its blocks, and where they stand among the values.
        blocks: Transposed,
    },
}

impl ColumnIndex {
    /// Of all positions, row by row.
    pub fn dense(nrows: usize, ncols: usize) -> Self {
        Self(Columns::Dense([nrows, ncols]))
    }

    /// Of single entries.
    ///
    /// # Cost
    /// A counting sort; 8 bytes per entry.
    pub fn of_csr(pattern: &CsrPattern) -> Self {
        let size = [pattern.nrows(), pattern.ncols()];
        Self(Columns::Blocks { size, block_size: [1, 1], blocks: pattern.transpose() })
    }

    /// Of the blocks of a matrix.
    ///
    /// # Cost
    /// A counting sort; 8 bytes per block.
    pub fn of_blocks(pattern: &BsrPattern) -> Self {
        let (size, block_size) = ([pattern.nrows(), pattern.ncols()], pattern.block_size());
        Self(Columns::Blocks { size, block_size, blocks: pattern.blocks().transpose() })
    }

    /// Rows and columns of the matrix.
    pub fn size(&self) -> [usize; 2] {
        match &self.0 {
            Columns::Dense(size) | Columns::Blocks { size, .. } => *size,
        }
    }

    /// Values that the weight has, padding of blocks included.
    pub fn values(&self) -> usize {
        match &self.0 {
            Columns::Dense([nrows, ncols]) => nrows * ncols,
            Columns::Blocks { block_size: [r, c], blocks, .. } => blocks.permutation.len() * r * c,
        }
    }

    /// Bytes of the index.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Columns::Dense(_) => 0,
            Columns::Blocks { blocks: Transposed { pattern, permutation }, .. } => {
                (pattern.row_offsets().len() + pattern.nnz() + permutation.len()) * size_of::<u32>()
            }
        }
    }
}

/// Products with samples that are lists of indices and values, `X[n, k]` in CSR, one row a sample; and the loss of labels that
/// are lists, a sample's being a row of a pattern `[n, labels]`.
///
/// The lists are on the host: a device copies what it needs of them.
pub trait Lists: Storage {
    /// `y = W · Xᵀ`; y is `[m, n]` and overwritten, its padding lanes with zeros.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device cannot do it.
    ///
    /// # Cost
    /// Two operations for each entry of X and each value of W in its column; with a dense W that is `2 · nnz(X) · m`.
    fn list_product(
        &self,
        index: &ColumnIndex,
        values: &Self::Buffer,
        x: &Csr,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        check_lists(self, "list_product", index, values, x, y)?;
        let mut y = WideMut::overwritten(self, false, y)?;
        self.run_list_product(Checked(()), index, values, x, &mut y)?;
        y.store()
    }

    /// `values[e] = Σ_n dy[i, n] · X[n, j]` for every value `e = (i, j)` of W; dy is `[m, n]`. Overwrites, or adds with
    /// `accumulate`. Of a column that no sample has, the gradient is 0. Padding of blocks becomes 0 or stays as it is.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device cannot do it.
    ///
    /// # Cost
    /// As [`Lists::list_product`], and without `accumulate` one pass over the values.
    fn list_weight_grad(
        &self,
        index: &ColumnIndex,
        dy: &Strips<Self>,
        x: &Csr,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        check_lists(self, "list_weight_grad", index, values, x, dy)?;
        let dy = Wide::new(self, false, dy)?;
        self.run_list_weight_grad(Checked(()), index, &dy, x, values, accumulate)
    }

    /// Binary cross-entropy of the logits `y[f, n]` of the labels `first..first + features`, of which sample n has those in row n
    /// of `labels`: adds `Σ_{f, n} max(y, 0) − y · t + ln(1 + exp(−abs(y)))` to `stats[0]`, t being 1 for the labels that
    /// it has and 0 for all others, and replaces y by its gradient, `scale · (σ(y) − t)`, with zeros in padding lanes. A logit that is
    /// not finite makes the loss NaN.
    ///
    /// # Errors
    /// If the shapes do not fit, or the device cannot do it.
    ///
    /// # Cost
    /// One pass over y.
    fn label_loss(
        &self,
        scale: f32,
        first: usize,
        labels: &CsrPattern,
        y: &mut Strips<Self>,
        stats: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        const NAME: &str = "label_loss";
        expect_equal(NAME, "lists of labels", y.layout.lanes(), labels.nrows())?;
        let end = first + y.layout.features();
        if end > labels.ncols() {
            let (what, got, rule) = ("last label of the logits", end, "at most the number of labels");
            return Err(crate::ShapeError::Rule { op: NAME, what, got, rule }.into());
        }
        expect_equal(NAME, "length of the statistics", 2, self.len(stats))?;
        strips_fit(self, NAME, y)?;
        let mut y = WideMut::updated(self, false, y)?;
        self.run_label_loss(Checked(()), scale, first, labels, &mut y, stats)?;
        y.store()
    }

    #[doc(hidden)]
    fn run_list_product(
        &self,
        _: Checked,
        index: &ColumnIndex,
        values: &Self::Buffer,
        x: &Csr,
        y: &mut Strips<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_list_weight_grad(
        &self,
        _: Checked,
        index: &ColumnIndex,
        dy: &Strips<Self>,
        x: &Csr,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_label_loss(
        &self,
        _: Checked,
        scale: f32,
        first: usize,
        labels: &CsrPattern,
        y: &mut Strips<Self>,
        stats: &mut Self::Buffer,
    ) -> Done;
}

/// Checks the operands of products with lists; y may be dy.
fn check_lists<B: Storage>(
    backend: &B,
    op: &'static str,
    index: &ColumnIndex,
    values: &B::Buffer,
    x: &Csr,
    y: &Strips<B>,
) -> Done {
    let [m, k] = index.size();
    expect_equal(op, "columns of X", k, x.pattern().ncols())?;
    expect_equal(op, "number of lanes", x.pattern().nrows(), y.layout.lanes())?;
    expect_equal(op, "rows of Y", m, y.layout.features())?;
    expect_equal(op, "number of values", index.values(), backend.len(values))?;
    Ok(strips_fit(backend, op, y)?)
}
