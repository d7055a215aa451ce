//! Which pixels a pass of a convolution goes over, in memory.

use crate::cpu::IsaName;
use crate::cpu::isa::Number;
use crate::{ConvShape, ImageLayout};

/// The pixels of the output of one pass, and where in the input the pixels stand that offsets are relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows and columns of output pixels.
    pub size: [usize; 2],
    pub from: Side,
    pub to: Side,
}

/// Where the pixels of a grid stand in one tensor, in elements of a strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side {
    /// Of pixel (0, 0).
    pub origin: usize,
    /// From row to row.
    pub row: usize,
    /// From pixel to pixel.
    pub pixel: usize,
    /// From channel to channel.
    pub channel: usize,
    /// Elements of an image row, and from the first image row that a pixel touches to the last.
    pub image_row: usize,
    pub reach: usize,
    /// Whether neighbouring pixels of a row see pixels in common.
    pub overlaps: bool,
    /// From strip to strip.
    pub strip: usize,
}

/// The instruction set for a pass: a vector must not hold neighbouring pixels where those are apart in memory.
pub(super) fn isa_for(isa: IsaName, grid: Grid, strip: usize) -> IsaName {
    if strip > 1 && strip < isa.lanes() && !grid.is_contiguous(strip) { IsaName::Avx2 } else { isa }
}

impl Side {
    /// Pixel `[y, x]` and those at distances of `step`, with the layout's border counted in.
    fn of(layout: ImageLayout, [y, x]: [usize; 2], step: [usize; 2]) -> Self {
        Self {
            origin: y * layout.row_pitch() + x * layout.strip(),
            row: step[0] * layout.row_pitch(),
            pixel: step[1] * layout.strip(),
            channel: layout.channel_pitch(),
            image_row: layout.row_pitch(),
            reach: 0,
            overlaps: false,
            strip: layout.strip_pitch(),
        }
    }

    /// Where pixel `[y, x]` of a strip stands.
    pub fn at(&self, strip: usize, y: usize, x: usize) -> usize {
        self.origin + strip * self.strip + y * self.row + x * self.pixel
    }
}

impl Grid {
    /// All pixels of Y, and for each tap its offset in X.
    pub fn forward(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> (Self, Vec<usize>) {
        // The pixel of X, its border counted in, that tap (0, 0) of Y's first pixel meets.
        let first = [0, 1].map(|axis| x.border() - shape.padding()[axis]);
        let reach = (shape.kernel()[0] - 1) * shape.dilation()[0];
        let overlaps = (shape.kernel()[1] - 1) * shape.dilation()[1] >= shape.stride()[1];
        let (from, taps) = match Phases::of(shape, x) {
            None => (
                Side { reach: reach * x.row_pitch(), overlaps, ..Side::of(x, first, shape.stride()) },
                taps(shape, x.row_pitch(), |column| column * x.strip()),
            ),
            Some(phases) => {
                let origin = first[0] * phases.row_pitch;
                let Phases { channel_pitch: channel, row_pitch: image_row, strip_pitch: strip, .. } = phases;
                let (row, reach) = (shape.stride()[0] * image_row, reach * image_row);
                let column = |column: usize| phases.place(first[1] + column);
                (
                    Side { origin, row, pixel: 1, channel, image_row, reach, overlaps, strip },
                    taps(shape, phases.row_pitch, column),
                )
            }
        };
        (Self { size: y.size(), from, to: Side::of(y, [y.border(); 2], [1, 1]) }, taps)
    }

    /// Whether neighbouring pixels are contiguous on both sides, in strips of `strip` samples.
    pub fn is_contiguous(&self, strip: usize) -> bool {
        self.from.pixel == strip && self.to.pixel == strip
    }
}

/// Offset of every tap, given what a row and where a column makes.
fn taps(shape: ConvShape, row_pitch: usize, column: impl Fn(usize) -> usize) -> Vec<usize> {
    let ([kh, kw], [dh, dw]) = (shape.kernel(), shape.dilation());
    let all = (0..kh).flat_map(|i| (0..kw).map(move |j| [i, j]));
    all.map(|[i, j]| i * dh * row_pitch + column(j * dw)).collect()
}

/// Single images for a convolution with a stride along rows, `[sample][row][channel][phase][column / stride]`: a vector
/// holds neighbouring pixels of Y, whose pixels of X are a stride apart; in phases they are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Phases {
    count: usize,
    /// Pixels of a phase of a row.
    width: usize,
    channel_pitch: usize,
    row_pitch: usize,
    strip_pitch: usize,
}

