//! Dense convolution: packs the weights into panels, anew in each call, as they change from step to step.

use std::ops::Range;

use super::depthwise;
use super::grid::{Grid, backward_grids, isa_for};
use super::panels::{Panel, Panels, Product, most_rows};
use super::tiles::{Gradient, Rectangle, Rectangles};
use crate::backend::DenseConv;
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::cpu::{Buffer, Cpu, IsaName};
use crate::{ConvShape, ImageLayout, Images};

/// Which part of L1 a chunk of X should take: the rest is for weights that pass by.
pub(super) fn chunk_bytes(cpu: &Cpu) -> usize {
    cpu.l1_bytes() / 2
}

/// Channels of a chunk: those of which a tile of `vectors` vectors touches `chunk_bytes`.
pub(super) fn chunk_channels(cpu: &Cpu, [kh, kw]: [usize; 2], vectors: usize, strip: usize) -> usize {
    let run = vectors * cpu.isa().lanes() + (kw - 1) * strip;
    (chunk_bytes(cpu) / (kh * run * size_of::<f32>())).max(1)
}

/// How a dense weight is read in one direction.
struct Direction<'a> {
    groups: usize,
    /// Rows and channels of a group.
    rows: usize,
    channels: usize,
    /// Distances in the weight: of groups, rows and channels.
    group_pitch: usize,
    row_pitch: usize,
    channel_pitch: usize,
    /// Of the input's channels.
    offset_pitch: usize,
    /// Taps that are seen: place among the taps and offset in the input.
    taps: &'a [(usize, usize)],
}

impl Direction<'_> {
    /// The panels and their packed values.
    fn panels(&self, isa: IsaName, w: &[f32], chunk: usize, values: &mut Buffer) -> Panels {
        let mut panels = Panels::default();
        values.resize(self.groups * self.rows * self.channels * self.taps.len());
        let mut rest = &mut values[..];
        panels.bounds.push(0);
        // One chunk at least: all rows must be written, even if there is no tap.
        for first in (0..self.channels).step_by(chunk) {
            let channels = first..(first + chunk).min(self.channels);
            for group in 0..self.groups {
                let columns = panels.offsets.len();
                for channel in channels.clone() {
                    let channel = (group * self.channels + channel) * self.offset_pitch;
                    panels.offsets.extend(self.taps.iter().map(|tap| (channel + tap.1) as u32));
                }
                let len = panels.offsets.len() - columns;
                for (row, height) in Panels::heights(most_rows(isa), self.rows) {
                    panels.panels.push(Panel {
                        row: (group * self.rows + row) as u32,
                        rows: height as u32,
                        columns: columns as u32,
                        len: len as u32,
                        values: panels.values as u32,
                    });
                    panels.values += len * height;
                    let part;
                    (part, rest) = rest.split_at_mut(len * height);
                    let w = &w[group * self.group_pitch + row * self.row_pitch..];
                    let mut to = part.chunks_exact_mut(height);
                    for channel in channels.clone() {
                        for (&(tap, _), to) in self.taps.iter().zip(&mut to) {
                            let column = channel * self.channel_pitch + tap;
                            for (r, to) in to.iter_mut().enumerate() {
                                *to = w[r * self.row_pitch + column];
                            }
                        }
                    }
                }
            }
            panels.bounds.push(panels.panels.len() as u32);
        }
        panels
    }
}

impl DenseConv for Cpu {
    const TAKES_16_BITS: bool = true;

    fn run_conv_forward_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Buffer,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done {
        let _timed = self.timed(
            "conv_forward_dense",
            w.len() + x.data.words() + y.data.words(),
            2 * w.len() * super::pixels_and_samples(y.layout),
        );
        if shape.has_single_channels() {
            depthwise::forward(self, shape, w, x, y);
            return Ok(());
        }
        self.dense_forward(shape, w, x, y);
        Ok(())
    }

    fn run_conv_input_grad_dense(
        &self,
        _: Checked,
        shape: ConvShape,
        w: &Buffer,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Done {
        let _timed = self.timed(
            "conv_input_grad_dense",
            w.len() + dy.data.words() + dx.data.words(),
            2 * w.len() * super::pixels_and_samples(dy.layout),
        );
        if shape.has_single_channels() {
            depthwise::input_grad(self, shape, w, dy, dx);
            return Ok(());
        }
        self.dense_input_grad(shape, w, dy, dx);
        Ok(())
    }

    fn run_conv_weight_grad_dense(&self, call: WeightGrad<'_, ConvShape, Images<Self>, Buffer>) -> Done {
        let WeightGrad { plan: shape, dy, x, values: dw, accumulate, .. } = call;
        let _timed = self.timed(
            "conv_weight_grad_dense",
            dw.len() + dy.data.words() + x.data.words(),
            2 * dw.len() * super::pixels_and_samples(dy.layout),
        );
        if shape.has_single_channels() {
            depthwise::weight_grad(self, shape, dy, x, dw, accumulate);
            return Ok(());
        }
        self.dense_weight_grad(shape, 0..shape.rows(), dy, x, dw, accumulate);
        Ok(())
    }
}

impl Cpu {
    /// The forward pass with a dense weight; the caller has checked all shapes.
    pub(super) fn dense_forward(&self, shape: ConvShape, w: &[f32], x: &Images<Self>, y: &mut Images<Self>) {
        let (grid, taps) = Grid::forward(shape, x.layout, y.layout);
        let taps: Vec<(usize, usize)> = taps.into_iter().enumerate().collect();
        let direction = Direction {
            groups: shape.groups(),
            rows: shape.out_channels() / shape.groups(),
            channels: shape.in_channels() / shape.groups(),
            group_pitch: shape.rows() / shape.groups() * shape.columns(),
            row_pitch: shape.columns(),
            channel_pitch: shape.taps(),
            offset_pitch: grid.from.channel,
            taps: &taps,
        };
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let mut values = self.scratch(0);
        let panels = direction.panels(
            isa_for(self.isa(), grid, strip),
            w,
            chunk_channels(self, shape.kernel(), 3, strip),
            &mut values,
        );
        self.with_phases(shape, x, |x| {
            Product { grid, panels: &panels, values: &values, strip, strips, x, y: &mut y.data }.run(self);
        });
        self.give_back(values);
    }

