//! The quads of images that kernels go through.

use std::ops::Range;

use super::super::super::Gpu;
use super::super::super::elementwise::{GROUP, QUAD};
use super::super::super::kernel::{Kernel, Launch, Operand, Work};
use crate::backend::check::Done;
use crate::{ImageLayout, Images};

/// Pixels of an image.
pub(super) fn pixels(layout: &ImageLayout) -> usize {
    layout.size()[0] * layout.size()[1]
}

/// The quads of images that kernels go through: those that hold a pixel, of some strips.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    layout: ImageLayout,
    pub strips: Range<usize>,
    /// How many.
    channels: usize,
}

impl Walk {
    pub fn new(layout: ImageLayout, strips: Range<usize>) -> Self {
        Self { layout, strips, channels: layout.channels() }
    }

    /// Of so many channels only.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Where a tensor's first pixel stands, and elements from a channel, a row and a strip to the next.
    pub fn tensor(layout: &ImageLayout) -> [u32; 4] {
        let origin = layout.border() * (layout.row_pitch() + layout.strip());
        [origin, layout.channel_pitch(), layout.row_pitch(), layout.strip_pitch()].map(|n| n as u32)
    }

    /// Elements before the first pixel in its quad; some only where a strip is a single sample.
    fn lead(&self) -> usize {
        self.layout.border() * self.layout.strip() % QUAD
    }

    /// Quads of a channel's row.
    fn row_quads(&self) -> usize {
        match self.layout.size()[1] * self.layout.strip() {
            0 => 0,
            elements => (self.lead() + elements).div_ceil(QUAD),
        }
    }

    /// Quads of a channel in a strip.
    pub fn channel_quads(&self) -> usize {
        self.layout.size()[0] * self.row_quads()
    }

    /// Quads in all.
    pub fn quads(&self) -> usize {
        self.strips.len() * self.channels * self.channel_quads()
    }

    /// Elements of pixels.
    pub fn elements(&self) -> usize {
        let [height, width] = self.layout.size();
        self.strips.len() * self.layout.strip() * self.channels * height * width
    }

    /// Samples that count.
    pub fn samples(&self) -> usize {
        (self.strips.end * self.layout.strip()).min(self.layout.samples()) - self.strips.start * self.layout.strip()
    }

    /// What kernels must know of the shape: quads of a row, channels, rows, strips, log2 of the strip, elements before the
    /// first pixel in its quad, elements in a row, samples.
    pub fn words(&self) -> [u32; 8] {
        let (layout, strip) = (&self.layout, self.layout.strip());
        let [height, width] = layout.size();
        let shift = strip.trailing_zeros() as usize;
        let row = [self.row_quads(), self.channels, height, self.strips.len()];
        let [a, b, c, d] = row.map(|n| n as u32);
        let [e, f, g, h] = [shift, self.lead(), width * strip, self.samples()].map(|n| n as u32);
        [a, b, c, d, e, f, g, h]
    }

    /// Whether a quad are four pixels, for the kernels.
    pub fn single(&self) -> (&'static str, f64) {
        ("SINGLE", f64::from(u8::from(self.layout.strip() == 1)))
    }

    /// These strips of images.
    pub fn part_of<'a>(&self, images: &'a Images<Gpu>) -> Operand<'a> {
        let pitch = images.layout.strip_pitch();
        images.data.window(self.strips.start * pitch, self.strips.len() * pitch)
    }

    /// Launches a kernel whose invocations have a quad each.
    pub fn launch(
        &self,
        gpu: &Gpu,
        kernel: &'static Kernel,
        params: &[u32],
        operands: &[Operand<'_>],
        work: Work,
    ) -> Done {
        let workgroups = self.quads().div_ceil(GROUP);
        gpu.launch(&Launch { kernel, constants: &[self.single()], params, operands, workgroups, work })
    }
}