impl Phases {
    /// The phases that a convolution of such images needs, if it does.
    pub fn of(shape: ConvShape, x: ImageLayout) -> Option<Self> {
        let count = shape.stride()[1];
        if x.strip() > 1 || count == 1 {
            return None;
        }
        let width = (x.size()[1] + 2 * x.border()).div_ceil(count);
        let channel_pitch = count * width;
        let row_pitch = x.channels() * channel_pitch;
        Some(Self { count, width, channel_pitch, row_pitch, strip_pitch: (x.size()[0] + 2 * x.border()) * row_pitch })
    }

    /// Where a pixel of a row goes, its border counted in.
    fn place(&self, column: usize) -> usize {
        column % self.count * self.width + column / self.count
    }

    /// Elements of `samples` images, and as many more as a vector may reach beyond them.
    pub fn len(&self, samples: usize) -> usize {
        samples * self.strip_pitch + 32
    }

    /// Copies images into phases.
    pub fn split<N: Number>(&self, layout: ImageLayout, from: &[N], to: &mut [f32]) {
        let width = layout.size()[1] + 2 * layout.border();
        let rows = from.chunks_exact(layout.channel_pitch()).zip(to.chunks_exact_mut(self.channel_pitch));
        for (from, to) in rows.take(layout.samples() * layout.strip_pitch() / layout.channel_pitch()) {
            for (phase, to) in to.chunks_exact_mut(self.width).enumerate() {
                to.fill(0.0);
                for (to, from) in to.iter_mut().zip(from[..width].iter().skip(phase).step_by(self.count)) {
                    *to = from.widen();
                }
            }
        }
        let end = self.len(layout.samples()) - 32;
        to[end..].fill(0.0);
    }
}

/// The passes of the input gradient, one for each residue of X's pixels modulo the stride, and for each tap its offset in
/// dY, or `None` if these pixels do not see it.
pub(super) fn backward_grids(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> Vec<(Grid, Vec<Option<usize>>)> {
    let stride = shape.stride();
    let mut grids = Vec::new();
    for first in (0..stride[0]).flat_map(|row| (0..stride[1]).map(move |column| [row, column])) {
        let size = [0, 1].map(|axis| x.size()[axis].saturating_sub(first[axis]).div_ceil(stride[axis]));
        if size.contains(&0) {
            continue;
        }
        // Pixel `first + s·n` sees tap k at Y's pixel `at(k) + n`.
        let pixel = |axis: usize, tap: usize| {
            let at = (first[axis] + shape.padding()[axis]) as isize - (tap * shape.dilation()[axis]) as isize;
            let stride = stride[axis] as isize;
            (at.rem_euclid(stride) == 0).then(|| at.div_euclid(stride))
        };
        // Taps meet ever smaller pixels; all is relative to the smallest.
        let least = [0, 1].map(|axis| (0..shape.kernel()[axis]).filter_map(|tap| pixel(axis, tap)).min().unwrap_or(0));
        let [kh, kw] = shape.kernel();
        let taps = (0..kh).flat_map(|i| (0..kw).map(move |j| [i, j])).map(|[i, j]| {
            let (row, column) = (pixel(0, i)? - least[0], pixel(1, j)? - least[1]);
            Some(row as usize * y.row_pitch() + column as usize * y.strip())
        });
        // Where no tap is seen, nothing is read.
        let origin = least.map(|least| (y.border() as isize + least).max(0) as usize);
        let inside = [0, 1].map(|axis| x.border() + first[axis]);
        let taps: Vec<Option<usize>> = taps.collect();
        let most = taps.iter().flatten().max().copied().unwrap_or(0);
        let overlaps = taps.iter().flatten().any(|offset| offset % y.row_pitch() > 0);
        let from = Side { reach: most / y.row_pitch() * y.row_pitch(), overlaps, ..Side::of(y, origin, [1, 1]) };
        grids.push((Grid { size, from, to: Side::of(x, inside, stride) }, taps));
    }
    grids
}
