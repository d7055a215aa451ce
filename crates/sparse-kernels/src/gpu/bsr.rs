//! Block-sparse products: plans, SpMM and its transpose, SDDMM, growth of blocks.

use std::ops::Range;
use std::sync::Arc;

use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::plan::Rows;
use super::shaders;
use super::{Buffer, Gpu, Indices, WINDOW_UNIT, windows};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{BlockMatrix, GrowRequest, PlanOptions};
use crate::{BackendError, BlockSparseLinear, BsrPattern, Op, StripLayout, Strips};

const fn spmm(name: &'static str, entry: &'static str) -> Kernel {
    let source = shaders::SPMM_BSR;
    Kernel { name, source, entry, operands: &[Read, Read, Read, Read, Read, Write] }
}

static FORWARD: Kernel = spmm("spmm_bsr", "forward");
static TRANSPOSED: Kernel = spmm("spmm_bsr_t", "transposed");
static NARROW: Kernel = spmm("spmm_bsr", "narrow");
static NARROW_TRANSPOSED: Kernel = spmm("spmm_bsr_t", "narrow");
static SDDMM: Kernel = Kernel::new("sddmm_bsr", shaders::SDDMM_BSR, &[Read, Read, Read, Read, Write]);

/// Invocations of a workgroup of the product.
const GROUP: usize = 128;
/// Rows of an invocation at most: eight sums of four lanes, and what they are computed from, leave registers for eight
/// warps or so side by side.
const MOST_ROWS: usize = 8;
/// Invocations with fewer rows each, if there are not as many with more: those that a card with 132 multiprocessors has
/// room for at 16 warps each.
const WANTED_INVOCATIONS: usize = 132 * 16 * 32;
/// Tiles of a workgroup of the sampled product, and their rows and columns at most.
const TILES: usize = 16;
const TILE: usize = 4;

/// A BSR pattern prepared for the GPU: rows of blocks in order of length, the same of the transposed blocks, and the row of
/// each block.
#[derive(Debug)]
pub struct GpuBlockPlan {
    pattern: Arc<BsrPattern>,
    options: PlanOptions,
    rows: Rows,
    /// The transposed order, and where each of its blocks stands among the values.
    transposed: Option<(Rows, Indices)>,
    /// Row of blocks of each block.
    block_rows: Indices,
}

impl GpuBlockPlan {
    fn new(gpu: &Gpu, pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<Self, BackendError> {
        StripLayout::new(0, 0, options.strip)?;
        let blocks = pattern.blocks();
        let transposed = if options.transpose {
            let transposed = blocks.transpose();
            Some((Rows::new(gpu, &transposed.pattern)?, gpu.indices(&transposed.permutation)?))
        } else {
            None
        };
        let rows_of_blocks: Vec<u32> = blocks.positions().map(|(row, _)| row).collect();
        let block_rows = gpu.indices(&rows_of_blocks)?;
        Ok(Self { rows: Rows::new(gpu, blocks)?, transposed, block_rows, options, pattern })
    }

    fn bytes(&self) -> usize {
        let transposed = self.transposed.as_ref().map_or(0, |(rows, map)| rows.bytes() + 4 * map.len());
        self.rows.bytes() + transposed + 4 * self.block_rows.len()
    }

    /// Blocks whose values a kernel can see at once, part by part.
    fn value_windows(&self, gpu: &Gpu) -> Vec<Range<usize>> {
        let [r, c] = self.pattern.block_size();
        // Whole blocks that begin where a window may: both are powers of two.
        let unit = (r * c).max(WINDOW_UNIT);
        let most = (gpu.window_elements() / unit).max(1) * unit;
        let blocks = |part: Range<usize>| part.start / (r * c)..part.end / (r * c);
        windows::flat(self.pattern.nnz(), most).map(blocks).collect()
    }
}

impl BlockSparseLinear for Gpu {
    type BlockPlan = GpuBlockPlan;

    fn plan_blocks(&self, pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<GpuBlockPlan, BackendError> {
        GpuBlockPlan::new(self, pattern, options)
    }

    fn block_pattern<'a>(&self, plan: &'a GpuBlockPlan) -> &'a Arc<BsrPattern> {
        &plan.pattern
    }

    fn block_plan_options(&self, plan: &GpuBlockPlan) -> PlanOptions {
        plan.options
    }

    fn block_plan_bytes(&self, plan: &GpuBlockPlan) -> usize {
        plan.bytes()
    }

    fn run_spmm_bsr(&self, _: Checked, op: Op, w: &BlockMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        let plan = &w.plan;
        let (rows, places) = match (op, &plan.transposed) {
            (Op::Transpose, Some((rows, places))) => (rows, Some(places)),
            _ => (&plan.rows, None),
        };
        let mut windows = plan.value_windows(self);
        if windows.is_empty() {
            // Zeros are to be written all the same.
            windows.push(0..0);
        }
        for (i, blocks) in windows.into_iter().enumerate() {
            self.multiply_blocks(w, rows, places, blocks, i > 0, x, y)?;
        }
        Ok(())
    }

