//! Convolutions: checks shapes, plans, and launches the kernels.

mod dense;
mod depthwise;
mod grid;
mod grow;
mod plan;
mod sparse;
mod sums;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

pub use plan::GpuConvPlan;

use self::depthwise::is_depthwise;
use self::grid::Grid;
use super::spmm::expect_values;
use super::{Buffer, Gpu};
use crate::backend::{ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::error::expect_equal;
use crate::{BackendError, Candidate, ConvShape, CsrPattern, FormatError, ImageLayout, Images, ShapeError};

impl SparseConv for Gpu {
    type ConvPlan = GpuConvPlan;

    fn plan_conv(
        &self,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<GpuConvPlan, BackendError> {
        GpuConvPlan::new(self, pattern, shape, options)
    }

    /// 32 samples of a pixel are a line of 128 bytes, what a device's memory moves at a time.
    fn image_strip(&self, _: ConvShape, samples: usize) -> usize {
        match samples {
            32.. => 32,
            16..32 => 16,
            _ => 8,
        }
    }

    fn conv_pattern<'a>(&self, plan: &'a GpuConvPlan) -> &'a Arc<CsrPattern> {
        &plan.pattern
    }

    fn conv_shape(&self, plan: &GpuConvPlan) -> ConvShape {
        plan.shape
    }

    fn conv_options(&self, plan: &GpuConvPlan) -> ConvOptions {
        plan.options
    }

    fn conv_plan_bytes(&self, plan: &GpuConvPlan) -> usize {
        plan.bytes()
    }

    fn refresh_conv(&self, plan: &GpuConvPlan, values: &Buffer, transposed: &mut Buffer) -> Result<(), BackendError> {
        let Some(backward) = &plan.backward else { return Ok(()) };
        expect_values(plan.pattern.nnz(), values.len())?;
        expect_values(plan.pattern.nnz(), transposed.len())?;
        self.gather_buffer(values, &backward.permutation, transposed)
    }

    fn conv_forward(&self, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        const OP: &str = "conv_forward";
        let plan = &w.plan;
        check_images(OP, "X", plan.options.x, x)?;
        check_images(OP, "Y", plan.options.y, y)?;
        expect_equal(OP, "number of samples of Y", x.layout.samples(), y.layout.samples())?;
        expect_values(plan.pattern.nnz(), w.values.len())?;
        self.conv_pass(&plan.forward, &plan.offsets, &w.values, x, y)
    }

    fn conv_input_grad(
        &self,
        w: &ConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        const OP: &str = "conv_input_grad";
        let plan = &w.plan;
        let Some(backward) = &plan.backward else {
            let rule = "1: the plan was made without the input gradient";
            return Err(ShapeError::Rule { op: OP, what: "ConvOptions::input_grad", got: 0, rule }.into());
        };
        check_images(OP, "dX", plan.options.x, dx)?;
        check_images(OP, "dY", plan.options.y, dy)?;
        expect_equal(OP, "number of samples of dY", dx.layout.samples(), dy.layout.samples())?;
        expect_values(plan.pattern.nnz(), w.values.len())?;
        expect_values(plan.pattern.nnz(), w.transposed_values.len())?;
        let (offsets, values) = (&backward.offsets, &w.transposed_values);
        backward.passes.iter().try_for_each(|pass| self.conv_pass(pass, offsets, values, dy, dx))
    }

    fn conv_weight_grad(
        &self,
        plan: &GpuConvPlan,
        dy: &Images<Self>,
        x: &Images<Self>,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const OP: &str = "conv_weight_grad";
        check_images(OP, "X", plan.options.x, x)?;
        check_images(OP, "dY", plan.options.y, dy)?;
        expect_equal(OP, "number of samples of dY", x.layout.samples(), dy.layout.samples())?;
        expect_values(plan.pattern.nnz(), values.len())?;
        self.conv_sparse_grad(plan, dy, x, values, accumulate)
    }

    fn grow_conv(
        &self,
        shape: ConvShape,
        request: &GrowRequest<'_>,
        pairs: &[(&Images<Self>, &Images<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        grow::grow(self, shape, request, pairs)
    }
}

impl DenseConv for Gpu {
    fn conv_forward_dense(
        &self,
        shape: ConvShape,
        w: &Buffer,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        dense_check("conv_forward_dense", shape, w.len(), x, y, false)?;
        if is_depthwise(shape) {
            return self.depthwise_pass(shape, &Grid::forward(shape, x.layout, y.layout), w, x, y);
        }
        self.dense_forward(shape, w, x, y)
    }

    fn conv_input_grad_dense(
        &self,
        shape: ConvShape,
        w: &Buffer,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        dense_check("conv_input_grad_dense", shape, w.len(), dx, dy, true)?;
        if is_depthwise(shape) {
            let grids = Grid::backward(shape, dx.layout, dy.layout);
            return grids.iter().try_for_each(|grid| self.depthwise_pass(shape, grid, w, dy, dx));
        }
        self.dense_input_grad(shape, w, dy, dx)
    }

    fn conv_weight_grad_dense(
        &self,
        shape: ConvShape,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        dense_check("conv_weight_grad_dense", shape, dw.len(), x, dy, false)?;
        self.conv_weight_rows(shape, 0..shape.rows(), dy, x, dw, accumulate)
    }
}

impl Gpu {
    /// Output channels `rows` of the dense gradient of W, at the start of `dw`; what lies behind them there is not kept.
    fn conv_weight_rows(
        &self,
        shape: ConvShape,
        rows: Range<usize>,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        if is_depthwise(shape) {
            self.depthwise_weight_grad(shape, rows, dy, x, dw, accumulate)
        } else {
            self.dense_weight_grad(shape, rows, dy, x, dw, accumulate)
        }
    }

    /// `Ok` if so many elements can be seen at once.
    fn check_window(&self, what: &'static str, len: usize) -> Result<(), BackendError> {
        let most = self.window_elements();
        if len <= most {
            return Ok(());
        }
        let what = format!("{what} with {} bytes, more than the {} that a kernel may see", 4 * len, 4 * most);
        Err(BackendError::Unsupported { device: self.report().to_string(), what })
    }
}

/// Samples of some strips that count.
fn samples(layout: ImageLayout, strips: &Range<usize>) -> usize {
    layout.samples().min(strips.end * layout.strip()) - strips.start * layout.strip()
}

/// Pixels of an image, at least one.
fn pixels(layout: ImageLayout) -> usize {
    (layout.size()[0] * layout.size()[1]).max(1)
}

/// Checks that 32-bit offsets reach all of a strip.
fn check_size(options: ConvOptions) -> Result<(), FormatError> {
    for layout in [options.x, options.y] {
        let (what, got, max) = ("elements of a strip of images", layout.strip_pitch() as u64, 1 << 31);
        if got > max {
            return Err(FormatError::TooLarge { what, got, max });
        }
    }
    Ok(())
}

/// Checks that layouts fit a shape.
fn check_layouts(op: &'static str, shape: ConvShape, options: ConvOptions) -> Result<(), ShapeError> {
    let ConvOptions { x, y, input_grad } = options;
    let [height, width] = shape.output_size(x.size())?;
    let [border_x, border_y] = shape.borders(x.size())?;
    expect_equal(op, "channels of X", shape.in_channels(), x.channels())?;
    expect_equal(op, "channels of Y", shape.out_channels(), y.channels())?;
    expect_equal(op, "height of Y", height, y.size()[0])?;
    expect_equal(op, "width of Y", width, y.size()[1])?;
    expect_equal(op, "strip of Y", x.strip(), y.strip())?;
    if x.border() < border_x {
        let rule = "at least the padding, see ConvShape::borders";
        return Err(ShapeError::Rule { op, what: "border of X", got: x.border(), rule });
    }
    if input_grad && y.border() < border_y {
        let rule = "at least what the input gradient reads, see ConvShape::borders";
        return Err(ShapeError::Rule { op, what: "border of Y", got: y.border(), rule });
    }
    Ok(())
}

/// Checks that images are those a plan was made for, but for the number of samples.
fn check_images(
    op: &'static str,
    what: &'static str,
    planned: ImageLayout,
    images: &Images<Gpu>,
) -> Result<(), ShapeError> {
    let layout = images.layout;
    if layout.with_samples(0) == planned.with_samples(0) && layout.len() == images.data.len() {
        return Ok(());
    }
    expect_equal(op, "channels", planned.channels(), layout.channels())?;
    expect_equal(op, "height", planned.size()[0], layout.size()[0])?;
    expect_equal(op, "width", planned.size()[1], layout.size()[1])?;
    expect_equal(op, "border", planned.border(), layout.border())?;
    expect_equal(op, "strip", planned.strip(), layout.strip())?;
    expect_equal(op, what, layout.len(), images.data.len())
}

/// Checks operands of a dense convolution; the layouts are X's and Y's.
fn dense_check(
    op: &'static str,
    shape: ConvShape,
    weights: usize,
    x: &Images<Gpu>,
    y: &Images<Gpu>,
    input_grad: bool,
) -> Result<(), BackendError> {
    let options = ConvOptions { x: x.layout, y: y.layout, input_grad };
    check_layouts(op, shape, options)?;
    check_size(options)?;
    expect_equal(op, "number of weights", shape.rows() * shape.columns(), weights)?;
    expect_equal(op, "number of samples", x.layout.samples(), y.layout.samples())?;
    expect_equal(op, "length of X", x.layout.len(), x.data.len())?;
    expect_equal(op, "length of Y", y.layout.len(), y.data.len())?;
    Ok(())
}
