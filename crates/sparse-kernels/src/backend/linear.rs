//! Products with sparse, block-sparse and dense matrices: what a device must be able to do.

use std::fmt::Debug;
use std::sync::Arc;

use crate::error::expect_values;
use crate::random::Key;
use crate::{BackendError, BsrPattern, CsrPattern, Storage, Strips};

/// Which matrix a product uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `Y = W · X`.
    NoTranspose,
    /// `dX = Wᵀ · dY`.
    Transpose,
}

/// What [`SparseLinear::plan`] prepares for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanOptions {
    /// Lanes per strip of the activations, see [`crate::StripLayout`].
    pub strip: usize,
    /// Whether [`Op::Transpose`] will be asked for. The first layer of a network needs no input gradient, and then
    /// neither the transposed index nor the transposed values are held.
    pub transpose: bool,
}

/// Strips of [`crate::StripLayout::SPARSE_STRIP`] lanes and no transpose: what inference needs.
impl Default for PlanOptions {
    fn default() -> Self {
        Self { strip: crate::StripLayout::SPARSE_STRIP, transpose: false }
    }
}

/// A sparse weight matrix on a backend: plan, values, and the same values in transposed order.
#[derive(Debug)]
pub struct SparseMatrix<B: SparseLinear> {
    /// The pattern, prepared for the device.
    pub plan: B::Plan,
    /// One value per stored entry, in the pattern's order.
    pub values: B::Buffer,
    /// The values in the transposed pattern's order; empty without [`PlanOptions::transpose`]. Whoever changes
    /// `values` calls [`SparseMatrix::refresh`] before the next transposed product.
    pub transposed_values: B::Buffer,
}

impl<B: SparseLinear> SparseMatrix<B> {
    /// Plans `pattern` and uploads `values`.
    ///
    /// # Errors
    /// If there is not one value per entry, or the device is out of memory.
    pub fn new(
        backend: &B,
        pattern: Arc<CsrPattern>,
        values: &[f32],
        options: PlanOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), values.len())?;
        let mut buffer = backend.zeros(values.len())?;
        backend.upload(values, &mut buffer)?;
        Self::from_buffer(backend, pattern, buffer, options)
    }

    /// Plans `pattern` for values that are on the device already.
    ///
    /// # Errors
    /// If there is not one value per entry, or the device is out of memory.
    pub fn from_buffer(
        backend: &B,
        pattern: Arc<CsrPattern>,
        values: B::Buffer,
        options: PlanOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), backend.len(&values))?;
        let plan = backend.plan(pattern, options)?;
        let transposed_values = backend.zeros(if options.transpose { backend.len(&values) } else { 0 })?;
        let mut matrix = Self { plan, values, transposed_values };
        matrix.refresh(backend)?;
        Ok(matrix)
    }

    /// Brings the transposed values up to date with `values`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Cost
    /// One gather of nnz values.
    pub fn refresh(&mut self, backend: &B) -> Result<(), BackendError> {
        backend.refresh_transposed(&self.plan, &self.values, &mut self.transposed_values)
    }
}

/// A position that growth proposes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Row of the weight matrix.
    pub row: u32,
    /// Column of the weight matrix.
    pub column: u32,
    /// `abs` of the dense gradient there.
    pub score: f32,
}

/// Which positions growth looks for: [`SparseLinear::grow`] and its relatives.
#[derive(Debug, Clone, PartialEq)]
pub struct GrowRequest {
    /// Positions that are not candidates: those that the update keeps. For a block-sparse weight the positions are those of
    /// blocks in the grid of blocks, and so are the candidates.
    pub exclude: Arc<CsrPattern>,
    /// How many to find.
    pub count: usize,
    /// Orders candidates of equal score: the lower `ties.bits(row · ncols + column)`'s low word first, then the
    /// lower index, so that dead inputs do not favour low indices.
    pub ties: Key,
}

/// Products with a sparse weight matrix `W[m, k]`, CSR.
pub trait SparseLinear: Storage {
    /// A pattern prepared for this device (inspector–executor): rebuilt when the pattern changes, never when only
    /// values do.
    type Plan: Debug + Send + Sync;

