//! Block-sparse convolution: blocks become panels and rectangles.

use std::ops::Range;
use std::sync::Arc;

use super::dense::{band_and_chunk, chunk_channels};
use super::grid::{Grid, backward_grids, isa_for};
use super::grow::grow;
use super::panels::{Panel, Panels, Product, most_rows};
use super::tiles::{Gradient, Rectangle, Rectangles};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::conv::check_conv_blocks;
use crate::backend::linear::{Found, Pairs};
use crate::backend::{BlockConvWeight, BlockSparseConv, ConvOptions, GrowRequest};
use crate::cpu::{Buffer, Cpu};
use crate::error::expect_equal;
use crate::{BackendError, BsrPattern, ConvShape, Images};

/// A BSR pattern of a convolution prepared for the CPU's kernels, see [`BlockSparseConv::plan_conv_blocks`].
#[derive(Debug)]
pub struct CpuBlockConvPlan {
    pattern: Arc<BsrPattern>,
    shape: ConvShape,
    options: ConvOptions,
    forward: Pass,
    rectangles: Rectangles,
    /// One pass for each residue of X's pixels modulo the stride; empty without the input gradient.
    backward: Vec<Pass>,
}

/// One pass over panels, and where their values come from.
#[derive(Debug)]
struct Pass {
    grid: Grid,
    panels: Panels,
    /// Where each panel's columns find the value of their first row.
    sources: Vec<u32>,
    /// From the value of a row to that of the next.
    row_pitch: usize,
}

impl Pass {
    /// Copies the values into the panels' order.
    fn pack(&self, values: &[f32], to: &mut Buffer) {
        to.resize(self.panels.values);
        let (mut rest, mut sources) = (&mut to[..], &self.sources[..]);
        for panel in &self.panels.panels {
            let (part, columns);
            (part, rest) = rest.split_at_mut((panel.len * panel.rows) as usize);
            (columns, sources) = sources.split_at(panel.len as usize);
            for (to, &source) in part.chunks_exact_mut(panel.rows as usize).zip(columns) {
                for (to, &value) in to.iter_mut().zip(values[source as usize..].iter().step_by(self.row_pitch)) {
                    *to = value;
                }
            }
        }
    }

    /// Adds the panels of a block row: its rows, and its columns as offset and source.
    fn push(&mut self, most: usize, rows: Range<usize>, columns: &[(u32, u32)]) {
        let first = self.panels.offsets.len();
        self.panels.offsets.extend(columns.iter().map(|column| column.0));
        for (row, height) in Panels::heights(most, rows.len()) {
            self.panels.panels.push(Panel {
                row: (rows.start + row) as u32,
                rows: height as u32,
                columns: first as u32,
                len: columns.len() as u32,
                values: self.panels.values as u32,
            });
            self.panels.values += columns.len() * height;
            self.sources.extend(columns.iter().map(|column| column.1 + (row * self.row_pitch) as u32));
        }
    }

    fn end_chunk(&mut self) {
        self.panels.bounds.push(self.panels.panels.len() as u32);
    }

    fn bytes(&self) -> usize {
        self.panels.bytes() + self.sources.len() * size_of::<u32>()
    }
}

/// Rows of a panel of blocks of that many rows: six would cut blocks unevenly.
fn rows_of_blocks(cpu: &Cpu, grid: Grid, strip: usize) -> usize {
    if most_rows(isa_for(cpu.isa(), grid, strip)) >= 8 { 8 } else { 4 }
}

/// A block's place in the convolution.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Where its values start.
    place: u32,
    /// Output channels.
    row: usize,
    /// First input channel, of all and of its group.
    channel: usize,
    channel_in_group: usize,
    tap: usize,
}

