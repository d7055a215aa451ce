//! From bytes, picture by picture, to inputs in the layout that the kernels read.
//!
//! Pictures are `[picture][channel][row][pixel]`; a batch has neighbouring samples side by side. For 16 samples × 16
//! pixels at a time, the 16 rows' bytes are copied into a block on the stack, then looked up column by column: every
//! store is then one full cache line, and no index needs a check. The pictures of a shuffled batch lie anywhere in
//! memory, so each is first copied whole into a scratch of 16 pictures, where its cache misses overlap; that is also
//! where they are changed at random.

use sparse_kernels::{ImageLayout, Layout, ShapeError, StripLayout};

use super::Normalization;
use super::normalization::standardization;

/// What a batch of pictures becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputForm {
    /// Features in the order `[channel][row][pixel]`, for linear layers.
    Features {
        /// Lanes in a strip, see [`StripLayout::new`].
        strip: usize,
    },
    /// Images, for convolutions.
    Images {
        /// Pixels of zeros on each side.
        border: usize,
        /// Samples in a strip, see [`ImageLayout::new`].
        strip: usize,
    },
}

impl From<Layout> for InputForm {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Strips(layout) => Self::Features { strip: layout.strip() },
            Layout::Images(layout) => Self::Images { border: layout.border(), strip: layout.strip() },
        }
    }
}

impl InputForm {
    /// The layout of `samples` pictures of `[channels, height, width]`.
    ///
    /// # Errors
    /// [`ShapeError`] if there is no such strip.
    pub fn layout(self, samples: usize, shape: [usize; 3]) -> Result<Layout, ShapeError> {
        let [channels, height, width] = shape;
        Ok(match self {
            Self::Features { strip } => StripLayout::new(samples, channels * height * width, strip)?.into(),
            Self::Images { border, strip } => {
                ImageLayout::new(samples, channels, [height, width], border, strip)?.into()
            }
        })
    }
}

/// Samples and pixels of a block: 16 f32 are a cache line.
const GROUP: usize = StripLayout::STRIP_UNIT;

/// Makes inputs of pictures of one shape.
#[derive(Debug)]
pub(super) struct Filler {
    shape: [usize; 3],
    /// See [`Normalization::tables`].
    tables: Option<Vec<[f32; 256]>>,
    /// [`GROUP`] pictures side by side.
    pictures: Vec<u8>,
}

impl Filler {
    /// For pictures of `[channels, height, width]`, of which the normalization must have numbers.
    pub(super) fn new(shape: [usize; 3], normalization: &Normalization) -> Self {
        let tables = normalization.tables();
        debug_assert!(tables.as_ref().is_none_or(|tables| tables.len() == 1 || tables.len() == shape[0]));
        Self { shape, tables, pictures: vec![0; GROUP * shape.iter().product::<usize>()] }
    }

    /// Writes a batch to `to`: borders and padding samples become zero, `picture(n, bytes)` gives the picture of sample
    /// `n`. What `to` holds must be a batch of the same form, or nothing.
    ///
    /// # Errors
    /// The first of `picture`.
    pub(super) fn fill<E>(
        &mut self,
        layout: Layout,
        to: &mut Vec<f32>,
        mut picture: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Borders are zero from the start and stay so: whatever the number of samples, they stand where they stood.
        to.resize(layout.len(), 0.0);
        let (strip, strip_pitch) = match layout {
            Layout::Strips(layout) => (layout.strip(), layout.features() * layout.strip()),
            Layout::Images(layout) => (layout.strip(), layout.strip_pitch()),
        };
        let strips = layout.samples().div_ceil(strip);
        // Behind the last strip of images, a larger batch may have had pixels.
        to[strips * strip_pitch..].fill(0.0);
        let picture_len = self.shape.iter().product::<usize>();
        for first in (0..strips * strip).step_by(strip.min(GROUP)) {
            let held = layout.samples().saturating_sub(first).min(strip.min(GROUP));
            for (n, bytes) in self.pictures.chunks_exact_mut(picture_len).take(held).enumerate() {
                picture(first + n, bytes)?;
            }
            let to = &mut to[first / strip * strip_pitch + first % strip..];
            match strip {
                1 => self.fill_group::<1>(layout, held, to),
                8 => self.fill_group::<8>(layout, held, to),
                _ => self.fill_group::<GROUP>(layout, held, to),
            }
        }
        Ok(())
    }

