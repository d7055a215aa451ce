//! Activations of convolutional networks.

use crate::Storage;
use crate::error::{ShapeError, expect_equal};

/// How a batch of images lies in memory: `[samples / strip][border + height + border][channels][row][strip]`, samples
/// innermost.
///
/// A *strip* is a group of `strip` samples side by side, and a *row* one channel's pixels of one image row, with `border`
/// pixels of zeros before and after. So neighbouring pixels of a channel are contiguous: a tap of a filter is an offset, and
/// a tile of pixels a run of aligned vectors at that offset, whatever the tap. Rows of all channels of an image row lie
/// next to each other, so that a convolution that moves down the image reads memory in one stream.
///
/// The border is at least the largest padding that any operation on the tensor needs ([`crate::ConvShape::borders`]). It
/// and the padding samples of the last strip hold zeros: [`Images::zeros`] makes them, and every operation leaves them so.
///
/// The pitch of a row may be a few pixels more than `width + 2 · border`, lest rows of neighbouring channels fall on the
/// same few sets of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageLayout {
    samples: usize,
    channels: usize,
    size: [usize; 2],
    border: usize,
    strip: usize,
}

/// Floats in a cache line.
const LINE: usize = 64 / size_of::<f32>();

impl ImageLayout {
    /// Samples per strip that there are kernels for. With 1, the vectors of the kernels hold neighbouring pixels.
    pub const STRIPS: [usize; 4] = [1, 8, 16, 32];

    /// A layout for `samples` images of `channels` channels and `[height, width]` pixels.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] unless `strip` is one of [`Self::STRIPS`].
    pub fn new(
        samples: usize,
        channels: usize,
        size: [usize; 2],
        border: usize,
        strip: usize,
    ) -> Result<Self, ShapeError> {
        if !Self::STRIPS.contains(&strip) {
            let (op, what, rule) = ("image layout", "strip", "1, 8, 16 or 32 samples");
            return Err(ShapeError::Rule { op, what, got: strip, rule });
        }
        Ok(Self { samples, channels, size, border, strip })
    }

    /// The same with another number of samples.
    #[must_use]
    pub fn with_samples(self, samples: usize) -> Self {
        Self { samples, ..self }
    }

    /// The same with another number of channels.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Checks that images of layout `got` and `len` elements are laid out so, but for the number of samples.
    pub(crate) fn expect(&self, op: &'static str, what: &'static str, got: Self, len: usize) -> Result<(), ShapeError> {
        expect_equal(op, "channels", self.channels, got.channels)?;
        expect_equal(op, "height", self.size[0], got.size[0])?;
        expect_equal(op, "width", self.size[1], got.size[1])?;
        expect_equal(op, "border", self.border, got.border)?;
        expect_equal(op, "strip", self.strip, got.strip)?;
        expect_equal(op, what, got.len(), len)
    }

    /// Images that count.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width in pixels, without the border.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Pixels of zeros on each side.
    pub fn border(&self) -> usize {
        self.border
    }

    /// Samples per strip.
    pub fn strip(&self) -> usize {
        self.strip
    }

    /// Number of strips, the padded last one included.
    pub fn strips(&self) -> usize {
        self.samples.div_ceil(self.strip)
    }

    /// Samples of strip `index` that count.
    pub fn samples_of(&self, index: usize) -> usize {
        (self.samples - index * self.strip).min(self.strip)
    }

    /// Elements from one channel's row to the next channel's.
    pub fn channel_pitch(&self) -> usize {
        let row = (self.size[1] + 2 * self.border) * self.strip;
        // A pitch of a multiple of eight lines would leave half of the L1 cache's sets, or more, unused by a tile.
        let row = row.next_multiple_of(8);
        if row.is_multiple_of(8 * LINE) { row + LINE } else { row }
    }

    /// Elements from one image row to the next.
    pub fn row_pitch(&self) -> usize {
        self.channels * self.channel_pitch()
    }

    /// Elements from one strip to the next.
    pub fn strip_pitch(&self) -> usize {
        (self.size[0] + 2 * self.border) * self.row_pitch()
    }

    /// Elements in all, border and padding included. Behind the last strip follow as many as a vector may reach beyond it.
    pub fn len(&self) -> usize {
        self.strips() * self.strip_pitch() + 2 * LINE
    }

    /// Whether there is no image at all.
    pub fn is_empty(&self) -> bool {
        self.strips() * self.strip_pitch() == 0
    }