impl CpuBlockConvPlan {
    fn new(cpu: &Cpu, pattern: Arc<BsrPattern>, shape: ConvShape, options: ConvOptions) -> Result<Self, BackendError> {
        const OP: &str = "plan_conv_blocks";
        expect_equal(OP, "number of rows", shape.rows(), pattern.nrows())?;
        expect_equal(OP, "number of columns", shape.columns(), pattern.ncols())?;
        options.check(OP, shape)?;
        let [r, c] = pattern.block_size();
        let (rows, channels) = (shape.out_channels() / shape.groups(), shape.in_channels() / shape.groups());
        check_conv_blocks(OP, shape, [r, c])?;
        let block = |(position, (i, j)): (usize, (u32, u32))| {
            let (row, column) = (i as usize * r, j as usize * c);
            let (tap, channel_in_group) = (column / channels, column % channels);
            let channel = row / rows * channels + channel_in_group;
            Block { place: (position * r * c) as u32, row, channel, channel_in_group, tap }
        };
        let blocks: Vec<Block> = pattern.blocks().positions().enumerate().map(block).collect();
        let strip = options.x.strip();

        let (grid, taps) = Grid::forward(shape, options.x, options.y);
        let mut forward = Pass { grid, panels: Panels::default(), sources: Vec::new(), row_pitch: c };
        forward.panels.bounds.push(0);
        let chunk = chunk_channels(cpu, shape.kernel(), 3, strip).next_multiple_of(c);
        let mut columns = Vec::new();
        for first in (0..channels).step_by(chunk) {
            let chunk = first..first + chunk;
            for block_row in 0..pattern.blocks().nrows() {
                columns.clear();
                for block in &blocks[pattern.blocks().row_range(block_row)] {
                    if chunk.contains(&block.channel_in_group) {
                        let offset = block.channel * grid.from.channel + taps[block.tap];
                        let column = |j: usize| ((offset + j * grid.from.channel) as u32, block.place + j as u32);
                        columns.extend((0..c).map(column));
                    }
                }
                // The first chunk writes every row.
                if first == 0 || !columns.is_empty() {
                    let rows = block_row * r..((block_row + 1) * r).min(shape.out_channels());
                    forward.push(rows_of_blocks(cpu, grid, strip), rows, &columns);
                }
            }
            forward.end_chunk();
        }

        let (band, chunk) = band_and_chunk(cpu, shape, &grid, strip);
        let chunk = chunk.next_multiple_of(c);
        let mut rectangles = Rectangles { row_pitch: c, band, bounds: vec![0], ..Rectangles::default() };
        for first in (0..channels).step_by(chunk) {
            let chunk = first..first + chunk;
            for block in blocks.iter().filter(|block| chunk.contains(&block.channel_in_group)) {
                let columns = rectangles.offsets.len() as u32;
                let offset = block.channel * grid.from.channel + taps[block.tap];
                rectangles.offsets.extend((0..c).map(|j| (offset + j * grid.from.channel) as u32));
                let rows = r.min(shape.out_channels() - block.row) as u32;
                let (row, len, place) = (block.row as u32, c as u32, block.place);
                rectangles.rectangles.push(Rectangle { row, rows, columns, len, place });
            }
            rectangles.bounds.push(rectangles.rectangles.len() as u32);
        }

        let mut backward = Vec::new();
        if options.input_grad {
            // Blocks by their input channels; those of one by output channel, as the pattern has them.
            let mut by_channel = blocks.clone();
            by_channel.sort_by_key(|block| block.channel);
            let chunk = chunk_channels(cpu, shape.kernel(), 3, strip).next_multiple_of(r);
            for (grid, taps) in backward_grids(shape, options.x, options.y) {
                let mut pass = Pass { grid, panels: Panels::default(), sources: Vec::new(), row_pitch: 1 };
                pass.panels.bounds.push(0);
                for first in (0..rows).step_by(chunk) {
                    let chunk = first..first + chunk;
                    let mut rest = &by_channel[..];
                    for channel in (0..shape.in_channels()).step_by(c) {
                        let here;
                        (here, rest) = rest.split_at(rest.partition_point(|block| block.channel == channel));
                        columns.clear();
                        for block in here.iter().filter(|block| chunk.contains(&(block.row % rows))) {
                            let Some(offset) = taps[block.tap] else { continue };
                            let rows = block.row..(block.row + r).min(shape.out_channels());
                            columns.extend(rows.enumerate().map(|(i, row)| {
                                ((row * grid.from.channel + offset) as u32, block.place + (i * c) as u32)
                            }));
                        }
                        if first == 0 || !columns.is_empty() {
                            pass.push(rows_of_blocks(cpu, grid, strip), channel..channel + c, &columns);
                        }
                    }
                    pass.end_chunk();
                }
                backward.push(pass);
            }
        }
        Ok(Self { pattern, shape, options, forward, rectangles, backward })
    }

