//! Convolutions: plans, and hands over to the kernels.

mod ahead;
mod bsr;
mod dense;
mod depthwise;
#[cfg(test)]
mod depthwise_tests;
mod grid;
mod grow;
mod panels;
mod pixels;
mod plan;
mod sddmm;
mod spmm;
mod sums;
#[cfg(test)]
mod tests;
mod tiles;
mod wide;

use std::sync::Arc;

pub use bsr::CpuBlockConvPlan;
pub use plan::CpuConvPlan;

use self::grid::Phases;
use self::sddmm::Sddmm;
use self::spmm::{Pass, Spmm};
use super::{Buffer, Cpu, ELEMENTS_PER_TASK, Numbers};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{ConvOptions, ConvWeight, GrowRequest, SparseConv};
use crate::{BackendError, ConvShape, CsrPattern, ImageLayout, Images};

/// What each weight meets: pixels of all samples.
fn pixels_and_samples(layout: ImageLayout) -> usize {
    layout.size()[0] * layout.size()[1] * layout.samples()
}

impl SparseConv for Cpu {
    type ConvPlan = CpuConvPlan;
    const TAKES_16_BITS: bool = true;

    fn plan_conv(
        &self,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<CpuConvPlan, BackendError> {
        CpuConvPlan::new(self, pattern, shape, options)
    }

    /// A vector, but no more than there are samples, and single samples below 8, where vectors hold neighbouring pixels.
    /// Depthwise convolutions, which wait for memory, like longer rows.
    fn image_strip(&self, shape: ConvShape, samples: usize) -> usize {
        match samples {
            0..8 => 1,
            8..16 => 8,
            _ if !shape.is_depthwise() => self.isa.lanes(),
            16..32 => 16,
            _ => 32,
        }
    }

    fn conv_pattern<'a>(&self, plan: &'a CpuConvPlan) -> &'a Arc<CsrPattern> {
        &plan.pattern
    }

    fn conv_shape(&self, plan: &CpuConvPlan) -> ConvShape {
        plan.shape
    }

    fn conv_options(&self, plan: &CpuConvPlan) -> ConvOptions {
        plan.options
    }

    fn conv_plan_bytes(&self, plan: &CpuConvPlan) -> usize {
        plan.bytes()
    }

    fn run_refresh_conv(&self, _: Checked, plan: &CpuConvPlan, values: &Buffer, transposed: &mut Buffer) -> Done {
        let _timed = self.timed("refresh_conv", 3 * transposed.len(), 0);
        let Some(backward) = plan.sparse.as_ref().and_then(|sparse| sparse.backward.as_ref()) else { return Ok(()) };
        let operations = 8 * values.len() as u64;
        self.for_each_chunk(transposed, ELEMENTS_PER_TASK, operations, |start, part| {
            for (to, &from) in part.iter_mut().zip(&backward.permutation[start..]) {
                *to = values[from as usize];
            }
        });
        Ok(())
    }

    fn run_conv_forward(&self, _: Checked, w: &ConvWeight<Self>, x: &Images<Self>, y: &mut Images<Self>) -> Done {
        let _timed = self.timed(
            "conv_forward",
            2 * w.values.len() + x.data.words() + y.data.words(),
            2 * w.values.len() * pixels_and_samples(y.layout),
        );
        let plan = &w.plan;
        let Some(sparse) = &plan.sparse else {
            let mut dense = self.scratch(0);
            plan.scatter(&w.values, &mut dense);
            self.dense_forward(plan.shape, &dense, x, y);
            self.give_back(dense);
            return Ok(());
        };
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let passes = [Pass {
            grid: sparse.grid,
            walk: &sparse.walk,
            wide: sparse.wide,
            offsets: &sparse.offsets,
            values: &w.values,
        }];
        self.with_phases(plan.shape, x, |x| {
            // SAFETY: the pass is the plan's, whose layouts and number of values the operands were checked to have.
            unsafe { Spmm { passes: &passes, strip, strips, x, y: &mut y.data }.run(self) };
        });
        Ok(())
    }

    fn run_conv_input_grad(&self, _: Checked, w: &ConvWeight<Self>, dy: &Images<Self>, dx: &mut Images<Self>) -> Done {
        let _timed = self.timed(
            "conv_input_grad",
            2 * w.values.len() + dy.data.words() + dx.data.words(),
            2 * w.values.len() * pixels_and_samples(dy.layout),
        );
        let plan = &w.plan;
        let Some(backward) = plan.sparse.as_ref().and_then(|sparse| sparse.backward.as_ref()) else {
            let mut dense = self.scratch(0);
            plan.scatter(&w.values, &mut dense);
            self.dense_input_grad(plan.shape, &dense, dy, dx);
            self.give_back(dense);
            return Ok(());
        };
        let (strip, strips) = (dy.layout.strip(), dy.layout.strips());
        let passes = backward.passes.iter().map(|pass| Pass {
            grid: pass.grid,
            walk: &pass.walk,
            wide: pass.wide,
            offsets: &pass.offsets,
            values: &w.transposed_values[pass.entries.clone()],
        });
        let passes: Vec<Pass<'_>> = passes.collect();
        // SAFETY: as in the forward pass, with the values in the order of the transposed ones.
        unsafe { Spmm { passes: &passes, strip, strips, x: dy.data.numbers(), y: &mut dx.data }.run(self) };
        Ok(())
    }

    fn run_conv_weight_grad(&self, call: WeightGrad<'_, &CpuConvPlan, Images<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        let _timed = self.timed(
            "conv_weight_grad",
            2 * values.len() + dy.data.words() + x.data.words(),
            2 * values.len() * pixels_and_samples(dy.layout),
        );
        let Some(sparse) = &plan.sparse else {
            let mut dense = self.scratch(plan.shape.rows() * plan.shape.columns());
            self.dense_weight_grad(plan.shape, 0..plan.shape.rows(), dy, x, &mut dense, false);
            plan.sample(&dense, values, accumulate);
            self.give_back(dense);
            return Ok(());
        };
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let (grid, walk, offsets) = (sparse.grid, &sparse.sampled_walk, &sparse.offsets[..]);
        let shape = plan.shape;
        self.with_phases(shape, x, |x| {
            let dy = dy.data.numbers();
            let product = Sddmm { grid, walk, offsets, shape, strip, strips, dy, x, values, accumulate };
            // SAFETY: grid, walk and offsets are the plan's, whose layouts and number of values the operands have.
            unsafe { product.run(self) };
        });
        Ok(())
    }

    fn run_grow_conv(
        &self,
        _: Checked,
        shape: ConvShape,
        request: &GrowRequest,
        pairs: Pairs<'_, Images<Self>>,
    ) -> Found {
        let _timed = self.timed(
            "grow_conv",
            pairs.iter().map(|(dy, x)| dy.data.words() + x.data.words()).sum(),
            pairs.iter().map(|(dy, _)| 2 * shape.rows() * shape.columns() * pixels_and_samples(dy.layout)).sum(),
        );
        Ok(grow::grow(self, shape, None, request, pairs))
    }
}