    /// Writes `LANES` neighbouring samples, of which `held` are pictures and the others become zero; `to` begins at the
    /// first sample's strip.
    fn fill_group<const LANES: usize>(&self, layout: Layout, held: usize, to: &mut [f32]) {
        let Some(tables) = &self.tables else {
            let mut scales = [[0.0; 2]; LANES];
            let pictures = self.pictures.chunks_exact(self.shape.iter().product());
            for (scale, picture) in scales.iter_mut().zip(pictures.take(held)) {
                *scale = standardization(picture);
            }
            self.for_each_run(layout, |_, run| {
                let value = |lane: usize, byte: u8| f32::from(byte) * scales[lane][0] + scales[lane][1];
                self.fill_run::<LANES>(run, held, to, value);
            });
            return;
        };
        self.for_each_run(layout, |channel, run| {
            let table = if tables.len() == 1 { &tables[0] } else { &tables[channel] };
            self.fill_run::<LANES>(run, held, to, |_, byte| table[usize::from(byte)]);
        });
    }

    /// Calls `f(channel, run)` for the pixels that lie `strip` apart: a channel, or a row of one.
    fn for_each_run(&self, layout: Layout, mut f: impl FnMut(usize, Run)) {
        let [channels, height, width] = self.shape;
        let plane = height * width;
        for channel in 0..channels {
            match layout {
                Layout::Strips(layout) => {
                    let (first, strip) = (channel * plane, layout.strip());
                    f(channel, Run { first, len: plane, at: first * strip, strip });
                }
                Layout::Images(layout) => {
                    for y in 0..height {
                        let (first, at) = (channel * plane + y * width, layout.index(0, channel, [y, 0]));
                        f(channel, Run { first, len: width, at, strip: layout.strip() });
                    }
                }
            }
        }
    }

    fn fill_run<const LANES: usize>(&self, run: Run, held: usize, to: &mut [f32], value: impl Fn(usize, u8) -> f32) {
        let Run { first, len, at, strip } = run;
        let to = &mut to[at..];
        let whole = "a strip has at least one group of samples";
        if held == 0 {
            let rows = to.chunks_mut(strip).take(len);
            rows.for_each(|row| row.first_chunk_mut::<LANES>().expect(whole).fill(0.0));
            return;
        }
        let picture_len: usize = self.shape.iter().product();
        let mut block = [[0u8; GROUP]; LANES];
        for start in (0..len).step_by(GROUP) {
            let width = (len - start).min(GROUP);
            for (to, picture) in block.iter_mut().zip(self.pictures.chunks_exact(picture_len)) {
                let from = &picture[first + start..];
                match from.first_chunk() {
                    Some(bytes) => *to = *bytes,
                    None => to[..width].copy_from_slice(&from[..width]),
                }
            }
            for (pixel, row) in to[start * strip..].chunks_mut(strip).take(width).enumerate() {
                let row = row.first_chunk_mut::<LANES>().expect(whole);
                for (lane, to) in row.iter_mut().enumerate() {
                    *to = value(lane, block[lane][pixel % GROUP]);
                }
                row[held..].fill(0.0);
            }
        }
    }
}