    /// Prepares `pattern`.
    ///
    /// # Errors
    /// If an option is impossible or the device is out of memory.
    ///
    /// # Cost
    /// O(m + k + nnz) with sorting of rows by length; the CPU's plan takes 8 bytes per nonzero for the transposed
    /// index and about 12 bytes per row and column chunk.
    fn plan(&self, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<Self::Plan, BackendError>;

    /// The pattern a plan was made of.
    fn pattern<'a>(&self, plan: &'a Self::Plan) -> &'a Arc<CsrPattern>;

    /// What a plan was made for.
    fn plan_options(&self, plan: &Self::Plan) -> PlanOptions;

    /// Bytes that a plan holds besides the pattern.
    fn plan_bytes(&self, plan: &Self::Plan) -> usize;

    /// Copies `values` into the order of the transposed pattern; nothing if the plan has none.
    ///
    /// # Errors
    /// If the lengths do not fit the plan.
    fn refresh_transposed(
        &self,
        plan: &Self::Plan,
        values: &Self::Buffer,
        transposed: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `y = W · x` ([`Op::NoTranspose`]: x is `[k, n]`, y is `[m, n]`) or `y = Wᵀ · x` ([`Op::Transpose`]: x is
    /// `[m, n]`, y is `[k, n]`). `y` is overwritten, its padding lanes with zeros.
    ///
    /// # Errors
    /// If the shapes do not fit, or the plan has no transpose.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn spmm(&self, op: Op, w: &SparseMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError>;

    /// `y = act(W · x + bias)`, `act` being ReLU or, without `relu`, nothing: [`SparseLinear::spmm`] whose sums begin with
    /// the bias and are stored through ReLU, which saves a pass over `y`. Padding lanes of `y` become zero.
    ///
    /// # Errors
    /// If the shapes do not fit; `bias` has one element per row of W.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn spmm_bias_relu(
        &self,
        w: &SparseMatrix<Self>,
        bias: &Self::Buffer,
        relu: bool,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError>;

    /// `values[e] = Σ_n dy[i, n] · x[j, n]` for every stored entry `e = (i, j)`; dy is `[m, n]`, x is `[k, n]`.
    /// Overwrites, or adds with `accumulate`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn sddmm(
        &self,
        plan: &Self::Plan,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError>;

    /// The `count` positions outside `exclude` where `abs(Σ dy · xᵀ)`, summed over `pairs` of `(dy, x)`, is largest
    /// (all of them if there are fewer), in order of position. NaN counts as 0.
    ///
    /// The dense gradient is computed in tiles and never stored whole (RigL, section 3 of the paper: "an online
    /// top-k").
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations per pair; memory O(count + tile) per thread.
    fn grow(
        &self,
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError>;

    /// [`SparseLinear::grow`] of a gradient that was added up before, row-major of the size of [`GrowRequest::exclude`]: a
    /// convolution's too.
    ///
    /// # Errors
    /// If the gradient does not have that size.
    ///
    /// # Cost
    /// One pass over the gradient.
    fn largest(&self, gradient: &Self::Buffer, request: &GrowRequest) -> Result<Vec<Candidate>, BackendError>;
}

/// A block-sparse weight matrix on a backend. There is no transposed copy: a block is read transposed in place.
#[derive(Debug)]
pub struct BlockMatrix<B: BlockSparseLinear> {
    /// The pattern, prepared for the device.
    pub plan: B::BlockPlan,
    /// One value per stored entry, `[nnz_blocks][r][c]`.
    pub values: B::Buffer,
}

impl<B: BlockSparseLinear> BlockMatrix<B> {
    /// Plans `pattern` and uploads `values`.
    ///
    /// # Errors
    /// If there is not one value per stored entry, padding included, or the device is out of memory.
    pub fn new(
        backend: &B,
        pattern: Arc<BsrPattern>,
        values: &[f32],
        options: PlanOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), values.len())?;
        let mut buffer = backend.zeros(values.len())?;
        backend.upload(values, &mut buffer)?;
        Self::from_buffer(backend, pattern, buffer, options)
    }

    /// Plans `pattern` for values that are on the device already.
    ///
    /// # Errors
    /// If there is not one value per stored entry, padding included, or the device is out of memory.
    pub fn from_buffer(
        backend: &B,
        pattern: Arc<BsrPattern>,
        values: B::Buffer,
        options: PlanOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), backend.len(&values))?;
        Ok(Self { plan: backend.plan_blocks(pattern, options)?, values })
    }
}

