//! Convolution with dense weights: implicit matrix products.

use std::ops::Range;

use super::grid::{Grid, part};
use super::sums::Sums;
use crate::gpu::kernel::{Kernel, Launch, Read, Work, Write};
use crate::gpu::shaders;
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, ConvShape, Images};

static CONV_DENSE: Kernel = Kernel::new("conv_dense", shaders::CONV_DENSE, &[Read, Read, Read, Write]);
static CONV_DENSE_SINGLE: Kernel = Kernel { entry: "conv_dense_single", ..CONV_DENSE };
static CONV_DENSE_GRAD: Kernel =
    Kernel::new("conv_dense_grad", shaders::CONV_DENSE_GRAD, &[Read, Read, Read, Read, Write]);

/// Rows of an invocation, invocations of a workgroup along rows at most, and columns of a workgroup, as the shader has them.
const ROWS: usize = 8;
const MOST_ROW_THREADS: usize = 8;
const COLUMNS: usize = 32;
/// Rows and columns of W of a workgroup of the gradient, as the shader has it.
const GRAD_TILE: usize = 64;

/// How a dense weight is read in one direction.
struct Direction {
    /// Rows and channels of a group.
    rows: usize,
    channels: usize,
    /// Distances in the weight, of rows and of channels.
    row: usize,
    channel: usize,
}

/// From row to row and column to column of the taps that a grid's pixels see, in W, and the first.
pub(super) fn weight_taps(shape: ConvShape, grid: &Grid) -> [usize; 3] {
    let [rows, columns] = grid.taps;
    let width = shape.kernel()[1];
    [rows.step * width, columns.step, rows.first * width + columns.first]
}

impl Gpu {
    /// `y = conv(x, w)`. Shapes have been checked.
    pub(super) fn dense_forward(
        &self,
        shape: ConvShape,
        w: &Buffer,
        x: &Images<Self>,
        y: &Images<Self>,
    ) -> Result<(), BackendError> {
        let grid = Grid::forward(shape, x.layout, y.layout);
        let direction = Direction {
            rows: shape.out_channels() / shape.groups(),
            channels: shape.in_channels() / shape.groups(),
            row: shape.columns(),
            channel: shape.taps(),
        };
        self.dense_pass(shape, &grid, &direction, w, x, y)
    }

    /// `dx =` the input gradient. Shapes have been checked.
    pub(super) fn dense_input_grad(
        &self,
        shape: ConvShape,
        w: &Buffer,
        dy: &Images<Self>,
        dx: &Images<Self>,
    ) -> Result<(), BackendError> {
        let direction = Direction {
            rows: shape.in_channels() / shape.groups(),
            channels: shape.out_channels() / shape.groups(),
            row: shape.taps(),
            channel: shape.columns(),
        };
        Grid::backward(shape, dx.layout, dy.layout)
            .iter()
            .try_for_each(|grid| self.dense_pass(shape, grid, &direction, w, dy, dx))
    }

    fn dense_pass(
        &self,
        shape: ConvShape,
        grid: &Grid,
        direction: &Direction,
        w: &Buffer,
        from: &Images<Self>,
        to: &Images<Self>,
    ) -> Result<(), BackendError> {
        self.check_window("a convolution's weights", w.len())?;
        let kernel = if grid.is_single() { &CONV_DENSE_SINGLE } else { &CONV_DENSE };
        let Direction { rows, channels, row, channel } = *direction;
        let row_threads = rows.div_ceil(ROWS).next_power_of_two().min(MOST_ROW_THREADS);
        let row_tiles = rows.div_ceil(ROWS * row_threads);
        let taps = grid.taps[0].count * grid.taps[1].count;
        let [tap_row, tap_column, first] = weight_taps(shape, grid);
        for strips in self.image_windows(&[from.layout, to.layout])? {
            let (columns, samples) = (grid.columns(grid.points(strips.len())), super::samples(to.layout, &strips));
            if columns == 0 {
                continue;
            }
            let ((from_start, from_len), (to_start, to_len)) = (part(from.layout, &strips), part(to.layout, &strips));
            let weights = [tap_row, tap_column, first, row, channel, w.len() / shape.groups()];
            let tiles = [rows, channels, row_tiles, shape.groups(), columns, samples];
            let words = grid.dense_words(weights.into_iter().chain(tiles));
            let [quads, single] = grid.constants();
            let read = from.data.window(from_start, from_len);
            let pixels = grid.size[0] * grid.size[1];
            self.launch(&Launch {
                kernel,
                constants: &[("ROW_THREADS", row_threads as f64), quads, single],
                params: &[&grid.words(strips.len())[..], &words].concat(),
                operands: &[w.whole(), read, read, to.data.window(to_start, to_len)],
                workgroups: row_tiles * shape.groups() * columns.div_ceil(COLUMNS),
                work: Work {
                    bytes: 4 * (w.len() + from_len + to_len * pixels / super::pixels(to.layout)) as u64,
                    operations: 2 * (shape.groups() * rows * channels * taps) as u64 * (pixels * samples) as u64,
                },
            })?;
        }
        Ok(())
    }

    /// Output channels `rows` of the gradient of W, at the start of `dw`. Shapes have been checked.
    pub(super) fn dense_weight_grad(
        &self,
        shape: ConvShape,
        rows: Range<usize>,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let grid = Grid::forward(shape, x.layout, dy.layout);
        let [group_rows, channels] = [shape.out_channels(), shape.in_channels()].map(|all| all / shape.groups());
        let (row_tiles, column_tiles) = (group_rows.div_ceil(GRAD_TILE), shape.columns().div_ceil(GRAD_TILE));
        let first_group = rows.start / group_rows;
        let groups = rows.end.div_ceil(group_rows) - first_group;
        let (len, workgroups) = (rows.len() * shape.columns(), row_tiles * column_tiles * groups);
        let sums = Sums { kernel: &CONV_DENSE_GRAD, lists: &[], list_words: 0, to: dw, len, accumulate, workgroups };
        self.conv_sums(&grid, dy, x, &sums, |slices| {
            let tiles = [group_rows, channels, row_tiles, column_tiles, first_group, groups, rows.start, rows.end];
            grid.dense_words(tiles.into_iter().chain(slices))
        })
    }
}
