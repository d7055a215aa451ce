//! What the CPU prepares for a sparse convolution: entries as offsets into an image, and the order to walk them in.

use std::sync::Arc;

use super::grid::{Grid, backward_grids};
use crate::backend::ConvOptions;
use crate::cpu::plan::Walk;
use crate::cpu::{Buffer, Cpu};
use crate::error::expect_equal;
use crate::{BackendError, ConvShape, CsrPattern, ImageLayout};

/// A CSR pattern of a convolution prepared for the CPU's kernels, see [`crate::SparseConv::plan_conv`].
#[derive(Debug)]
pub struct CpuConvPlan {
    pub(super) pattern: Arc<CsrPattern>,
    pub(super) shape: ConvShape,
    pub(super) options: ConvOptions,
    /// `None` if the convolution runs dense.
    pub(super) sparse: Option<SparsePlan>,
}

/// What the sparse kernels walk.
#[derive(Debug)]
pub(super) struct SparsePlan {
    pub grid: Grid,
    /// Where each entry's pixels of X stand, relative to the pixel of Y they are for.
    pub offsets: Vec<u32>,
    pub walk: Walk,
    /// Whether the forward pass takes wide tiles, see [`is_wide`].
    pub wide: bool,
    pub sampled_walk: Walk,
    pub backward: Option<Backward>,
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
    pub wide: bool,
}

/// Entries of a row block: they stay in L2 beside the images' rows.
const BLOCK: usize = 1 << 16;

/// The part of L1 that a tile's part of X may take.
const L1_PART: f64 = 0.9;

/// Entries of a row from which on wide tiles pay where L1 is small.
const LONG_ROW: usize = 64;

/// An L1 cache of so many bytes is not small.
const LARGE_L1: usize = 48 << 10;

/// Whether tiles are wide, where taps overlap: with 16 registers eight vectors of one row instead of four of three. They load
/// less of X, but what they read of it fills a small L1, and short rows do not hide that.
fn is_wide(cpu: &Cpu, pattern: &CsrPattern, overlaps: bool) -> bool {
    let is_long = pattern.nnz() >= LONG_ROW * pattern.nrows();
    overlaps && (is_long || cpu.l1_bytes() >= LARGE_L1 || cpu.isa().registers() >= 32)
}

/// How a pass wants its columns cut. Outputs do not depend on it: every sum runs over a row's entries in their order.
#[derive(Clone, Copy)]
struct Cut {
    /// Vectors of a tile.
    vectors: usize,
    /// Floats' worth of entries that a row should keep per chunk: fewer cost more for starting and ending the row than
    /// reading X from L2 does.
    floats: f64,
}

impl Cut {
    /// The number of chunks. One holds as many channels as a tile touches within L1, for all taps, but so many that a row
    /// keeps the entries asked for on average. A column of the pattern is one tap of a channel.
    fn chunks(
        self,
        cpu: &Cpu,
        pattern: &CsrPattern,
        [kh, kw]: [usize; 2],
        stride: usize,
        [width, strip]: [usize; 2],
    ) -> usize {
        let lanes = cpu.isa().lanes();
        // A row may have no more.
        let vectors = self.vectors.min((width * strip).div_ceil(lanes));
        let run = (vectors * lanes * stride + (kw - 1) * strip) * size_of::<f32>();
        let in_l1 = cpu.l1_bytes() as f64 * L1_PART / (kh * run) as f64 * (kh * kw) as f64;
        let length = pattern.nnz().max(1) as f64 / pattern.nrows().max(1) as f64;
        let for_length = self.floats / lanes as f64 / length * pattern.ncols() as f64;
        let wanted = in_l1.max(for_length).max(1.0);
        ((pattern.ncols() as f64 / wanted).round() as usize).max(1)
    }
}

/// From which density on a convolution runs dense, on its weights scattered among zeros: a rule of the pattern alone, so that
/// results do not depend on the machine's mood. Measured in `docs/kernels.md`, "Convolution".
const DENSIFIED_FROM: f64 = 0.75;

impl CpuConvPlan {
    /// Whether the convolution runs dense, its density being what it is.
    pub fn is_densified(&self) -> bool {
        self.sparse.is_none()
    }

