//! Convolutions: what a device must be able to do.

use std::fmt::Debug;
use std::sync::Arc;

use super::check::{Checked, Done, WeightGrad};
use super::linear::{Candidate, Found, GrowRequest, Pairs, with_pairs};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::bsr::expect_block_size;
use crate::error::{expect_equal, expect_values};
use crate::{BackendError, BsrPattern, ConvShape, CsrPattern, FormatError, ImageLayout, Images, ShapeError};

/// What [`SparseConv::plan_conv`] prepares for. The number of samples in the layouts does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Where X, and its gradient, lie.
    pub x: ImageLayout,
    /// Where Y, and its gradient, lie.
    pub y: ImageLayout,
    /// Whether the input gradient will be asked for. The first layer of a network needs none, and then nothing of it is
    /// held, and Y needs no border.
    pub input_grad: bool,
}

impl ConvOptions {
    /// Checks that the layouts fit a shape, and that 32-bit offsets reach all of a strip.
    pub(crate) fn check(&self, op: &'static str, shape: ConvShape) -> Result<(), BackendError> {
        let Self { x, y, input_grad } = *self;
        let [height, width] = shape.output_size(x.size())?;
        let [border_x, border_y] = shape.borders(x.size())?;
        expect_equal(op, "channels of X", shape.in_channels(), x.channels())?;
        expect_equal(op, "channels of Y", shape.out_channels(), y.channels())?;
        expect_equal(op, "height of Y", height, y.size()[0])?;
        expect_equal(op, "width of Y", width, y.size()[1])?;
        expect_equal(op, "strip of Y", x.strip(), y.strip())?;
        let rule = |what, got, rule| Err(ShapeError::Rule { op, what, got, rule }.into());
        if x.border() < border_x {
            return rule("border of X", x.border(), "at least the padding, see ConvShape::borders");
        }
        if input_grad && y.border() < border_y {
            let least = "at least what the input gradient reads, see ConvShape::borders";
            return rule("border of Y", y.border(), least);
        }
        for layout in [x, y] {
            let (what, got, max) = ("elements of a strip of images", layout.strip_pitch() as u64, 1 << 31);
            if got > max {
                return Err(FormatError::TooLarge { what, got, max }.into());
            }
        }
        Ok(())
    }
}