/// Floats that a pass over images holds meanwhile: X in phases, and of the gradient of so many weights the sums of parts.
#[cfg(feature = "nn")]
pub(super) fn scratch_lens(shape: ConvShape, x: ImageLayout, y: ImageLayout, weights: usize) -> [usize; 2] {
    let rows = y.size()[0] * y.strips();
    let phases = Phases::of(shape, x).map_or(0, |phases| phases.len(x.samples()));
    [phases, sums::scratch_len(weights, rows, x.len() + y.len())]
}

/// Floats of a window in which a thread widens rows of images in 16 bits for a weight gradient: the larger of X's and dY's, since
/// windows are lent to either. `in_tiles` are blocks and dense weights, whose rows go through it in bands.
#[cfg(feature = "nn")]
pub(super) fn window_len(
    cpu: &Cpu,
    shape: ConvShape,
    layouts: [ImageLayout; 2],
    half: [bool; 2],
    in_tiles: bool,
) -> usize {
    let [x, y] = layouts;
    let (grid, _) = grid::Grid::forward(shape, x, y);
    let band = if in_tiles { dense::band_and_chunk(cpu, shape, &grid, x.strip()).0 } else { 1 };
    // Phases are in f32.
    let sides = [(grid.from, half[0] && Phases::of(shape, x).is_none()), (grid.to, half[1])];
    sides
        .map(|(side, half)| if half { wide::window_len(cpu, &side, side.reach_of(band)) } else { 0 })
        .into_iter()
        .fold(0, usize::max)
}

impl Cpu {
    /// Calls `pass` with X, in phases if the convolution wants those.
    fn with_phases(&self, shape: ConvShape, x: &Images<Self>, pass: impl FnOnce(Numbers<'_>)) {
        let Some(phases) = Phases::of(shape, x.layout) else { return pass(x.data.numbers()) };
        let mut split = self.scratch(phases.len(x.layout.samples()));
        match x.data.numbers() {
            Numbers::F32(images) => phases.split(x.layout, images, &mut split),
            Numbers::Bf16(images) => phases.split(x.layout, images, &mut split),
        }
        pass(Numbers::F32(&split));
        self.give_back(split);
    }
}