    fn run_sddmm_bsr(&self, call: WeightGrad<'_, &GpuBlockPlan, Strips<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        let pattern = &*plan.pattern;
        let ([nrows, ncols], [r, c]) = ([pattern.nrows(), pattern.ncols()], pattern.block_size());
        let [dy_pitch, x_pitch] = [dy.layout.strip_pitch(), x.layout.strip_pitch()];
        let mut strip_parts = self.strip_windows("activations", x.layout.strips(), &[dy_pitch, x_pitch])?;
        if strip_parts.is_empty() {
            // Sums of nothing are to be written all the same.
            strip_parts.push(0..0);
        }
        for (i, strips) in strip_parts.into_iter().enumerate() {
            for blocks in plan.value_windows(self) {
                let first = blocks.start / WINDOW_UNIT * WINDOW_UNIT;
                let tiles = blocks.len() * r.div_ceil(TILE) * c.div_ceil(TILE);
                let (indices, elements) = (blocks.end - first, blocks.len() * r * c);
                let activations = strips.len() * (dy_pitch + x_pitch);
                self.launch(&Launch {
                    kernel: &SDDMM,
                    constants: &[("R", r as f64), ("C", c as f64)],
                    params: &[
                        tiles as u32,
                        (blocks.start - first) as u32,
                        nrows as u32,
                        ncols as u32,
                        strips.len() as u32,
                        (x.layout.strip() / 4) as u32,
                        u32::from(accumulate || i > 0),
                    ],
                    operands: &[
                        plan.block_rows.window(first, indices),
                        plan.rows.columns.window(first, indices),
                        dy.data.window(strips.start * dy_pitch, strips.len() * dy_pitch),
                        x.data.window(strips.start * x_pitch, strips.len() * x_pitch),
                        values.window(blocks.start * r * c, elements),
                    ],
                    workgroups: tiles.div_ceil(TILES),
                    work: Work {
                        bytes: 4 * (2 * blocks.len() + elements + activations) as u64,
                        operations: 2 * (elements * strips.len() * x.layout.strip()) as u64,
                    },
                })?;
            }
        }
        Ok(())
    }

    fn run_grow_blocks(
        &self,
        _: Checked,
        [block_size, size]: [[usize; 2]; 2],
        request: &GrowRequest,
        pairs: Pairs<'_, Strips<Self>>,
    ) -> Found {
        self.grow_bsr(block_size, size, request, pairs)
    }
}

impl Gpu {
    /// `y = W · x` with those blocks of W whose values are in a window, or added with `accumulate`. `rows` is the order of the
    /// product, `places` where its blocks stand if it is the transposed one.
    #[expect(clippy::too_many_arguments, reason = "what the product has")]
    fn multiply_blocks(
        &self,
        w: &BlockMatrix<Self>,
        rows: &Rows,
        places: Option<&Indices>,
        blocks: Range<usize>,
        accumulate: bool,
        x: &Strips<Self>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        let [r, c] = w.plan.pattern.block_size();
        let ([height, width], [down, across]) = if places.is_none() { ([r, c], [c, 1]) } else { ([c, r], [1, c]) };
        let kernel = match (c >= 4, places.is_some()) {
            (true, false) => &FORWARD,
            (true, true) => &TRANSPOSED,
            (false, false) => &NARROW,
            (false, true) => &NARROW_TRANSPOSED,
        };
        let layout = x.layout;
        let strip_quads = layout.strip() / 4;
        let all_quads = layout.strips() * strip_quads;
        let many = rows.size[0] * height.div_ceil(MOST_ROWS) * all_quads >= WANTED_INVOCATIONS;
        let of_invocation = height.min(if many { MOST_ROWS } else { MOST_ROWS / 2 });
        let parts = height / of_invocation;
        // A warp has one row if there are lanes enough, and then loads values and indices once.
        let tile_quads = all_quads.next_power_of_two().clamp(8, 32);
        let slots = GROUP / tile_quads;
        let constants = [
            ("QUADS", tile_quads as f64),
            ("SLOTS", slots as f64),
            ("H", height as f64),
            ("W", width as f64),
            ("T", of_invocation as f64),
            ("DOWN", down as f64),
            ("ACROSS", across as f64),
        ];
        let flags = u32::from(accumulate) | u32::from(places.is_some()) << 1;
        let elements = blocks.len() * r * c;
        let [x_pitch, y_pitch] = [x.layout.strip_pitch(), y.layout.strip_pitch()];
        for strips in self.strip_windows("activations", layout.strips(), &[x_pitch, y_pitch])? {
            let quads = strips.len() * strip_quads;
            let lanes = layout.lanes().min(strips.end * layout.strip()) - strips.start * layout.strip();
            for segment in &rows.segments {
                let entries = &segment.entries;
                let slot_groups = (segment.list.len() * parts).div_ceil(slots);
                self.launch(&Launch {
                    kernel,
                    constants: &constants,
                    params: &[
                        segment.list.len() as u32,
                        slot_groups as u32,
                        quads as u32,
                        strip_quads as u32,
                        x.layout.features() as u32,
                        y.layout.features() as u32,
                        lanes as u32,
                        entries.start as u32,
                        blocks.start as u32,
                        blocks.len() as u32,
                        flags,
                    ],
                    operands: &[
                        rows.list.window(4 * segment.list.start, 4 * segment.list.len()),
                        rows.columns.window(entries.start, entries.len()),
                        // Without places the columns stand in their place, and are not read as such.
                        places.unwrap_or(&rows.columns).window(entries.start, entries.len()),
                        w.values.window(blocks.start * r * c, elements),
                        x.data.window(strips.start * x_pitch, strips.len() * x_pitch),
                        y.data.window(strips.start * y_pitch, strips.len() * y_pitch),
                    ],
                    workgroups: slot_groups * quads.div_ceil(tile_quads),
                    work: Work {
                        bytes: 4 * (entries.len() + elements + strips.len() * (x_pitch + y_pitch)) as u64,
                        operations: 2 * (elements * lanes) as u64,
                    },
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "bsr_tests.rs"]
mod tests;