    /// Where a pixel stands.
    #[inline]
    pub fn index(&self, sample: usize, channel: usize, [y, x]: [usize; 2]) -> usize {
        debug_assert!(channel < self.channels && y < self.size[0] && x < self.size[1]);
        sample / self.strip * self.strip_pitch()
            + (y + self.border) * self.row_pitch()
            + channel * self.channel_pitch()
            + (x + self.border) * self.strip
            + sample % self.strip
    }

    /// Writes `from`, `[sample][channel][y][x]` (NCHW), to this layout; border and padding samples become zero.
    ///
    /// # Errors
    /// [`ShapeError`] if the sizes do not fit.
    ///
    /// # Cost
    /// One pass over both.
    pub fn pack(&self, from: &[f32], to: &mut [f32]) -> Result<(), ShapeError> {
        self.check("pack", from.len(), to.len())?;
        to.fill(0.0);
        self.for_each_row(|sample, channel, y, row| {
            let at = self.index(sample, channel, [y, 0]);
            for (to, &from) in to[at..].iter_mut().step_by(self.strip).zip(&from[row..row + self.size[1]]) {
                *to = from;
            }
        });
        Ok(())
    }

    /// Reads `from`, in this layout, into `to`, `[sample][channel][y][x]` (NCHW).
    ///
    /// # Errors
    /// [`ShapeError`] if the sizes do not fit.
    ///
    /// # Cost
    /// One pass over both.
    pub fn unpack(&self, from: &[f32], to: &mut [f32]) -> Result<(), ShapeError> {
        self.check("unpack", to.len(), from.len())?;
        self.for_each_row(|sample, channel, y, row| {
            let at = self.index(sample, channel, [y, 0]);
            for (from, to) in from[at..].iter().step_by(self.strip).zip(&mut to[row..row + self.size[1]]) {
                *to = *from;
            }
        });
        Ok(())
    }

    /// Calls `f(sample, channel, y, place of the row in NCHW)` for every row that has a pixel.
    fn for_each_row(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let [height, width] = self.size;
        if width == 0 {
            return;
        }
        for sample in 0..self.samples {
            for channel in 0..self.channels {
                for y in 0..height {
                    f(sample, channel, y, ((sample * self.channels + channel) * height + y) * width);
                }
            }
        }
    }

    fn check(&self, op: &'static str, host: usize, device: usize) -> Result<(), ShapeError> {
        let pixels = self.samples * self.channels * self.size[0] * self.size[1];
        expect_equal(op, "length of the NCHW array", pixels, host)?;
        expect_equal(op, "length of the images", self.len(), device)
    }
}

/// A batch of images on a backend: a layout and a buffer of its length.
#[derive(Debug)]
pub struct Images<B: Storage> {
    /// Shape and order of the elements.
    pub layout: ImageLayout,
    /// The elements; `layout.len()` of them.
    pub data: B::Buffer,
}

impl<B: Storage> Images<B> {
    /// Images that are all zero.
    ///
    /// # Errors
    /// [`crate::BackendError`] if the backend cannot hold them.
    pub fn zeros(backend: &B, layout: ImageLayout) -> Result<Self, crate::BackendError> {
        Ok(Self { layout, data: backend.zeros(layout.len())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpack_undoes_pack(
            samples in 0usize..20, channels in 1usize..4, height in 0usize..6, width in 0usize..6, border in 0usize..3,
            strip in prop::sample::select(&ImageLayout::STRIPS)
        ) {
            let layout = ImageLayout::new(samples, channels, [height, width], border, strip).unwrap();
            let from: Vec<f32> = (0..samples * channels * height * width).map(|i| i as f32 + 0.5).collect();
            let mut images = vec![f32::NAN; layout.len()];
            layout.pack(&from, &mut images).unwrap();
            let mut back = vec![f32::NAN; from.len()];
            layout.unpack(&images, &mut back).unwrap();
            prop_assert_eq!(&back, &from);
            // Each value once, all else zero.
            let held = images.iter().filter(|&&v| v != 0.0).count();
            prop_assert_eq!(held, from.len());
        }
    }

    #[test]
    fn other_strips_are_refused() {
        assert!(ImageLayout::new(1, 1, [1, 1], 0, 4).unwrap_err().to_string().contains('4'));
        let layout = ImageLayout::new(2, 3, [4, 5], 1, 8).unwrap();
        assert!(layout.pack(&[0.0; 119], &mut vec![0.0; layout.len()]).is_err());
    }
}
