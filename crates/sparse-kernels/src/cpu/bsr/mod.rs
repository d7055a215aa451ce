//! Block-sparse products: checks shapes, plans, and hands over to the kernels.

mod grow;
mod sddmm;
mod spmm;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::sddmm::Sddmm;
pub(super) use self::sddmm::sums;
use self::spmm::Spmm;
use super::plan::block_rows;
use super::{Buffer, Cpu, CpuPlan};
use crate::backend::{BlockMatrix, GrowRequest, PlanOptions};
use crate::dense::check_lanes;
use crate::error::{expect_equal, expect_values};
use crate::{BackendError, BlockSparseLinear, BsrPattern, Candidate, CsrPattern, Op, ShapeError, Strips, Transposed};

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

    fn spmm_bsr(
        &self,
        op: Op,
        w: &BlockMatrix<Self>,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        let _timed =
            self.timed("spmm_bsr", w.values.len() + x.data.len() + y.data.len(), 2 * w.values.len() * x.layout.lanes());
        let (plan, pattern) = (&w.plan, &*w.plan.pattern);
        let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
        let (nrows, ncols, blocks, places, bands) = match op {
            Op::NoTranspose => (nrows, ncols, &**pattern.blocks(), None, &plan.bands),
            Op::Transpose => {
                let Some(t) = &plan.transposed else {
                    let rule = "1: the plan was made without its transposed index";
                    let what = "PlanOptions::transpose";
                    return Err(ShapeError::Rule { op: "spmm_bsr", what, got: 0, rule }.into());
                };
                (ncols, nrows, &t.blocks.pattern, Some(&t.blocks.permutation[..]), &t.bands)
            }
        };
        expect_equal("spmm_bsr", "strip width", plan.options.strip, x.layout.strip())?;
        check_lanes("spmm_bsr", x.layout, y.layout)?;
        expect_equal("spmm_bsr", "rows of X", ncols, x.layout.features())?;
        expect_equal("spmm_bsr", "rows of Y", nrows, y.layout.features())?;
        expect_equal("spmm_bsr", "length of X", x.layout.len(), x.data.len())?;
        expect_equal("spmm_bsr", "length of Y", y.layout.len(), y.data.len())?;
        expect_values(pattern.nnz(), w.values.len())?;
        let (x_layout, y_layout, block_size) = (x.layout, y.layout, pattern.block_size());
        let (values, x, y) = (&w.values[..], &x.data[..], &mut y.data);
        Spmm { blocks, places, bands, block_size, values, x_layout, x, y_layout, y }.run(self);
        Ok(())
    }

    fn sddmm_bsr(
        &self,
        plan: &CpuBlockPlan,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let _timed =
            self.timed("sddmm_bsr", values.len() + x.data.len() + dy.data.len(), 2 * values.len() * x.layout.lanes());
        let pattern = &*plan.pattern;
        expect_equal("sddmm_bsr", "strip width", plan.options.strip, x.layout.strip())?;
        check_lanes("sddmm_bsr", x.layout, dy.layout)?;
        expect_equal("sddmm_bsr", "rows of X", pattern.ncols(), x.layout.features())?;
        expect_equal("sddmm_bsr", "rows of dY", pattern.nrows(), dy.layout.features())?;
        expect_equal("sddmm_bsr", "length of X", x.layout.len(), x.data.len())?;
        expect_equal("sddmm_bsr", "length of dY", dy.layout.len(), dy.data.len())?;
        expect_values(pattern.nnz(), values.len())?;
        let (bands, dy_layout, x_layout) = (&plan.sampled_bands[..], dy.layout, x.layout);
        Sddmm { pattern, bands, dy_layout, dy: &dy.data, x_layout, x: &x.data, values, accumulate }.run(self);
        Ok(())
    }

    fn grow_blocks(
        &self,
        block_size: [usize; 2],
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        let _timed = self.timed(
            "grow_blocks",
            pairs.iter().map(|(dy, x)| dy.data.len() + x.data.len()).sum(),
            pairs.iter().map(|(dy, x)| 2 * dy.layout.features() * x.layout.features() * x.layout.lanes()).sum(),
        );
        grow::grow_blocks(self, block_size, request, pairs)
    }
}