/// Products with a block-sparse weight matrix `W[m, k]`, BSR.
///
/// A block's rows share each row of X that they load, so these run at the speed of a dense product per stored value,
/// where unstructured ones ([`SparseLinear`]) load a vector for every multiply-add.
pub trait BlockSparseLinear: Storage {
    /// A pattern prepared for this device: rebuilt when the pattern changes, never when only values do.
    type BlockPlan: Debug + Send + Sync;

    /// Prepares `pattern`.
    ///
    /// # Errors
    /// If an option is impossible or the device is out of memory.
    ///
    /// # Cost
    /// O(m / r + k / c + nnz_blocks); the CPU's plan takes 8 bytes per block for the transposed index.
    fn plan_blocks(&self, pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<Self::BlockPlan, BackendError>;

    /// The pattern a plan was made of.
    fn block_pattern<'a>(&self, plan: &'a Self::BlockPlan) -> &'a Arc<BsrPattern>;

    /// What a plan was made for.
    fn block_plan_options(&self, plan: &Self::BlockPlan) -> PlanOptions;

    /// Bytes that a plan holds besides the pattern.
    fn block_plan_bytes(&self, plan: &Self::BlockPlan) -> usize;

    /// `y = W · x` ([`Op::NoTranspose`]: x is `[k, n]`, y is `[m, n]`) or `y = Wᵀ · x` ([`Op::Transpose`]: x is
    /// `[m, n]`, y is `[k, n]`). `y` is overwritten, its padding lanes with zeros. Padding of the blocks is not read.
    ///
    /// # Errors
    /// If the shapes do not fit, or the plan has no transpose.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn spmm_bsr(
        &self,
        op: Op,
        w: &BlockMatrix<Self>,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError>;

    /// `values[e] = Σ_n dy[i, n] · x[j, n]` for every stored entry `e = (i, j)`; dy is `[m, n]`, x is `[k, n]`.
    /// Overwrites, or adds with `accumulate`. Padding of the blocks becomes 0 either way, so that an optimizer whose
    /// weights are 0 there keeps them so.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn sddmm_bsr(
        &self,
        plan: &Self::BlockPlan,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError>;

    /// The `count` blocks outside `exclude` where the dense gradient `Σ dy · xᵀ`, summed over `pairs` of `(dy, x)`, has the
    /// largest Frobenius norm (all of them if there are fewer), in order of position. A block whose norm is NaN scores 0;
    /// of a block that reaches beyond the matrix only what lies inside counts.
    ///
    /// `request` speaks of the grid of `r × c` blocks, `[r, c]` being `block_size`: the rows and columns of
    /// [`GrowRequest::exclude`] are those of the grid, `⌈m / r⌉ × ⌈k / c⌉`, and so are positions, for ties too. A
    /// candidate's row, column and score are the block's row, its column and its norm.
    ///
    /// The dense gradient is computed in tiles and never stored whole.
    ///
    /// # Errors
    /// If the block size is none of [`BsrPattern::BLOCK_SIZES`], or the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations per pair; memory O(count + tile) per thread.
    fn grow_blocks(
        &self,
        block_size: [usize; 2],
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError>;
}

/// Products with a dense weight matrix `W[m, k]`, row-major in a buffer of `m · k`.
pub trait DenseLinear: Storage {
    /// `y = W · x` or `y = Wᵀ · x`, shapes as in [`SparseLinear::spmm`]; m and k are taken from the operands.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations.
    fn gemm(&self, op: Op, w: &Self::Buffer, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError>;

    /// `dw = dy · xᵀ`, or `dw += dy · xᵀ` with `accumulate`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations.
    fn gemm_weight_grad(
        &self,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        dw: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError>;
}
