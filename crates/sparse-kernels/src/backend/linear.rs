//! Products with sparse, block-sparse and dense matrices: what a device must be able to do.

use std::fmt::Debug;
use std::sync::Arc;

use super::check::{Checked, DY, Done, Extent, WeightGrad, Y, activations, check_pairs, extent};
use super::storage::Storage;
use super::wide::{Tensor, Wide, WideMut};
use crate::bsr::expect_block_size;
use crate::error::{expect_equal, expect_values};
use crate::random::Key;
use crate::{BackendError, BsrPattern, CsrPattern, ShapeError, Strips};

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
        Self::from_buffer(backend, pattern, backend.uploaded(values)?, options)
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

/// What growth returns.
pub type Found = Result<Vec<Candidate>, BackendError>;
/// Pairs of `(dy, x)` whose gradients growth adds up.
pub type Pairs<'a, T> = &'a [(&'a T, &'a T)];

/// Products with a sparse weight matrix `W[m, k]`, CSR.
pub trait SparseLinear: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

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
    ) -> Result<(), BackendError> {
        if !self.plan_options(plan).transpose {
            return Ok(());
        }
        let nnz = self.pattern(plan).nnz();
        expect_values(nnz, self.len(values))?;
        expect_values(nnz, self.len(transposed))?;
        self.run_refresh_transposed(Checked(()), plan, values, transposed)
    }

    /// `y = W · x` ([`Op::NoTranspose`]: x is `[k, n]`, y is `[m, n]`) or `y = Wᵀ · x` ([`Op::Transpose`]: x is
    /// `[m, n]`, y is `[k, n]`). `y` is overwritten, its padding lanes with zeros.
    ///
    /// # Errors
    /// If the shapes do not fit, or the plan has no transpose.
    ///
    /// # Cost
    /// `2 · nnz · n` operations.
    fn spmm(&self, op: Op, w: &SparseMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        let checked = check_spmm(self, "spmm", op, w, extent(self, x), y)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_spmm(checked, op, w, None, false, &x, &mut y)?;
        y.store()
    }

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
    ) -> Result<(), BackendError> {
        const NAME: &str = "spmm_bias_relu";
        expect_equal(NAME, "length of the bias", self.pattern(&w.plan).nrows(), self.len(bias))?;
        let checked = check_spmm(self, NAME, Op::NoTranspose, w, extent(self, x), y)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_spmm(checked, Op::NoTranspose, w, Some(bias), relu, &x, &mut y)?;
        y.store()
    }

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
    ) -> Result<(), BackendError> {
        let checked = check_sddmm(self, plan, extent(self, dy), extent(self, x), values)?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_sddmm(WeightGrad { checked, plan, dy: &dy, x: &x, values, accumulate })
    }

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
    ) -> Result<Vec<Candidate>, BackendError> {
        check_pairs(self, [request.exclude.nrows(), request.exclude.ncols()], pairs)?;
        with_pairs(self, Self::TAKES_16_BITS, pairs, |pairs| self.run_grow(Checked(()), request, pairs))
    }

    /// [`SparseLinear::grow`] of a gradient that was added up before, row-major of the size of [`GrowRequest::exclude`]: a
    /// convolution's too.
    ///
    /// # Errors
    /// If the gradient does not have that size.
    ///
    /// # Cost
    /// One pass over the gradient.
    fn largest(&self, gradient: &Self::Buffer, request: &GrowRequest) -> Result<Vec<Candidate>, BackendError> {
        let positions = request.exclude.nrows() * request.exclude.ncols();
        expect_equal("largest", "length of the gradient", positions, self.len(gradient))?;
        self.run_largest(Checked(()), gradient, request)
    }

    #[doc(hidden)]
    fn run_refresh_transposed(&self, _: Checked, plan: &Self::Plan, from: &Self::Buffer, to: &mut Self::Buffer)
    -> Done;

    #[doc(hidden)]
    #[expect(clippy::too_many_arguments, reason = "what the product has")]
    fn run_spmm(
        &self,
        _: Checked,
        op: Op,
        w: &SparseMatrix<Self>,
        bias: Option<&Self::Buffer>,
        relu: bool,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_sddmm(&self, call: WeightGrad<'_, &Self::Plan, Strips<Self>, Self::Buffer>) -> Done;

    #[doc(hidden)]
    fn run_grow(&self, _: Checked, request: &GrowRequest, pairs: Pairs<'_, Strips<Self>>) -> Found;

    #[doc(hidden)]
    fn run_largest(&self, _: Checked, gradient: &Self::Buffer, request: &GrowRequest) -> Found;
}

/// Calls a hook that sums over pairs with operands that it takes.
pub(super) fn with_pairs<B: Storage, T: Tensor<B>, R>(
    backend: &B,
    takes_16_bits: bool,
    pairs: Pairs<'_, T>,
    hook: impl FnOnce(Pairs<'_, T>) -> Result<R, BackendError>,
) -> Result<R, BackendError> {
    let mut wide = Vec::with_capacity(pairs.len());
    for (dy, x) in pairs {
        wide.push((Wide::new(backend, takes_16_bits, *dy)?, Wide::new(backend, takes_16_bits, *x)?));
    }
    let pairs: Vec<(&T, &T)> = wide.iter().map(|(dy, x)| (&**dy, &**x)).collect();
    hook(&pairs)
}

/// Checks the operands of `Y = W · X`, W being `[m, k]`, or its transpose.
fn check_product(
    name: &'static str,
    op: Op,
    [m, k]: [usize; 2],
    options: PlanOptions,
    x: Extent,
    y: Extent,
) -> Result<(), ShapeError> {
    let rows = match op {
        Op::NoTranspose => [k, m],
        Op::Transpose if options.transpose => [m, k],
        Op::Transpose => {
            let rule = "1: the plan was made without its transposed index";
            return Err(ShapeError::Rule { op: name, what: "PlanOptions::transpose", got: 0, rule });
        }
    };
    activations(name, options.strip, rows, x, y, Y)
}

/// Checks the operands of [`SparseLinear::spmm`].
pub(crate) fn check_spmm<B: SparseLinear>(
    backend: &B,
    name: &'static str,
    op: Op,
    w: &SparseMatrix<B>,
    x: Extent,
    y: &Strips<B>,
) -> Result<Checked, BackendError> {
    let pattern = backend.pattern(&w.plan);
    check_product(name, op, [pattern.nrows(), pattern.ncols()], backend.plan_options(&w.plan), x, extent(backend, y))?;
    let values = if op == Op::NoTranspose { &w.values } else { &w.transposed_values };
    expect_values(pattern.nnz(), backend.len(values))?;
    Ok(Checked(()))
}

/// Checks the operands of [`SparseLinear::sddmm`].
pub(crate) fn check_sddmm<B: SparseLinear>(
    backend: &B,
    plan: &B::Plan,
    dy: Extent,
    x: Extent,
    values: &B::Buffer,
) -> Result<Checked, BackendError> {
    let pattern = backend.pattern(plan);
    activations("sddmm", backend.plan_options(plan).strip, [pattern.ncols(), pattern.nrows()], x, dy, DY)?;
    expect_values(pattern.nnz(), backend.len(values))?;
    Ok(Checked(()))
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
        Self::from_buffer(backend, pattern, backend.uploaded(values)?, options)
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
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

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
    ) -> Result<(), BackendError> {
        let (pattern, options) = (self.block_pattern(&w.plan), self.block_plan_options(&w.plan));
        let size = [pattern.nrows(), pattern.ncols()];
        check_product("spmm_bsr", op, size, options, extent(self, x), extent(self, y))?;
        expect_values(pattern.nnz(), self.len(&w.values))?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_spmm_bsr(Checked(()), op, w, &x, &mut y)?;
        y.store()
    }

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
    ) -> Result<(), BackendError> {
        let (pattern, strip) = (self.block_pattern(plan), self.block_plan_options(plan).strip);
        let rows = [pattern.ncols(), pattern.nrows()];
        activations("sddmm_bsr", strip, rows, extent(self, x), extent(self, dy), DY)?;
        expect_values(pattern.nnz(), self.len(values))?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_sddmm_bsr(WeightGrad { checked: Checked(()), plan, dy: &dy, x: &x, values, accumulate })
    }

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
    ) -> Result<Vec<Candidate>, BackendError> {
        const NAME: &str = "grow_blocks";
        let ([r, c], exclude) = (block_size, &request.exclude);
        expect_block_size(block_size)?;
        // Without a pair all blocks score 0, whatever part of the last ones lies inside.
        let [nrows, ncols] = match pairs.first() {
            Some((dy, x)) => [dy.layout.features(), x.layout.features()],
            None => [exclude.nrows() * r, exclude.ncols() * c],
        };
        expect_equal(NAME, "number of block rows", nrows.div_ceil(r), exclude.nrows())?;
        expect_equal(NAME, "number of block columns", ncols.div_ceil(c), exclude.ncols())?;
        check_pairs(self, [nrows, ncols], pairs)?;
        with_pairs(self, Self::TAKES_16_BITS, pairs, |pairs| {
            self.run_grow_blocks(Checked(()), [block_size, [nrows, ncols]], request, pairs)
        })
    }

    #[doc(hidden)]
    fn run_spmm_bsr(&self, _: Checked, op: Op, w: &BlockMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_sddmm_bsr(&self, call: WeightGrad<'_, &Self::BlockPlan, Strips<Self>, Self::Buffer>) -> Done;

    /// The size of a block, and that of the matrix, in elements.
    #[doc(hidden)]
    fn run_grow_blocks(
        &self,
        _: Checked,
        block_and_size: [[usize; 2]; 2],
        request: &GrowRequest,
        pairs: Pairs<'_, Strips<Self>>,
    ) -> Found;
}

/// Products with a dense weight matrix `W[m, k]`, row-major in a buffer of `m · k`.
pub trait DenseLinear: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// `y = W · x` or `y = Wᵀ · x`, shapes as in [`SparseLinear::spmm`]; m and k are taken from the operands.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations.
    fn gemm(&self, op: Op, w: &Self::Buffer, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        let (m, k) = (y.layout.features(), x.layout.features());
        activations("gemm", x.layout.strip(), [k, m], extent(self, x), extent(self, y), Y)?;
        expect_equal("gemm", "length of W", m * k, self.len(w))?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_gemm(Checked(()), op, w, &x, &mut y)?;
        y.store()
    }

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
    ) -> Result<(), BackendError> {
        const NAME: &str = "gemm_weight_grad";
        let (m, k) = (dy.layout.features(), x.layout.features());
        activations(NAME, x.layout.strip(), [k, m], extent(self, x), extent(self, dy), DY)?;
        expect_equal(NAME, "length of dW", m * k, self.len(dw))?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_gemm_weight_grad(WeightGrad { checked: Checked(()), plan: (), dy: &dy, x: &x, values: dw, accumulate })
    }

    #[doc(hidden)]
    fn run_gemm(&self, _: Checked, op: Op, w: &Self::Buffer, x: &Strips<Self>, y: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_gemm_weight_grad(&self, call: WeightGrad<'_, (), Strips<Self>, Self::Buffer>) -> Done;
}
