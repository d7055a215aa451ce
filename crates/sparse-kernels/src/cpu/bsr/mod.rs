//! Block-sparse products: plans, and hands over to the kernels.

mod grow;
mod scatter;
mod sddmm;
mod spmm;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::scatter::Scatter;
use self::sddmm::Sddmm;
#[cfg(feature = "conv")]
pub(super) use self::sddmm::sums;
use self::spmm::Spmm;
use super::plan::block_rows;
use super::{Buffer, Cpu, CpuPlan, SharedMut};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{BlockMatrix, GrowRequest, PlanOptions};
use crate::{BackendError, BlockSparseLinear, BsrPattern, CsrPattern, Op, Strips, Transposed};

/// Values of a band of block rows: what one task of a product takes, or part of it if it divides the lanes too.
const BAND_VALUES: usize = 1 << 16;
/// The same for the sampled product, whose tasks are bands alone.
const SAMPLED_BAND_VALUES: usize = 1 << 15;

/// A BSR pattern prepared for the CPU's kernels, see [`BlockSparseLinear::plan_blocks`].
///
/// Bands of block rows with about equal numbers of blocks are the unit of parallelism. The blocks themselves are
/// walked in the pattern's order, rows of the grid one after the other.
#[derive(Debug)]
pub struct CpuBlockPlan {
    pattern: Arc<BsrPattern>,
    options: PlanOptions,
    bands: Vec<u32>,
    sampled_bands: Vec<u32>,
    transposed: Option<TransposedBlocks>,
}

/// The index of the transposed blocks: for each, its block row and where it stands among the values.
#[derive(Debug)]
struct TransposedBlocks {
    blocks: Transposed,
    bands: Vec<u32>,
}

impl CpuBlockPlan {
    fn new(pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<Self, BackendError> {
        CpuPlan::check_strip("plan_blocks", options.strip)?;
        let [r, c] = pattern.block_size();
        let bands = |blocks: &CsrPattern, values: usize| block_rows(blocks, values / (r * c), 1);
        let transposed = options.transpose.then(|| {
            let blocks = pattern.blocks().transpose();
            TransposedBlocks { bands: bands(&blocks.pattern, BAND_VALUES), blocks }
        });
        let (all, sampled) = (bands(pattern.blocks(), BAND_VALUES), bands(pattern.blocks(), SAMPLED_BAND_VALUES));
        Ok(Self { options, bands: all, sampled_bands: sampled, transposed, pattern })
    }

    fn bytes(&self) -> usize {
        let transposed = self.transposed.as_ref().map_or(0, |t| {
            let Transposed { pattern, permutation } = &t.blocks;
            pattern.row_offsets().len() + pattern.col_indices().len() + permutation.len() + t.bands.len()
        });
        (self.bands.len() + self.sampled_bands.len() + transposed) * size_of::<u32>()
    }
}

impl BlockSparseLinear for Cpu {
    type BlockPlan = CpuBlockPlan;

    fn plan_blocks(&self, pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<CpuBlockPlan, BackendError> {
        CpuBlockPlan::new(pattern, options)
    }

    fn block_pattern<'a>(&self, plan: &'a CpuBlockPlan) -> &'a Arc<BsrPattern> {
        &plan.pattern
    }

    fn block_plan_options(&self, plan: &CpuBlockPlan) -> PlanOptions {
        plan.options
    }

    fn block_plan_bytes(&self, plan: &CpuBlockPlan) -> usize {
        plan.bytes()
    }

    fn run_spmm_bsr(&self, _: Checked, op: Op, w: &BlockMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        let _timed =
            self.timed("spmm_bsr", w.values.len() + x.data.len() + y.data.len(), 2 * w.values.len() * x.layout.lanes());
        let (plan, pattern) = (&w.plan, &*w.plan.pattern);
        if op == Op::Transpose && Scatter::pays(self, pattern.block_size(), y.layout) {
            let (dy_layout, dx_layout, dx) = (x.layout, y.layout, SharedMut::new(&mut y.data));
            let product = Scatter { pattern, values: &w.values, dy_layout, dy: &x.data, dx_layout, dx };
            // SAFETY: blocks have one column if it pays, and `Checked` says that all lengths fit.
            unsafe { product.run(self) };
            return Ok(());
        }
        let (blocks, places, bands) = match (op, &plan.transposed) {
            (Op::Transpose, Some(t)) => (&t.blocks.pattern, Some(&t.blocks.permutation[..]), &t.bands),
            _ => (&**pattern.blocks(), None, &plan.bands),
        };
        let (x_layout, y_layout, block_size) = (x.layout, y.layout, pattern.block_size());
        let (values, x, y) = (&w.values[..], &x.data[..], &mut y.data);
        let product = Spmm { blocks, places, bands, block_size, values, x_layout, x, y_layout, y };
        // SAFETY: blocks, places and bands are the plan's, and `Checked` says that all lengths, and its direction, fit it.
        unsafe { product.run(self) };
        Ok(())
    }

    fn run_sddmm_bsr(&self, call: WeightGrad<'_, &CpuBlockPlan, Strips<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        let _timed =
            self.timed("sddmm_bsr", values.len() + x.data.len() + dy.data.len(), 2 * values.len() * x.layout.lanes());
        let (pattern, bands, dy_layout, x_layout) = (&*plan.pattern, &plan.sampled_bands[..], dy.layout, x.layout);
        let product = Sddmm { pattern, bands, dy_layout, dy: &dy.data, x_layout, x: &x.data, values, accumulate };
        // SAFETY: the bands are the pattern's, and `Checked` says that all lengths fit it.
        unsafe { product.run(self) };
        Ok(())
    }

    fn run_grow_blocks(
        &self,
        _: Checked,
        [block_size, size]: [[usize; 2]; 2],
        request: &GrowRequest,
        pairs: Pairs<'_, Strips<Self>>,
    ) -> Found {
        let _timed = self.timed(
            "grow_blocks",
            pairs.iter().map(|(dy, x)| dy.data.len() + x.data.len()).sum(),
            pairs.iter().map(|(dy, x)| 2 * dy.layout.features() * x.layout.features() * x.layout.lanes()).sum(),
        );
        Ok(grow::grow_blocks(self, block_size, size, request, pairs))
    }
}
