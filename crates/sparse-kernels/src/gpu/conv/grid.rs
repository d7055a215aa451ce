//! Which pixels a pass of a convolution goes over, in memory.

use std::ops::Range;

use crate::{ConvShape, ImageLayout};

/// Samples of a vector.
const QUAD: usize = 4;

/// The pixels of the output of one pass, and the taps that they see. Places and distances are in vectors of four samples, or
/// in elements where strips have a single sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Rows and columns of output pixels.
    pub size: [usize; 2],
    pub from: Side,
    pub to: Side,
    /// Along rows and columns.
    pub taps: [Taps; 2],
    pub strip: usize,
}

/// Where the pixels of a grid stand in one tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// Of pixel (0, 0), in a strip.
    pub origin: usize,
    /// From row to row.
    pub row: usize,
    /// From pixel to pixel.
    pub pixel: usize,
    /// From channel to channel.
    pub channel: usize,
    /// From strip to strip.
    pub strip: usize,
}

/// The taps along an axis that a grid's pixels see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taps {
    pub first: usize,
    pub step: usize,
    pub count: usize,
    /// From one to the next in the input; the first is where [`Side::origin`] says.
    pub pitch: isize,
}

impl Taps {
    /// Distance in the input of a tap of the filter from the first, if it is one of these.
    fn offset(&self, tap: usize) -> Option<isize> {
        let index = tap.checked_sub(self.first)?;
        let is_seen = index.is_multiple_of(self.step) && index / self.step < self.count;
        is_seen.then(|| (index / self.step) as isize * self.pitch)
    }
}

/// Elements of what distances are counted in.
pub(super) fn unit(strip: usize) -> usize {
    if strip == 1 { 1 } else { QUAD }
}

impl Side {
    /// Pixel `[y, x]`, the border counted in, and those at distances of `step`.
    fn new(layout: ImageLayout, [y, x]: [usize; 2], step: [usize; 2]) -> Self {
        let unit = unit(layout.strip());
        let (row, pixel) = (layout.row_pitch() / unit, layout.strip() / unit);
        Self {
            origin: y * row + x * pixel,
            row: step[0] * row,
            pixel: step[1] * pixel,
            channel: layout.channel_pitch() / unit,
            strip: layout.strip_pitch() / unit,
        }
    }
}

