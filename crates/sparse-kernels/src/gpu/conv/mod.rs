//! Convolutions: checks shapes, plans, and launches the kernels.

mod bsr;
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

use self::grid::Grid;
use self::plan::{Backward, Way};
use super::{Buffer, Gpu};
use crate::backend::{ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::error::{expect_equal, expect_values};
use crate::{BackendError, Candidate, ConvShape, CsrPattern, ImageLayout, Images, ShapeError, Storage};

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
        if !plan.options.input_grad {
            return Ok(());
        }
        expect_values(plan.pattern.nnz(), values.len())?;
        expect_values(plan.pattern.nnz(), transposed.len())?;
        match &plan.way {
            Way::Sparse(sparse) => sparse
                .backward
                .iter()
                .try_for_each(|backward| self.gather_buffer(values, &backward.permutation, transposed)),
            // Dense code reads one order both ways.
            Way::Dense(_) => self.copy(values, transposed),
        }
    }

    fn conv_forward(&self, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        const OP: &str = "conv_forward";
        let plan = &w.plan;
        plan.options.x.expect(OP, "X", x.layout, x.data.len())?;
        plan.options.y.expect(OP, "Y", y.layout, y.data.len())?;
        expect_equal(OP, "number of samples of Y", x.layout.samples(), y.layout.samples())?;
        expect_values(plan.pattern.nnz(), w.values.len())?;
        match &plan.way {
            Way::Sparse(sparse) => self.conv_pass(&sparse.forward, &sparse.offsets, &w.values, x, y),
            Way::Dense(dense) => {
                dense.with_weight(self, &w.values, |weight| self.conv_forward_dense(plan.shape, weight, x, y))
            }
        }
    }

    fn conv_input_grad(
        &self,
        w: &ConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        const OP: &str = "conv_input_grad";
        let plan = &w.plan;
        if !plan.options.input_grad {
            let rule = "1: the plan was made without the input gradient";
            return Err(ShapeError::Rule { op: OP, what: "ConvOptions::input_grad", got: 0, rule }.into());
        }
        plan.options.x.expect(OP, "dX", dx.layout, dx.data.len())?;
        plan.options.y.expect(OP, "dY", dy.layout, dy.data.len())?;
        expect_equal(OP, "number of samples of dY", dx.layout.samples(), dy.layout.samples())?;
        expect_values(plan.pattern.nnz(), w.values.len())?;
        expect_values(plan.pattern.nnz(), w.transposed_values.len())?;
        match &plan.way {
            Way::Sparse(sparse) => sparse.backward.iter().try_for_each(|Backward { passes, offsets, .. }| {
                passes.iter().try_for_each(|pass| self.conv_pass(pass, offsets, &w.transposed_values, dy, dx))
            }),
            Way::Dense(dense) => dense.with_weight(self, &w.transposed_values, |weight| {
                self.conv_input_grad_dense(plan.shape, weight, dy, dx)
            }),
        }
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
        plan.options.x.expect(OP, "X", x.layout, x.data.len())?;
        plan.options.y.expect(OP, "dY", dy.layout, dy.data.len())?;
        expect_equal(OP, "number of samples of dY", x.layout.samples(), dy.layout.samples())?;
        expect_values(plan.pattern.nnz(), values.len())?;
        match &plan.way {
            Way::Sparse(sparse) => self.conv_sparse_grad(sparse, dy, x, values, accumulate),
            Way::Dense(dense) => dense.sample(self, values, accumulate, |gradient| {
                self.conv_weight_grad_dense(plan.shape, dy, x, gradient, accumulate)
            }),
        }
    }

    fn grow_conv(
        &self,
        shape: ConvShape,
        request: &GrowRequest,
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
        if shape.has_single_channels() {
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
        if shape.has_single_channels() {
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
        if shape.has_single_channels() {
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
    options.check_dense(op, shape, weights, [x.data.len(), y.data.len()])
}