/// What messages call X, Y, and the samples of the latter.
type Names = [&'static str; 3];
const FORWARD: Names = ["X", "Y", "number of samples of Y"];
const INPUT_GRAD: Names = ["dX", "dY", "number of samples of dY"];
const WEIGHT_GRAD: Names = ["X", "dY", "number of samples of dY"];
const BLOCKS: Names = ["X", "Y", "number of samples"];

/// Checks that images are those that a plan was made for, and are equally many.
fn expect_planned<B: Storage>(
    backend: &B,
    op: &'static str,
    options: ConvOptions,
    [x_name, y_name, samples]: Names,
    x: &Images<B>,
    y: &Images<B>,
) -> Result<(), ShapeError> {
    options.x.expect(op, x_name, x.layout, backend.len(&x.data))?;
    options.y.expect(op, y_name, y.layout, backend.len(&y.data))?;
    expect_equal(op, samples, x.layout.samples(), y.layout.samples())
}

/// Checks that a plan was made for the input gradient.
fn expect_input_grad(op: &'static str, options: ConvOptions) -> Result<(), ShapeError> {
    let rule = "1: the plan was made without the input gradient";
    let missing = ShapeError::Rule { op, what: "ConvOptions::input_grad", got: 0, rule };
    if options.input_grad { Ok(()) } else { Err(missing) }
}

/// Checks operands of a dense convolution; the images are X and Y, or their gradients.
fn expect_dense<B: Storage>(
    backend: &B,
    op: &'static str,
    shape: ConvShape,
    weights: usize,
    [x, y]: [&Images<B>; 2],
    input_grad: bool,
) -> Result<Checked, BackendError> {
    ConvOptions { x: x.layout, y: y.layout, input_grad }.check(op, shape)?;
    expect_equal(op, "number of weights", shape.rows() * shape.columns(), weights)?;
    expect_equal(op, "number of samples", x.layout.samples(), y.layout.samples())?;
    expect_equal(op, "length of X", x.layout.len(), backend.len(&x.data))?;
    expect_equal(op, "length of Y", y.layout.len(), backend.len(&y.data))?;
    Ok(Checked(()))
}

/// Checks the operands of growth in a grid of blocks.
fn expect_growth<B: Storage>(
    backend: &B,
    shape: ConvShape,
    [r, c]: [usize; 2],
    request: &GrowRequest,
    pairs: &[(&Images<B>, &Images<B>)],
) -> Result<Checked, BackendError> {
    const NAME: &str = "grow_conv";
    let (exclude, weights) = (&request.exclude, shape.rows() * shape.columns());
    expect_equal(NAME, "number of rows", shape.rows().div_ceil(r), exclude.nrows())?;
    expect_equal(NAME, "number of columns", shape.columns() / c, exclude.ncols())?;
    pairs.iter().try_for_each(|(dy, x)| expect_dense(backend, NAME, shape, weights, [x, dy], false).map(drop))?;
    Ok(Checked(()))
}

/// A sparse convolution's weight on a backend: plan, values, and the same values in the order of the input gradient.
#[derive(Debug)]
pub struct ConvWeight<B: SparseConv> {
    /// The pattern, prepared for the device.
    pub plan: B::ConvPlan,
    /// One value per stored entry, in the pattern's order.
    pub values: B::Buffer,
    /// The values in the order that the input gradient wants; empty without [`ConvOptions::input_grad`]. Whoever changes
    /// `values` calls [`ConvWeight::refresh`] before the next input gradient.
    pub transposed_values: B::Buffer,
}

impl<B: SparseConv> ConvWeight<B> {
    /// Plans `pattern` and uploads `values`.
    ///
    /// # Errors
    /// If there is not one value per entry, the layouts do not fit the shape, or the device is out of memory.
    pub fn new(
        backend: &B,
        pattern: Arc<CsrPattern>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), values.len())?;
        Self::from_buffer(backend, pattern, backend.uploaded(values)?, shape, options)
    }

    /// Plans `pattern` for values that are on the device already.
    ///
    /// # Errors
    /// If there is not one value per entry, the layouts do not fit the shape, or the device is out of memory.
    pub fn from_buffer(
        backend: &B,
        pattern: Arc<CsrPattern>,
        values: B::Buffer,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), backend.len(&values))?;
        let plan = backend.plan_conv(pattern, shape, options)?;
        let transposed_values = backend.zeros(if options.input_grad { backend.len(&values) } else { 0 })?;
        let mut weight = Self { plan, values, transposed_values };
        weight.refresh(backend)?;
        Ok(weight)
    }

    /// Brings the transposed values up to date with `values`.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Cost
    /// One gather of nnz values.
    pub fn refresh(&mut self, backend: &B) -> Result<(), BackendError> {
        backend.refresh_conv(&self.plan, &self.values, &mut self.transposed_values)
    }
}