impl Grid {
    /// All pixels of Y.
    pub fn forward(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> Self {
        let first = [0, 1].map(|axis| x.border() - shape.padding()[axis]);
        let pitches = pitches(x);
        let taps = [0, 1].map(|axis| Taps {
            first: 0,
            step: 1,
            count: shape.kernel()[axis],
            pitch: (shape.dilation()[axis] * pitches[axis]) as isize,
        });
        let (from, to) = (Side::new(x, first, shape.stride()), Side::new(y, [y.border(); 2], [1, 1]));
        Self { size: y.size(), from, to, taps, strip: x.strip() }
    }

    /// The passes of the input gradient: one for each residue of X's pixels modulo the stride, since those see different taps.
    pub fn backward(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> Vec<Self> {
        let stride = shape.stride();
        let residues = (0..stride[0]).flat_map(|row| (0..stride[1]).map(move |column| [row, column]));
        let grids = residues.filter_map(|first| {
            let size = [0, 1].map(|axis| x.size()[axis].saturating_sub(first[axis]).div_ceil(stride[axis]));
            if size.contains(&0) {
                return None;
            }
            let axes = [0, 1].map(|axis| Self::backward_axis(shape, axis, first[axis]));
            let pitches = pitches(y);
            let taps = [0, 1].map(|axis| Taps { pitch: axes[axis].0.pitch * pitches[axis] as isize, ..axes[axis].0 });
            // The border covers all that a tap meets; where no tap is seen, nothing is read.
            let origin = axes.map(|(_, at)| (y.border() as isize + at).max(0) as usize);
            let inside = first.map(|first| x.border() + first);
            let (from, to) = (Side::new(y, origin, [1, 1]), Side::new(x, inside, stride));
            Some(Self { size, from, to, taps, strip: x.strip() })
        });
        grids.collect()
    }

    /// The taps that X's pixels `first + s·n` see along an axis, their pitch in pixels, and the pixel of Y that the first of
    /// them is at for n = 0: tap k is at `(first + p − k·d) / s + n`, if that is whole.
    fn backward_axis(shape: ConvShape, axis: usize, first: usize) -> (Taps, isize) {
        let (kernel, stride, dilation) = (shape.kernel()[axis], shape.stride()[axis], shape.dilation()[axis]);
        let at = |tap: usize| (first + shape.padding()[axis]) as isize - (tap * dilation) as isize;
        let is_seen = |tap: &usize| at(*tap) % stride as isize == 0;
        let mut seen = (0..kernel).filter(is_seen);
        let Some(tap) = seen.next() else { return (Taps { first: 0, step: 1, count: 0, pitch: 0 }, 0) };
        // Taps that are seen are at equal distances.
        let step = seen.next().map_or(kernel, |next| next - tap);
        let count = (kernel - tap).div_ceil(step);
        let pitch = if count > 1 { -((step * dilation / stride) as isize) } else { 0 };
        (Taps { first: tap, step, count, pitch }, at(tap) / stride as isize)
    }

    /// Where the input of a channel and a tap of the filter stands, relative to a pixel's place, if the grid's pixels see it.
    /// Sums of places wrap.
    pub fn offset(&self, channel: usize, [i, j]: [usize; 2]) -> Option<u32> {
        let offset = self.taps[0].offset(i)? + self.taps[1].offset(j)?;
        Some(((channel * self.from.channel) as isize + offset) as u32)
    }

    pub fn is_single(&self) -> bool {
        self.strip == 1
    }

    /// Pixels of so many strips.
    pub fn points(&self, strips: usize) -> usize {
        strips * self.size[0] * self.size[1]
    }

    /// Vectors of a pixel.
    pub fn strip_quads(&self) -> usize {
        self.strip / unit(self.strip)
    }

    /// Vectors of so many pixels.
    pub fn columns(&self, points: usize) -> usize {
        if self.is_single() { points.div_ceil(QUAD) } else { points * self.strip_quads() }
    }

    /// What all kernels of a convolution are compiled for.
    pub fn constants(&self) -> [(&'static str, f64); 2] {
        [("STRIP_QUADS", self.strip_quads() as f64), ("IS_SINGLE", f64::from(u8::from(self.is_single())))]
    }

    /// The parameters that all kernels begin with.
    pub fn words(&self, strips: usize) -> [u32; 12] {
        let (from, to) = (self.from, self.to);
        let [height, width] = self.size;
        [
            self.points(strips),
            height * width,
            width,
            from.origin,
            from.row,
            from.pixel,
            from.strip,
            to.origin,
            to.row,
            to.pixel,
            to.strip,
            to.channel,
        ]
        .map(|word| word as u32)
    }

    /// What kernels of dense weights take behind [`Self::words`]: the distance of channels, rows and columns of taps, the
    /// distances from one to the next in the input; and the rest.
    pub fn dense_words(&self, rest: impl Iterator<Item = usize>) -> Vec<u32> {
        let [rows, columns] = self.taps;
        let taps = [rows.count as u32, columns.count as u32, rows.pitch as u32, columns.pitch as u32];
        [self.from.channel as u32].into_iter().chain(taps).chain(rest.map(|word| word as u32)).collect()
    }
}

/// From row to row, and from pixel to pixel.
fn pitches(layout: ImageLayout) -> [usize; 2] {
    let unit = unit(layout.strip());
    [layout.row_pitch() / unit, layout.strip() / unit]
}

/// Elements of the strips of a tensor: where they start, and how many they are.
pub(super) fn part(layout: ImageLayout, strips: &Range<usize>) -> (usize, usize) {
    (strips.start * layout.strip_pitch(), strips.len() * layout.strip_pitch())
}