    /// The input gradient with a dense weight.
    pub(super) fn dense_input_grad(&self, shape: ConvShape, w: &[f32], dy: &Images<Self>, dx: &mut Images<Self>) {
        let (strip, strips) = (dy.layout.strip(), dy.layout.strips());
        let mut values = self.scratch(0);
        for (grid, taps) in backward_grids(shape, dx.layout, dy.layout) {
            let taps: Vec<(usize, usize)> =
                taps.into_iter().enumerate().filter_map(|(tap, offset)| Some((tap, offset?))).collect();
            let direction = Direction {
                groups: shape.groups(),
                rows: shape.in_channels() / shape.groups(),
                channels: shape.out_channels() / shape.groups(),
                group_pitch: shape.rows() / shape.groups() * shape.columns(),
                row_pitch: shape.taps(),
                channel_pitch: shape.columns(),
                offset_pitch: grid.from.channel,
                taps: &taps,
            };
            let panels = direction.panels(
                isa_for(self.isa(), grid, strip),
                w,
                chunk_channels(self, shape.kernel(), 3, strip),
                &mut values,
            );
            let x = dy.data.numbers();
            Product { grid, panels: &panels, values: &values, strip, strips, x, y: &mut dx.data }.run(self);
        }
        self.give_back(values);
    }

    /// Some rows of the dense gradient of W.
    pub(super) fn dense_weight_grad(
        &self,
        shape: ConvShape,
        rows: Range<usize>,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &mut [f32],
        accumulate: bool,
    ) {
        let (strip, strips) = (x.layout.strip(), x.layout.strips());
        let (grid, rectangles) = dense_rectangles(self, shape, x.layout, dy.layout, rows);
        self.with_phases(shape, x, |x| {
            let (rectangles, dy) = (&rectangles, dy.data.numbers());
            Gradient { grid, rectangles, strip, strips, dy, x, dw, accumulate }.run(self);
        });
    }
}

/// Vectors of a channel that a band of the weight gradient should have.
const BAND_VECTORS: usize = 64;

/// Rows of a band, and channels of a chunk of X: a band has some tens of vectors of each channel, for whose sums a tree of
/// adds is little, and a chunk of them fits L1.
pub(super) fn band_and_chunk(cpu: &Cpu, shape: ConvShape, grid: &Grid, strip: usize) -> (usize, usize) {
    let width = (grid.size[1] * strip).div_ceil(cpu.isa().lanes()).max(1);
    let band = BAND_VECTORS.div_ceil(width).clamp(1, grid.size[0].max(1));
    let [kh, kw] = shape.kernel();
    let rows = if shape.stride()[0] >= kh { band * kh } else { (band - 1) * shape.stride()[0] + kh };
    let row = grid.size[1] * shape.stride()[1] + kw - 1;
    let channels = cpu.l1_bytes() * 60 / 100 / (rows * row * strip * size_of::<f32>());
    (band, channels.max(1))
}

/// Some rows of dW.
pub(super) fn dense_rectangles(
    cpu: &Cpu,
    shape: ConvShape,
    x: ImageLayout,
    y: ImageLayout,
    band_rows: Range<usize>,
) -> (Grid, Rectangles) {
    let (grid, taps) = Grid::forward(shape, x, y);
    let (band, chunk) = band_and_chunk(cpu, shape, &grid, x.strip());
    let (rows, channels) = (shape.out_channels() / shape.groups(), shape.in_channels() / shape.groups());
    let mut rectangles = Rectangles { row_pitch: shape.columns(), band, bounds: vec![0], ..Rectangles::default() };
    for first in (0..channels).step_by(chunk) {
        let chunk = first..(first + chunk).min(channels);
        for group in band_rows.start / rows..band_rows.end.div_ceil(rows) {
            let columns = rectangles.offsets.len();
            for channel in chunk.clone() {
                let channel = (group * channels + channel) * grid.from.channel;
                rectangles.offsets.extend(taps.iter().map(|tap| (channel + tap) as u32));
            }
            let len = rectangles.offsets.len() - columns;
            let rows = (group * rows).max(band_rows.start)..((group + 1) * rows).min(band_rows.end);
            let place = (rows.start - band_rows.start) * shape.columns() + chunk.start * shape.taps();
            rectangles.rectangles.push(Rectangle {
                row: rows.start as u32,
                rows: rows.len() as u32,
                columns: columns as u32,
                len: len as u32,
                place: place as u32,
            });
        }
        rectangles.bounds.push(rectangles.rectangles.len() as u32);
    }
    (grid, rectangles)
}