/// Neighbouring pixels of one channel.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Place of the first in a picture.
    first: usize,
    /// How many they are.
    len: usize,
    /// Place of the first in a strip.
    at: usize,
    /// Distance there from one to the next.
    strip: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn normalization(kind: usize, channels: usize) -> Normalization {
        match kind {
            0 => Normalization::Pixels { mean: 0.25, deviation: 0.5 },
            1 => Normalization::Channels {
                mean: (0..channels).map(|c| 0.1 * c as f64).collect(),
                deviation: (0..channels).map(|c| 1.0 + c as f64).collect(),
            },
            _ => Normalization::PerImage,
        }
    }

    /// The input of a byte by the definition.
    fn expected(normalization: &Normalization, picture: &[u8], channel: usize, byte: u8) -> f64 {
        let x = f64::from(byte) / 255.0;
        match normalization {
            Normalization::Pixels { mean, deviation } => (x - mean) / deviation,
            Normalization::Channels { mean, deviation } => (x - mean[channel]) / deviation[channel],
            Normalization::PerImage => {
                let n = picture.len() as f64;
                let mean = picture.iter().map(|&b| f64::from(b) / 255.0).sum::<f64>() / n;
                let variance = picture.iter().map(|&b| (f64::from(b) / 255.0 - mean).powi(2)).sum::<f64>() / n;
                (x - mean) / variance.sqrt().max(1.0 / n.sqrt())
            }
        }
    }

    proptest! {
        /// Every form, with buffers that held another batch: each value where the layout says, all else zero.
        #[test]
        fn values_stand_where_the_layout_says_and_all_else_is_zero(
            channels in 1usize..4, height in 1usize..7, width in 1usize..20, kind in 0usize..3,
            strip in prop::sample::select(&[1usize, 8, 16, 32, 48]), border in prop::option::of(0usize..3),
            batches in prop::collection::vec(1usize..70, 1..4), seed: u8,
        ) {
            let shape = [channels, height, width];
            let form = match border {
                Some(border) if strip <= 32 => InputForm::Images { border, strip },
                _ => InputForm::Features { strip: strip.max(16) },
            };
            let normalization = normalization(kind, channels);
            let mut filler = Filler::new(shape, &normalization);
            let mut to = Vec::new();
            for (number, &samples) in batches.iter().enumerate() {
                let layout = form.layout(samples, shape).unwrap();
                let byte = |n: usize, place: usize| (n * 83 + place * place * 7 + number + usize::from(seed)) as u8;
                let picture = |n: usize, bytes: &mut [u8]| -> Result<(), Infallible> {
                    bytes.iter_mut().enumerate().for_each(|(place, to)| *to = byte(n, place));
                    Ok(())
                };
                filler.fill(layout, &mut to, picture).unwrap();
                prop_assert_eq!(to.len(), layout.len());
                let mut left = to.clone();
                for n in 0..samples {
                    let picture: Vec<u8> = (0..channels * height * width).map(|place| byte(n, place)).collect();
                    for (place, &byte) in picture.iter().enumerate() {
                        let (channel, y, x) = (place / (height * width), place / width % height, place % width);
                        let at = match layout {
                            Layout::Strips(layout) => layout.index(place, n),
                            Layout::Images(layout) => layout.index(n, channel, [y, x]),
                        };
                        let expected = expected(&normalization, &picture, channel, byte);
                        // A rounding of each of factor, offset, product and sum.
                        let bound = 4.0 * f64::from(f32::EPSILON) * (expected.abs() + 16.0);
                        prop_assert!((f64::from(to[at]) - expected).abs() <= bound, "{} {expected}", to[at]);
                        left[at] = 0.0;
                    }
                }
                prop_assert!(left.iter().all(|&value| value == 0.0));
            }
        }
    }

    #[test]
    fn the_first_error_is_told() {
        let mut filler = Filler::new([1, 2, 2], &Normalization::PerImage);
        let layout = InputForm::Images { border: 0, strip: 8 }.layout(20, [1, 2, 2]).unwrap();
        let fail = |n: usize, _: &mut [u8]| if n >= 9 { Err(n) } else { Ok(()) };
        assert_eq!(filler.fill(layout, &mut Vec::new(), fail), Err(9));
        assert!(InputForm::Images { border: 0, strip: 4 }.layout(20, [1, 2, 2]).is_err());
        assert!(InputForm::Features { strip: 8 }.layout(20, [1, 2, 2]).is_err());
    }

    /// `cargo test --release -p trainer -- --ignored --nocapture time_per_batch`
    #[test]
    #[ignore = "a measurement"]
    fn time_per_batch() {
        let cifar = ([3, 32, 32], 128);
        for (name, form, (shape, samples), normalization) in [
            ("28×28 features, strip 32", InputForm::Features { strip: 32 }, ([1, 28, 28], 100), normalization(0, 1)),
            ("28×28 features, strip 112", InputForm::Features { strip: 112 }, ([1, 28, 28], 100), normalization(0, 1)),
            ("CIFAR features, strip 32", InputForm::Features { strip: 32 }, cifar, normalization(1, 3)),
            ("CIFAR images, strip 1", InputForm::Images { border: 1, strip: 1 }, cifar, normalization(1, 3)),
            ("CIFAR images, strip 8", InputForm::Images { border: 1, strip: 8 }, cifar, normalization(1, 3)),
            ("CIFAR images, strip 16", InputForm::Images { border: 1, strip: 16 }, cifar, normalization(1, 3)),
            ("CIFAR images, strip 32", InputForm::Images { border: 1, strip: 32 }, cifar, normalization(1, 3)),
            (
                "CIFAR images, strip 32, per image",
                InputForm::Images { border: 1, strip: 32 },
                cifar,
                normalization(2, 3),
            ),
        ] {
            let len: usize = shape.iter().product();
            let all: Vec<u8> = (0..10_000 * len).map(|i| (i * 31 + i / 977) as u8).collect();
            let mut filler = Filler::new(shape, &normalization);
            let mut to = Vec::new();
            for augmented in [false, true] {
                let mut times: Vec<u128> = Vec::new();
                for batch in 0..200usize {
                    let start = std::time::Instant::now();
                    let picture = |n: usize, to: &mut [u8]| -> Result<(), Infallible> {
                        let sample = (batch * samples + n) * 7919 % 10_000;
                        let from = &all[sample * len..][..len];
                        if augmented {
                            let key = sparse_kernels::random::Key::new(0).with(sample as u64);
                            super::super::augment::CropFlip::draw(key).apply(shape, from, to);
                        } else {
                            to.copy_from_slice(from);
                        }
                        Ok(())
                    };
                    filler.fill(form.layout(samples, shape).unwrap(), std::hint::black_box(&mut to), picture).unwrap();
                    times.push(start.elapsed().as_micros());
                }
                times.sort_unstable();
                let [median, high] = [times[100], times[180]];
                let augmented = if augmented { "crop-flip" } else { "as they are" };
                println!("{name}, {augmented}: median {median} µs, 90th percentile {high} µs a batch of {samples}");
            }
        }
    }
}
