//! Convolution of every channel by itself.

use std::ops::Range;

use super::dense::weight_taps;
use super::grid::{Grid, part};
use super::sums::Sums;
use crate::gpu::elementwise::GROUP;
use crate::gpu::kernel::{Kernel, Launch, Read, Work, Write};
use crate::gpu::shaders;
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, ConvShape, Images};

static CONV_DEPTHWISE: Kernel = Kernel::new("conv_depthwise", shaders::CONV_DEPTHWISE, &[Read, Read, Write]);
static CONV_DEPTHWISE_SINGLE: Kernel = Kernel { entry: "conv_depthwise_single", ..CONV_DEPTHWISE };
static CONV_DEPTHWISE_GRAD: Kernel =
    Kernel::new("conv_depthwise_grad", shaders::CONV_DEPTHWISE_GRAD, &[Read, Read, Read, Read, Write]);

/// Taps of a workgroup of the gradient, as the shader has it.
const GRAD_TAPS: usize = 9;

impl Gpu {
    /// The pixels of `to` that one pass makes: of all of Y, or of a class of dX's. Shapes have been checked.
    pub(super) fn depthwise_pass(
        &self,
        shape: ConvShape,
        grid: &Grid,
        w: &Buffer,
        from: &Images<Self>,
        to: &Images<Self>,
    ) -> Result<(), BackendError> {
        self.check_window("a convolution's weights", w.len())?;
        let kernel = if grid.is_single() { &CONV_DEPTHWISE_SINGLE } else { &CONV_DEPTHWISE };
        let (channels, taps) = (shape.groups(), grid.taps[0].count * grid.taps[1].count);
        let [height, width] = grid.size;
        let row_columns = grid.columns(width);
        for strips in self.image_windows(&[from.layout, to.layout])? {
            let columns = strips.len() * height * channels * row_columns;
            let samples = super::samples(to.layout, &strips);
            let ((from_start, from_len), (to_start, to_len)) = (part(from.layout, &strips), part(to.layout, &strips));
            let rest = [shape.taps(), channels, row_columns, columns, samples];
            let words = grid.dense_words(weight_taps(shape, grid).into_iter().chain(rest));
            let pixels = height * width;
            self.launch(&Launch {
                kernel,
                constants: &grid.constants(),
                params: &[&grid.words(strips.len())[..], &words].concat(),
                operands: &[w.whole(), from.data.window(from_start, from_len), to.data.window(to_start, to_len)],
                workgroups: columns.div_ceil(GROUP),
                work: Work {
                    bytes: 4 * (w.len() + from_len + to_len * pixels / super::pixels(to.layout)) as u64,
                    operations: 2 * (channels * taps) as u64 * (pixels * samples) as u64,
                },
            })?;
        }
        Ok(())
    }

    /// Channels `rows` of the gradient of W, at the start of `dw`. Shapes have been checked.
    pub(super) fn depthwise_weight_grad(
        &self,
        shape: ConvShape,
        rows: Range<usize>,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let grid = Grid::forward(shape, x.layout, dy.layout);
        let tap_groups = shape.taps().div_ceil(GRAD_TAPS);
        let (len, workgroups) = (rows.len() * shape.taps(), rows.len() * tap_groups);
        let sums =
            Sums { kernel: &CONV_DEPTHWISE_GRAD, lists: &[], list_words: 0, to: dw, len, accumulate, workgroups };
        self.conv_sums(&grid, dy, x, &sums, |slices| {
            grid.dense_words([tap_groups, rows.start, rows.len()].into_iter().chain(slices))
        })
    }
}
