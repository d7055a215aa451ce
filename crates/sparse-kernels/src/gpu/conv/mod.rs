//! Convolutions: plans, and launches the kernels.

mod bsr;
mod dense;
mod depthwise;
mod grid;
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
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::{BackendError, ConvShape, CsrPattern, ImageLayout, Images, Storage};

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

    fn run_refresh_conv(&self, _: Checked, plan: &GpuConvPlan, values: &Buffer, transposed: &mut Buffer) -> Done {
        match &plan.way {
            Way::Sparse(sparse) => sparse
                .backward
                .iter()
                .try_for_each(|backward| self.gather_buffer(values, &backward.permutation, transposed)),
            // Dense code reads one order both ways.
            Way::Dense(_) => self.copy(values, transposed),
        }
    }

    fn run_conv_forward(&self, checked: Checked, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Done {
        let plan = &w.plan;
        match &plan.way {
            Way::Sparse(sparse) => self.conv_pass(&sparse.forward, &sparse.offsets, &w.values, x, y),
            Way::Dense(dense) => dense
                .with_weight(self, &w.values, |weight| self.run_conv_forward_dense(checked, plan.shape, weight, x, y)),
        }
    }

    fn run_conv_input_grad(
        &self,
        checked: Checked,
        w: &ConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done {
        let plan = &w.plan;
        match &plan.way {
            Way::Sparse(sparse) => sparse.backward.iter().try_for_each(|Backward { passes, offsets, .. }| {
                passes.iter().try_for_each(|pass| self.conv_pass(pass, offsets, &w.transposed_values, dy, dx))
            }),
            Way::Dense(dense) => dense.with_weight(self, &w.transposed_values, |weight| {
                self.run_conv_input_grad_dense(checked, plan.shape, weight, dy, dx)
            }),
        }
    }

    fn run_conv_weight_grad(&self, call: WeightGrad<'_, &GpuConvPlan, Images<Self>, Buffer>) -> Done {
        let WeightGrad { plan, checked, dy, x, values, accumulate } = call;
        match &plan.way {
            Way::Sparse(sparse) => self.conv_sparse_grad(sparse, dy, x, values, accumulate),
            Way::Dense(dense) => dense.sample(self, values, accumulate, |gradient| {
                self.run_conv_weight_grad_dense(WeightGrad {
                    checked,
                    plan: plan.shape,
                    dy,
                    x,
                    values: gradient,
                    accumulate,
                })
            }),
        }
    }

    fn run_grow_conv(
        &self,
        _: Checked,
        shape: ConvShape,
        request: &GrowRequest,
        pairs: Pairs<'_, Images<Self>>,
    ) -> Found {
        self.grow_from_bands(request, |rows, out| self.conv_band(shape, rows, pairs, out))
    }
}

impl DenseConv for Gpu {
    fn run_conv_forward_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Buffer,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done {
        if shape.has_single_channels() {
            return self.depthwise_pass(shape, &Grid::forward(shape, x.layout, y.layout), w, x, y);
        }
        self.dense_forward(shape, w, x, y)
    }

    fn run_conv_input_grad_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Buffer,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done {
        if shape.has_single_channels() {
            let grids = Grid::backward(shape, dx.layout, dy.layout);
            return grids.iter().try_for_each(|grid| self.depthwise_pass(shape, grid, w, dy, dx));
        }
        self.dense_input_grad(shape, w, dy, dx)
    }

    fn run_conv_weight_grad_dense(&self, call: WeightGrad<'_, ConvShape, Images<Self>, Buffer>) -> Done {
        let WeightGrad { plan: shape, dy, x, values: dw, accumulate, .. } = call;
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

    /// `Ok` if so many elements can be seen at once.
    fn check_window(&self, what: &'static str, len: usize) -> Result<(), BackendError> {
        let most = self.window_elements();
        if len <= most {
            return Ok(());
        }
        let what = format!("{what} with {} bytes, more than the {} that a kernel may see", 4 * len, 4 * most);
        Err(self.unsupported(what))
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