    /// The weight as `[O][C/G][kh][kw]`.
    pub(super) fn scatter(&self, values: &[f32], to: &mut Buffer) {
        to.resize(self.pattern.nrows() * self.pattern.ncols());
        to.fill(0.0);
        for (row, to) in to.chunks_exact_mut(self.pattern.ncols()).enumerate() {
            let entries = self.pattern.row_range(row);
            for (&column, &value) in self.pattern.row(row).iter().zip(&values[entries]) {
                to[column as usize] = value;
            }
        }
    }

    /// The stored entries of a dense gradient.
    pub(super) fn sample(&self, from: &[f32], values: &mut [f32], accumulate: bool) {
        for (row, from) in from.chunks_exact(self.pattern.ncols()).enumerate() {
            let entries = self.pattern.row_range(row);
            for (&column, value) in self.pattern.row(row).iter().zip(&mut values[entries]) {
                let sum = from[column as usize];
                *value = if accumulate { *value + sum } else { sum };
            }
        }
    }

    pub(super) fn new(
        cpu: &Cpu,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        const OP: &str = "plan_conv";
        expect_equal(OP, "number of rows", shape.rows(), pattern.nrows())?;
        expect_equal(OP, "number of columns", shape.columns(), pattern.ncols())?;
        options.check(OP, shape)?;
        let sparse = (pattern.density() < DENSIFIED_FROM).then(|| SparsePlan::new(cpu, &pattern, shape, options));
        Ok(Self { pattern, shape, options, sparse })
    }

    pub(super) fn bytes(&self) -> usize {
        self.sparse.as_ref().map_or(0, SparsePlan::bytes)
    }
}

impl SparsePlan {
    fn new(cpu: &Cpu, pattern: &CsrPattern, shape: ConvShape, options: ConvOptions) -> Self {
        let (grid, taps) = Grid::forward(shape, options.x, options.y);
        let offset = |(row, column): (u32, u32)| {
            let (channel, tap) = shape.channel_and_tap(row as usize, column as usize);
            (channel * grid.from.channel + taps[tap]) as u32
        };
        let offsets = pattern.positions().map(offset).collect();
        let strip = options.x.strip();
        let cut = |pattern: &CsrPattern, width: usize, stride: usize, cut: Cut| {
            Walk::with_chunks(pattern, cut.chunks(cpu, pattern, shape.kernel(), stride, [width, strip]), BLOCK, true)
        };
        // With one sample a strip, X is in phases: a stride does not set its pixels apart.
        let stride = if strip > 1 { shape.stride()[1] } else { 1 };
        let product = |wide: bool| Cut { vectors: if wide && stride == 1 { 8 } else { 4 }, floats: 320.0 };
        let sampled = Cut { vectors: 8, floats: 160.0 };
        let wide = is_wide(cpu, pattern, grid.from.overlaps);
        let walk = cut(pattern, grid.size[1], stride, product(wide));
        let sampled_walk = cut(pattern, grid.size[1], stride, sampled);
        let backward = options.input_grad.then(|| {
            let mut permutation = Vec::with_capacity(pattern.nnz());
            let passes = backward_grids(shape, options.x, options.y).into_iter().map(|(grid, taps)| {
                let (sub, columns_to_offset, places) = transposed(pattern, shape, options.y, &taps);
                let wide = is_wide(cpu, &sub, grid.from.overlaps);
                let mut walk = cut(&sub, grid.size[1], 1, product(wide));
                let [offsets, places] = walk.reorder([&columns_to_offset, &places]);
                let first = permutation.len();
                permutation.extend(places);
                BackwardPass { grid, entries: first..permutation.len(), offsets, walk, wide }
            });
            let passes = passes.collect();
            Backward { passes, permutation }
        });
        Self { grid, offsets, walk, wide, sampled_walk, backward }
    }

    fn bytes(&self) -> usize {
        let backward = self.backward.as_ref().map_or(0, |b| {
            let passes = b.passes.iter().map(|p| p.offsets.len() * size_of::<u32>() + p.walk.bytes());
            passes.sum::<usize>() + b.permutation.len() * size_of::<u32>()
        });
        self.offsets.len() * size_of::<u32>() + self.walk.bytes() + self.sampled_walk.bytes() + backward
    }
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
        let (channel, tap) = shape.channel_and_tap(row as usize, column as usize);
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