    fn bytes(&self) -> usize {
        let Rectangles { offsets, rectangles, bounds, .. } = &self.rectangles;
        self.forward.bytes()
            + self.backward.iter().map(Pass::bytes).sum::<usize>()
            + (offsets.len() + bounds.len()) * size_of::<u32>()
            + rectangles.len() * size_of::<Rectangle>()
    }
}

impl BlockSparseConv for Cpu {
    type BlockConvPlan = CpuBlockConvPlan;
    const TAKES_16_BITS: bool = true;

    fn plan_conv_blocks(
        &self,
        pattern: Arc<BsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<CpuBlockConvPlan, BackendError> {
        CpuBlockConvPlan::new(self, pattern, shape, options)
    }

    fn block_conv_pattern<'a>(&self, plan: &'a CpuBlockConvPlan) -> &'a Arc<BsrPattern> {
        &plan.pattern
    }

    fn block_conv_shape(&self, plan: &CpuBlockConvPlan) -> ConvShape {
        plan.shape
    }

    fn block_conv_options(&self, plan: &CpuBlockConvPlan) -> ConvOptions {
        plan.options
    }

    fn block_conv_plan_bytes(&self, plan: &CpuBlockConvPlan) -> usize {
        plan.bytes()
    }

    fn run_conv_forward_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done {
        let _timed = self.timed(
            "conv_forward_bsr",
            w.values.len() + x.data.words() + y.data.words(),
            2 * w.values.len() * super::pixels_and_samples(y.layout),
        );
        let plan = &w.plan;
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let Pass { grid, panels, .. } = &plan.forward;
        let mut values = self.scratch(0);
        plan.forward.pack(&w.values, &mut values);
        self.with_phases(plan.shape, x, |x| {
            Product { grid: *grid, panels, values: &values, strip, strips, x, y: &mut y.data }.run(self);
        });
        self.give_back(values);
        Ok(())
    }

    fn run_conv_input_grad_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done {
        let _timed = self.timed(
            "conv_input_grad_bsr",
            w.values.len() + dy.data.words() + dx.data.words(),
            2 * w.values.len() * super::pixels_and_samples(dy.layout),
        );
        let plan = &w.plan;
        let (strip, strips) = (dy.layout.strip(), dy.layout.strips());
        let mut values = self.scratch(0);
        for pass in &plan.backward {
            pass.pack(&w.values, &mut values);
            let Pass { grid, panels, .. } = pass;
            let x = dy.data.numbers();
            Product { grid: *grid, panels, values: &values, strip, strips, x, y: &mut dx.data }.run(self);
        }
        self.give_back(values);
        Ok(())
    }

    fn run_conv_weight_grad_bsr(&self, call: WeightGrad<'_, &CpuBlockConvPlan, Images<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        let _timed = self.timed(
            "conv_weight_grad_bsr",
            values.len() + dy.data.words() + x.data.words(),
            2 * values.len() * super::pixels_and_samples(dy.layout),
        );
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let (grid, rectangles) = (plan.forward.grid, &plan.rectangles);
        self.with_phases(plan.shape, x, |x| {
            let dy = dy.data.numbers();
            Gradient { grid, rectangles, strip, strips, dy, x, dw: values, accumulate }.run(self);
        });
        // Rows of the last block row that lie beyond the matrix.
        let [r, c] = plan.pattern.block_size();
        let outside = plan.pattern.blocks().nrows() * r - plan.shape.out_channels();
        if outside > 0 {
            let last = plan.pattern.blocks().row_range(plan.pattern.blocks().nrows() - 1);
            for block in values[last.start * r * c..last.end * r * c].chunks_exact_mut(r * c) {
                block[(r - outside) * c..].fill(0.0);
            }
        }
        Ok(())
    }

    fn run_grow_conv_blocks(
        &self,
        _: Checked,
        shape: ConvShape,
        block_size: [usize; 2],
        request: &GrowRequest,
        pairs: Pairs<'_, Images<Self>>,
    ) -> Found {
        let _timed = self.timed("grow_conv_blocks", 0, 0);
        Ok(grow(self, shape, Some(block_size), request, pairs))
    }
}
