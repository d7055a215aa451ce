//! What the CPU prepares for a sparse convolution: entries as offsets into an image, and the order to walk them in.

use std::sync::Arc;

use super::grid::{Grid, backward_grids};
use crate::backend::ConvOptions;
use crate::cpu::Cpu;
use crate::cpu::plan::Walk;
use crate::error::expect_equal;
use crate::{BackendError, ConvShape, CsrPattern, FormatError, ImageLayout, ShapeError};

/// A CSR pattern of a convolution prepared for the CPU's kernels, see [`crate::SparseConv::plan_conv`].
#[derive(Debug)]
pub struct CpuConvPlan {
    pub(super) pattern: Arc<CsrPattern>,
    pub(super) shape: ConvShape,
    pub(super) options: ConvOptions,
    /// Where each entry's pixels of X stand, relative to the pixel of Y they are for.
    pub(super) offsets: Vec<u32>,
    pub(super) grid: Grid,
    pub(super) walk: Walk,
    pub(super) sampled_walk: Walk,
    pub(super) backward: Option<Backward>,
}

/// The transposed convolution: one pass for each residue of X's pixels modulo the stride, since those see different taps.
#[derive(Debug)]
pub(super) struct Backward {
    pub passes: Vec<BackwardPass>,
    /// Where each entry stands in the pattern, in the order of the passes and their walks.
    pub permutation: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct BackwardPass {
    pub grid: Grid,
    /// The entries of this pass, as a range of those of all.
    pub entries: std::ops::Range<usize>,
    /// Where each entry's pixels of dY stand, relative to the pixel of X they are for.
    pub offsets: Vec<u32>,
    pub walk: Walk,
}

fn env(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Entries of a row block: they stay in L2 beside the images' rows.
const BLOCK: usize = 1 << 16;

/// Chunks of a pattern's columns for tiles of `vectors` vectors, where a column of the pattern is one tap of a channel.
fn chunks(cpu: &Cpu, pattern: &CsrPattern, [kh, kw]: [usize; 2], vectors: usize, strip: usize, floats: f64) -> usize {
    // What a tile touches of one channel, for all taps, in whole cache lines.
    let run = vectors * cpu.isa().lanes() + (kw - 1) * strip;
    let bytes = kh * (run * size_of::<f32>()).next_multiple_of(32);
    let in_l1 = cpu.l1_bytes() as f64 * env("FRAC", 2.0 / 3.0) / bytes as f64 * (kh * kw) as f64;
    let entries = floats / cpu.isa().lanes() as f64;
    let for_length = entries * pattern.ncols() as f64 * pattern.nrows() as f64 / pattern.nnz().max(1) as f64;
    let wanted = in_l1.max(for_length).max(1.0);
    ((pattern.ncols() as f64 / wanted).round() as usize).max(1)
}

impl CpuConvPlan {
    pub(super) fn new(
        cpu: &Cpu,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        const OP: &str = "plan_conv";
        expect_equal(OP, "number of rows", shape.rows(), pattern.nrows())?;
        expect_equal(OP, "number of columns", shape.columns(), pattern.ncols())?;
        check_layouts(OP, shape, options)?;
        check_size(options)?;
        let (grid, taps) = Grid::forward(shape, options.x, options.y);
        let offset = |(row, column): (u32, u32)| {
            let (channel, tap) = channel_and_tap(shape, row as usize, column as usize);
            (channel * grid.from.channel + taps[tap]) as u32
        };
        let offsets = pattern.positions().map(offset).collect();
        let strip = options.x.strip();
        let chunked = |pattern: &CsrPattern, vectors: usize, floats: f64| {
            Walk::with_chunks(pattern, chunks(cpu, pattern, shape.kernel(), vectors, strip, floats), BLOCK)
        };
        let walk = chunked(&pattern, 4, env("FE", 320.0));
        let sampled_walk = chunked(&pattern, 8, env("SE", 448.0));
        let backward = options.input_grad.then(|| {
            let mut permutation = Vec::with_capacity(pattern.nnz());
            let passes = backward_grids(shape, options.x, options.y).into_iter().map(|(grid, taps)| {
                let (sub, columns_to_offset, places) = transposed(&pattern, shape, options.y, &taps);
                let mut walk = chunked(&sub, 4, env("FE", 320.0));
                let [offsets, places] = walk.reorder([&columns_to_offset, &places]);
                let first = permutation.len();
                permutation.extend(places);
                BackwardPass { grid, entries: first..permutation.len(), offsets, walk }
            });
            let passes = passes.collect();
            Backward { passes, permutation }
        });
        Ok(Self { pattern, shape, options, offsets, grid, walk, sampled_walk, backward })
    }

    pub(super) fn bytes(&self) -> usize {
        let backward = self.backward.as_ref().map_or(0, |b| {
            let passes = b.passes.iter().map(|p| p.offsets.len() * size_of::<u32>() + p.walk.bytes());
            passes.sum::<usize>() + b.permutation.len() * size_of::<u32>()
        });
        self.offsets.len() * size_of::<u32>() + self.walk.bytes() + self.sampled_walk.bytes() + backward
    }
}

/// Checks that 32-bit offsets reach all of a strip.
pub(super) fn check_size(options: ConvOptions) -> Result<(), FormatError> {
    for layout in [options.x, options.y] {
        let (what, got, max) = ("elements of a strip of images", layout.strip_pitch() as u64, 1 << 31);
        if got > max {
            return Err(FormatError::TooLarge { what, got, max });
        }
    }
    Ok(())
}

/// Checks that layouts fit a shape.
pub(super) fn check_layouts(op: &'static str, shape: ConvShape, options: ConvOptions) -> Result<(), ShapeError> {
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

/// The input channel and the tap of a column of the weight's row.
fn channel_and_tap(shape: ConvShape, row: usize, column: usize) -> (usize, usize) {
    let group = row / (shape.out_channels() / shape.groups());
    (group * (shape.in_channels() / shape.groups()) + column / shape.taps(), column % shape.taps())
}

/// The entries of the given taps, transposed: rows are X's channels, columns `(output channel of the group, tap)`. Returns
/// that pattern and for each of its entries its offset in dY and its place in `pattern`.
fn transposed(
    pattern: &CsrPattern,
    shape: ConvShape,
    y: ImageLayout,
    taps: &[Option<usize>],
) -> (CsrPattern, Vec<u32>, Vec<u32>) {
    let channels = shape.out_channels() / shape.groups();
    let of = |(row, column): (u32, u32)| {
        let (channel, tap) = channel_and_tap(shape, row as usize, column as usize);
        taps[tap].map(|offset| {
            let column = row as usize % channels * shape.taps() + tap;
            (channel, column as u32, (row as usize * y.channel_pitch() + offset) as u32)
        })
    };
    let mut row_offsets = vec![0u32; shape.in_channels() + 1];
    pattern.positions().filter_map(of).for_each(|(channel, ..)| row_offsets[channel + 1] += 1);
    for channel in 0..shape.in_channels() {
        row_offsets[channel + 1] += row_offsets[channel];
    }
    let nnz = row_offsets[shape.in_channels()] as usize;
    let mut next = row_offsets.clone();
    let (mut columns, mut offsets, mut places) = (vec![0; nnz], vec![0; nnz], vec![0; nnz]);
    for (place, position) in pattern.positions().enumerate() {
        if let Some((channel, column, offset)) = of(position) {
            let slot = next[channel] as usize;
            next[channel] += 1;
            (columns[slot], offsets[slot], places[slot]) = (column, offset, place as u32);
        }
    }
    // Rows of the weight were visited in order, and a row's taps of one channel in theirs: columns increase strictly.
    let pattern = CsrPattern::new(shape.in_channels(), channels * shape.taps(), row_offsets, columns);
    (pattern.expect("a part of a pattern, transposed"), offsets, places)
}