/// Direct convolution with sparse weights, CSR of [`ConvShape::rows`] × [`ConvShape::columns`]: each stored weight is a
/// multiply-add of one shifted image; there is no im2col.
pub trait SparseConv: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// A pattern prepared for this device and for images of one size: rebuilt when the pattern changes, never when only
    /// values do.
    type ConvPlan: Debug + Send + Sync;

    /// Prepares `pattern`.
    ///
    /// # Errors
    /// If the pattern is not of the shape's size, the layouts do not fit the shape (channels, sizes, borders of
    /// [`ConvShape::borders`], equal strips), or the device is out of memory.
    ///
    /// # Cost
    /// O(rows + columns + nnz) with sorting of rows by length; the CPU's plan takes 4 bytes per nonzero, and 8 more with
    /// the input gradient.
    fn plan_conv(
        &self,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self::ConvPlan, BackendError>;

    /// The strip that the device likes best for a convolution of so many samples, see [`ImageLayout::strip`].
    fn image_strip(&self, shape: ConvShape, samples: usize) -> usize;

    /// The pattern a plan was made of.
    fn conv_pattern<'a>(&self, plan: &'a Self::ConvPlan) -> &'a Arc<CsrPattern>;

    /// The convolution that a plan was made for.
    fn conv_shape(&self, plan: &Self::ConvPlan) -> ConvShape;

    /// What a plan was made for.
    fn conv_options(&self, plan: &Self::ConvPlan) -> ConvOptions;

    /// Bytes that a plan holds besides the pattern.
    fn conv_plan_bytes(&self, plan: &Self::ConvPlan) -> usize;

    /// Copies `values` into the order of the input gradient; nothing if the plan has none.
    ///
    /// # Errors
    /// If the lengths do not fit the plan.
    fn refresh_conv(
        &self,
        plan: &Self::ConvPlan,
        values: &Self::Buffer,
        transposed: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        if !self.conv_options(plan).input_grad {
            return Ok(());
        }
        expect_values(self.conv_pattern(plan).nnz(), self.len(values))?;
        expect_values(self.conv_pattern(plan).nnz(), self.len(transposed))?;
        self.run_refresh_conv(Checked(()), plan, values, transposed)
    }

    /// `y = conv(x, W)`. The interior of `y` is overwritten; its border is not touched.
    ///
    /// # Errors
    /// If the layouts are not those of the plan, or the numbers of samples differ.
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_forward(&self, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        expect_planned(self, "conv_forward", self.conv_options(&w.plan), FORWARD, x, y)?;
        expect_values(self.conv_pattern(&w.plan).nnz(), self.len(&w.values))?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_conv_forward(Checked(()), w, &x, &mut y)?;
        y.store()
    }

    /// `dx =` the gradient of X for that of Y: the transposed convolution. The interior of `dx` is overwritten.
    ///
    /// # Errors
    /// As [`SparseConv::conv_forward`], and if the plan was made without [`ConvOptions::input_grad`].
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_input_grad(
        &self,
        w: &ConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        let (options, nnz) = (self.conv_options(&w.plan), self.conv_pattern(&w.plan).nnz());
        expect_input_grad("conv_input_grad", options)?;
        expect_planned(self, "conv_input_grad", options, INPUT_GRAD, dx, dy)?;
        expect_values(nnz, self.len(&w.values))?;
        expect_values(nnz, self.len(&w.transposed_values))?;
        let dy = Wide::new(self, Self::TAKES_16_BITS, dy)?;
        let mut dx = WideMut::overwritten(self, Self::TAKES_16_BITS, dx)?;
        self.run_conv_input_grad(Checked(()), w, &dy, &mut dx)?;
        dx.store()
    }

    /// `values[e] = Σ dy · x` over all pixels and samples that stored entry `e` joins. Overwrites, or adds with
    /// `accumulate`.
    ///
    /// # Errors
    /// As [`SparseConv::conv_forward`].
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_weight_grad(
        &self,
        plan: &Self::ConvPlan,
        dy: &Images<Self>,
        x: &Images<Self>,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        expect_planned(self, "conv_weight_grad", self.conv_options(plan), WEIGHT_GRAD, x, dy)?;
        expect_values(self.conv_pattern(plan).nnz(), self.len(values))?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_conv_weight_grad(WeightGrad { checked: Checked(()), plan, dy: &dy, x: &x, values, accumulate })
    }

    /// The `count` positions outside `exclude` where the absolute dense weight gradient, summed over `pairs` of `(dy, x)`,
    /// is largest (all of them if there are fewer), in order of position. NaN counts as 0. The dense gradient is computed
    /// in bands of rows and never stored whole, but for small layers of a single band.
    ///
    /// # Errors
    /// If the layouts do not fit the shape or each other, or the excluded pattern is not of the shape's size.
    ///
    /// # Cost
    /// The dense weight gradient; memory O(count + band).
    fn grow_conv(
        &self,
        shape: ConvShape,
        request: &GrowRequest,
        pairs: &[(&Images<Self>, &Images<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        let checked = expect_growth(self, shape, [1, 1], request, pairs)?;
        with_pairs(self, Self::TAKES_16_BITS, pairs, |pairs| self.run_grow_conv(checked, shape, request, pairs))
    }

    #[doc(hidden)]
    fn run_refresh_conv(&self, _: Checked, plan: &Self::ConvPlan, from: &Self::Buffer, to: &mut Self::Buffer) -> Done;

    #[doc(hidden)]
    fn run_conv_forward(&self, _: Checked, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_conv_input_grad(&self, _: Checked, w: &ConvWeight<Self>, dy: &Images<Self>, dx: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_conv_weight_grad(&self, call: WeightGrad<'_, &Self::ConvPlan, Images<Self>, Self::Buffer>) -> Done;

    #[doc(hidden)]
    fn run_grow_conv(
        &self,
        _: Checked,
        shape: ConvShape,
        request: &GrowRequest,
        pairs: Pairs<'_, Images<Self>>,
    ) -> Found;
}

/// Convolution with dense weights, `[O][C/G][kh][kw]` row-major in a buffer: for dense layers, and what sparse ones are
/// compared with. Where every group has one channel (depthwise convolution), kernels of its own.
///
/// Layouts are those of [`ConvOptions`]; nothing is planned.
pub trait DenseConv: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// `y = conv(x, W)`. The interior of `y` is overwritten; its border is not touched.
    ///
    /// # Errors
    /// If the layouts do not fit the shape or each other.
    ///
    /// # Cost
    /// `2 · O · C/G · kh · kw · pixels of Y · samples` operations.
    fn conv_forward_dense(
        &self,
        shape: ConvShape,
        w: &Self::Buffer,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        let checked = expect_dense(self, "conv_forward_dense", shape, self.len(w), [x, y], false)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_conv_forward_dense(checked, shape, w, &x, &mut y)?;
        y.store()
    }

    /// `dx =` the gradient of X for that of Y. The interior of `dx` is overwritten.
    ///
    /// # Errors
    /// As [`DenseConv::conv_forward_dense`]; `dy` needs the border of [`ConvShape::borders`].
    ///
    /// # Cost
    /// As the forward pass.
    fn conv_input_grad_dense(
        &self,
        shape: ConvShape,
        w: &Self::Buffer,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        let checked = expect_dense(self, "conv_input_grad_dense", shape, self.len(w), [dx, dy], true)?;
        let dy = Wide::new(self, Self::TAKES_16_BITS, dy)?;
        let mut dx = WideMut::overwritten(self, Self::TAKES_16_BITS, dx)?;
        self.run_conv_input_grad_dense(checked, shape, w, &dy, &mut dx)?;
        dx.store()
    }

    /// `dw =` the gradient of W, or with `accumulate` adds it to `dw`.
    ///
    /// # Errors
    /// As [`DenseConv::conv_forward_dense`].
    ///
    /// # Cost
    /// As the forward pass.
    fn conv_weight_grad_dense(
        &self,
        shape: ConvShape,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let checked = expect_dense(self, "conv_weight_grad_dense", shape, self.len(dw), [x, dy], false)?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_conv_weight_grad_dense(WeightGrad { checked, plan: shape, dy: &dy, x: &x, values: dw, accumulate })
    }

    #[doc(hidden)]
    fn run_conv_forward_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Self::Buffer,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_conv_input_grad_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Self::Buffer,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_conv_weight_grad_dense(&self, call: WeightGrad<'_, ConvShape, Images<Self>, Self::Buffer>) -> Done;
}

/// A block-sparse convolution's weight on a backend.
#[derive(Debug)]
pub struct BlockConvWeight<B: BlockSparseConv> {
    /// The pattern, prepared for the device.
    pub plan: B::BlockConvPlan,
    /// One value per stored entry, `[nnz_blocks][r][c]`.
    pub values: B::Buffer,
}

impl<B: BlockSparseConv> BlockConvWeight<B> {
    /// Plans `pattern` and uploads `values`.
    ///
    /// # Errors
    /// If there is not one value per stored entry, the layouts do not fit the shape, or the device is out of memory.
    pub fn new(
        backend: &B,
        pattern: Arc<BsrPattern>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), values.len())?;
        Self::from_buffer(backend, pattern, backend.uploaded(values)?, shape, options)
    }

    /// Plans `pattern` for values that are on the device already.
    ///
    /// # Errors
    /// As [`BlockConvWeight::new`].
    pub fn from_buffer(
        backend: &B,
        pattern: Arc<BsrPattern>,
        values: B::Buffer,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        expect_values(pattern.nnz(), backend.len(&values))?;
        Ok(Self { plan: backend.plan_conv_blocks(pattern, shape, options)?, values })
    }
}

/// Direct convolution with block-sparse weights, BSR of [`ConvShape::rows`] × [`ConvShape::columns`] whose columns are
/// `(i, j, c)`: kernel row, kernel column, channel. A block spans output channels and input channels of one tap.
pub trait BlockSparseConv: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// A pattern prepared for this device and for images of one size.
    type BlockConvPlan: Debug + Send + Sync;

    /// Prepares `pattern`.
    ///
    /// # Errors
    /// As [`SparseConv::plan_conv`], and if a block would span two taps or two groups: unless c divides C/G, and with more
    /// than one group r divides O/G.
    ///
    /// # Cost
    /// O(rows + columns + nnz); the CPU's plan takes about 8 / r bytes per nonzero, and as much again, with c, for the input
    /// gradient.
    fn plan_conv_blocks(
        &self,
        pattern: Arc<BsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self::BlockConvPlan, BackendError>;

    /// The pattern a plan was made of.
    fn block_conv_pattern<'a>(&self, plan: &'a Self::BlockConvPlan) -> &'a Arc<BsrPattern>;

    /// The convolution that a plan was made for.
    fn block_conv_shape(&self, plan: &Self::BlockConvPlan) -> ConvShape;

    /// What a plan was made for.
    fn block_conv_options(&self, plan: &Self::BlockConvPlan) -> ConvOptions;

    /// Bytes that a plan holds besides the pattern.
    fn block_conv_plan_bytes(&self, plan: &Self::BlockConvPlan) -> usize;

    /// `y = conv(x, W)`, as [`SparseConv::conv_forward`].
    ///
    /// # Errors
    /// If the layouts are not those of the plan, or the numbers of samples differ.
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_forward_bsr(
        &self,
        w: &BlockConvWeight<Self>,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        expect_planned(self, "conv_forward_bsr", self.block_conv_options(&w.plan), BLOCKS, x, y)?;
        expect_values(self.block_conv_pattern(&w.plan).nnz(), self.len(&w.values))?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_conv_forward_bsr(Checked(()), w, &x, &mut y)?;
        y.store()
    }

    /// `dx =` the gradient of X, as [`SparseConv::conv_input_grad`].
    ///
    /// # Errors
    /// As [`BlockSparseConv::conv_forward_bsr`], and if the plan was made without [`ConvOptions::input_grad`].
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_input_grad_bsr(
        &self,
        w: &BlockConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        let options = self.block_conv_options(&w.plan);
        expect_input_grad("conv_input_grad_bsr", options)?;
        expect_planned(self, "conv_input_grad_bsr", options, BLOCKS, dx, dy)?;
        expect_values(self.block_conv_pattern(&w.plan).nnz(), self.len(&w.values))?;
        let dy = Wide::new(self, Self::TAKES_16_BITS, dy)?;
        let mut dx = WideMut::overwritten(self, Self::TAKES_16_BITS, dx)?;
        self.run_conv_input_grad_bsr(Checked(()), w, &dy, &mut dx)?;
        dx.store()
    }

    /// The gradient of the values, as [`SparseConv::conv_weight_grad`]. Padding of the blocks becomes 0 either way.
    ///
    /// # Errors
    /// As [`BlockSparseConv::conv_forward_bsr`].
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations.
    fn conv_weight_grad_bsr(
        &self,
        plan: &Self::BlockConvPlan,
        dy: &Images<Self>,
        x: &Images<Self>,
        values: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        expect_planned(self, "conv_weight_grad_bsr", self.block_conv_options(plan), BLOCKS, x, dy)?;
        expect_values(self.block_conv_pattern(plan).nnz(), self.len(values))?;
        let (dy, x) = (Wide::new(self, Self::TAKES_16_BITS, dy)?, Wide::new(self, Self::TAKES_16_BITS, x)?);
        self.run_conv_weight_grad_bsr(WeightGrad { checked: Checked(()), plan, dy: &dy, x: &x, values, accumulate })
    }

    /// The `count` blocks outside the excluded ones where the dense weight gradient, summed over `pairs` of `(dy, x)`, has the
    /// largest Frobenius norm, as [`crate::BlockSparseLinear::grow_blocks`] finds them. The request's grid is that of a pattern
    /// of this convolution: its columns are blocks of `(i, j, c)`.
    ///
    /// # Errors
    /// If blocks of this size do not fit the convolution ([`BlockSparseConv::plan_conv_blocks`]), the layouts do not fit the
    /// shape or each other, or the excluded pattern is not of the grid's size.
    ///
    /// # Cost
    /// The dense weight gradient; memory O(count + band).
    fn grow_conv_blocks(
        &self,
        shape: ConvShape,
        block_size: [usize; 2],
        request: &GrowRequest,
        pairs: &[(&Images<Self>, &Images<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        expect_block_size(block_size)?;
        check_conv_blocks("grow_conv_blocks", shape, block_size)?;
        let checked = expect_growth(self, shape, block_size, request, pairs)?;
        with_pairs(self, Self::TAKES_16_BITS, pairs, |pairs| {
            self.run_grow_conv_blocks(checked, shape, block_size, request, pairs)
        })
    }

    #[doc(hidden)]
    fn run_conv_forward_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_conv_input_grad_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_conv_weight_grad_bsr(&self, call: WeightGrad<'_, &Self::BlockConvPlan, Images<Self>, Self::Buffer>) -> Done;

    #[doc(hidden)]
    fn run_grow_conv_blocks(
        &self,
        _: Checked,
        shape: ConvShape,
        block_size: [usize; 2],
        request: &GrowRequest,
        pairs: Pairs<'_, Images<Self>>,
    ) -> Found;
}

/// Checks that a block of this size spans neither two taps nor two groups.
pub(crate) fn check_conv_blocks(op: &'static str, shape: ConvShape, [r, c]: [usize; 2]) -> Result<(), ShapeError> {
    if !(shape.in_channels() / shape.groups()).is_multiple_of(c) {
        let rule = "a divisor of the input channels of a group: blocks span channels of one tap";
        return Err(ShapeError::Rule { op, what: "columns of a block", got: c, rule });
    }
    if shape.groups() > 1 && !(shape.out_channels() / shape.groups()).is_multiple_of(r) {
        let rule = "a divisor of the output channels of a group";
        return Err(ShapeError::Rule { op, what: "rows of a block", got: r, rule });
    }
    Ok(())
}
