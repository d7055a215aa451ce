//! From bytes or numbers, sample by sample, to inputs in the layout that the kernels read.
//!
//! Pictures are `[picture][channel][row][pixel]`; a batch has neighbouring samples side by side. For 16 samples × 16
//! pixels at a time, the 16 rows' bytes are copied into a block on the stack, then looked up column by column: every
//! store is then one full cache line, and no index needs a check. The pictures of a shuffled batch lie anywhere in
//! memory, so each is first copied whole into a scratch of 16 pictures, where its cache misses overlap; that is also
//! where they are changed at random.

use sparse_kernels::{ImageLayout, Layout, ShapeError, StripLayout};

use super::Normalization;
use super::dataset::Inputs;
use super::normalization::{standardization, value_standardization};
use super::sequences::LaneOrder;

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
    /// Tokens, for an embedding.
    Tokens {
        /// Which are neighbours in the lanes.
        order: LaneOrder,
        /// Lanes in a strip, or what the width of a whole batch's strip is a multiple of.
        strip: usize,
    },
    /// Lists, for a layer that reads such.
    Lists,
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
    /// Which tokens are neighbours, if it is of tokens.
    pub fn order(self) -> Option<LaneOrder> {
        match self {
            Self::Tokens { order, .. } => Some(order),
            Self::Features { .. } | Self::Images { .. } | Self::Lists => None,
        }
    }

    /// The layout of `samples` pictures of `[channels, height, width]`.
    ///
    /// # Errors
    /// [`ShapeError`] if there is no such strip.
    pub fn layout(self, samples: usize, shape: [usize; 3]) -> Result<Layout, ShapeError> {
        let [channels, height, width] = shape;
        Ok(match self {
            Self::Features { strip } | Self::Tokens { strip, .. } => {
                StripLayout::new(samples, channels * height * width, strip)?.into()
            }
            // Lists lie in no layout; what the first layer makes of them does.
            Self::Lists => StripLayout::sparse(samples, 0).into(),
            Self::Images { border, strip } => {
                ImageLayout::new(samples, channels, [height, width], border, strip)?.into()
            }
        })
    }
}

/// Samples and pixels of a block: 16 f32 are a cache line.
const GROUP: usize = StripLayout::STRIP_UNIT;

/// What samples are made of: bytes of pictures, or numbers.
pub(super) trait Element: Copy + Default + std::fmt::Debug {
    /// How one becomes an input.
    type Rule: std::fmt::Debug;

    /// The rule for samples of `[channels, height, width]`, of which the normalization must have numbers.
    fn rule(normalization: &Normalization, shape: [usize; 3]) -> Self::Rule;

    /// Writes `LANES` neighbouring samples, of which `held` are there and the others become zero; `to` begins at the first
    /// sample's strip.
    fn fill_group<const LANES: usize>(filler: &Filler<Self>, layout: Layout, held: usize, to: &mut [f32]);
}

impl Element for u8 {
    /// Of one table for all channels or one for each, or of mean and deviation of each value, or by the picture itself.
    type Rule = ByteRule;

    fn rule(normalization: &Normalization, shape: [usize; 3]) -> ByteRule {
        match (normalization.tables(), normalization.moments(shape)) {
            (Some(tables), _) => ByteRule::Tables(tables),
            (None, Some(moments)) => ByteRule::Places(factors(moments, 255.0)),
            (None, None) => ByteRule::Picture,
        }
    }

    fn fill_group<const LANES: usize>(filler: &Filler<u8>, layout: Layout, held: usize, to: &mut [f32]) {
        match &filler.rule {
            ByteRule::Tables(tables) => filler.for_each_run(layout, |channel, run| {
                let table = if tables.len() == 1 { &tables[0] } else { &tables[channel] };
                filler.fill_run::<LANES>(run, held, to, |_, _, byte| table[usize::from(byte)]);
            }),
            ByteRule::Places(places) => filler.for_each_run(layout, |_, run| {
                let value = |_, place: usize, byte| f32::from(byte) * places[place][0] + places[place][1];
                filler.fill_run::<LANES>(run, held, to, value);
            }),
            ByteRule::Picture => {
                let scales = filler.scales::<LANES>(held, standardization);
                filler.for_each_run(layout, |_, run| {
                    let value = |lane: usize, _, byte| f32::from(byte) * scales[lane][0] + scales[lane][1];
                    filler.fill_run::<LANES>(run, held, to, value);
                });
            }
        }
    }
}

impl Element for f32 {
    /// Factor and offset of each value, or by the sample itself.
    type Rule = Option<Vec<[f32; 2]>>;

    fn rule(normalization: &Normalization, shape: [usize; 3]) -> Self::Rule {
        normalization.moments(shape).map(|moments| factors(moments, 1.0))
    }

    fn fill_group<const LANES: usize>(filler: &Filler<f32>, layout: Layout, held: usize, to: &mut [f32]) {
        // What is missing is the mean.
        let known = |value: f32| if value.is_nan() { 0.0 } else { value };
        match &filler.rule {
            Some(places) => filler.for_each_run(layout, |_, run| {
                let value = |_, place: usize, x: f32| known(x.mul_add(places[place][0], places[place][1]));
                filler.fill_run::<LANES>(run, held, to, value);
            }),
            None => {
                let scales = filler.scales::<LANES>(held, value_standardization);
                filler.for_each_run(layout, |_, run| {
                    let value = |lane: usize, _, x: f32| known(x.mul_add(scales[lane][0], scales[lane][1]));
                    filler.fill_run::<LANES>(run, held, to, value);
                });
            }
        }
    }
}

/// For whatever samples are made of.
#[derive(Debug)]
pub(super) enum AnyFiller {
    Bytes(Filler<u8>),
    Floats(Filler<f32>),
}

impl AnyFiller {
    /// As [`Filler::new`], for these inputs; none for a text and for lists, which are no values.
    pub(super) fn new(inputs: &Inputs, shape: [usize; 3], normalization: &Normalization) -> Option<Self> {
        match inputs {
            Inputs::Bytes(_) | Inputs::Files(_) => Some(Self::Bytes(Filler::new(shape, normalization))),
            Inputs::Floats(_) => Some(Self::Floats(Filler::new(shape, normalization))),
            Inputs::Text(_) | Inputs::Lists(_) => None,
        }
    }
}

/// How bytes become inputs.
#[derive(Debug)]
pub(super) enum ByteRule {
    /// See [`Normalization::tables`].
    Tables(Vec<[f32; 256]>),
    /// Factor and offset of each value.
    Places(Vec<[f32; 2]>),
    /// By the picture's own mean and deviation.
    Picture,
}

/// Factors and offsets that make `(x / unit − mean) / deviation` of x.
fn factors(moments: Vec<[f64; 2]>, unit: f64) -> Vec<[f32; 2]> {
    let of = |[mean, deviation]: [f64; 2]| [(1.0 / (unit * deviation)) as f32, (-mean / deviation) as f32];
    moments.into_iter().map(of).collect()
}

/// Makes inputs of samples of one shape.
#[derive(Debug)]
pub(super) struct Filler<T: Element> {
    shape: [usize; 3],
    rule: T::Rule,
    /// [`GROUP`] samples side by side.
    samples: Vec<T>,
}

impl<T: Element> Filler<T> {
    /// For samples of `[channels, height, width]`, of which the normalization must have numbers.
    pub(super) fn new(shape: [usize; 3], normalization: &Normalization) -> Self {
        debug_assert!(normalization.channels().is_none_or(|channels| channels == shape[0]));
        debug_assert!(normalization.features().is_none_or(|features| features == shape.iter().product::<usize>()));
        let samples = vec![T::default(); GROUP * shape.iter().product::<usize>()];
        Self { shape, rule: T::rule(normalization, shape), samples }
    }

    /// Writes a batch to `to`: borders and padding samples become zero, `sample(n, values)` gives the values of sample
    /// `n`. What `to` holds must be a batch of the same form, or nothing.
    ///
    /// # Errors
    /// The first of `sample`.
    pub(super) fn fill<E>(
        &mut self,
        layout: Layout,
        to: &mut Vec<f32>,
        mut sample: impl FnMut(usize, &mut [T]) -> Result<(), E>,
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
        let sample_len = self.shape.iter().product::<usize>();
        for first in (0..strips * strip).step_by(strip.min(GROUP)) {
            let held = layout.samples().saturating_sub(first).min(strip.min(GROUP));
            for (n, values) in self.samples.chunks_exact_mut(sample_len).take(held).enumerate() {
                sample(first + n, values)?;
            }
            let to = &mut to[first / strip * strip_pitch + first % strip..];
            match strip {
                1 => T::fill_group::<1>(self, layout, held, to),
                8 => T::fill_group::<8>(self, layout, held, to),
                _ => T::fill_group::<GROUP>(self, layout, held, to),
            }
        }
        Ok(())
    }

    /// Factor and offset of each lane's own sample.
    fn scales<const LANES: usize>(&self, held: usize, of: fn(&[T]) -> [f32; 2]) -> [[f32; 2]; LANES] {
        let mut scales = [[0.0; 2]; LANES];
        let samples = self.samples.chunks_exact(self.shape.iter().product());
        for (scale, sample) in scales.iter_mut().zip(samples.take(held)) {
            *scale = of(sample);
        }
        scales
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

    /// `value(lane, place in the sample, element)` is the input.
    fn fill_run<const LANES: usize>(
        &self,
        run: Run,
        held: usize,
        to: &mut [f32],
        value: impl Fn(usize, usize, T) -> f32,
    ) {
        let Run { first, len, at, strip } = run;
        let to = &mut to[at..];
        let whole = "a strip has at least one group of samples";
        if held == 0 {
            let rows = to.chunks_mut(strip).take(len);
            rows.for_each(|row| row.first_chunk_mut::<LANES>().expect(whole).fill(0.0));
            return;
        }
        let sample_len: usize = self.shape.iter().product();
        let mut block = [[T::default(); GROUP]; LANES];
        for start in (0..len).step_by(GROUP) {
            let width = (len - start).min(GROUP);
            for (to, sample) in block.iter_mut().zip(self.samples.chunks_exact(sample_len)) {
                let from = &sample[first + start..];
                match from.first_chunk() {
                    Some(values) => *to = *values,
                    None => to[..width].copy_from_slice(&from[..width]),
                }
            }
            for (pixel, row) in to[start * strip..].chunks_mut(strip).take(width).enumerate() {
                let row = row.first_chunk_mut::<LANES>().expect(whole);
                for (lane, to) in row.iter_mut().enumerate() {
                    *to = value(lane, first + start + pixel, block[lane][pixel % GROUP]);
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

    fn normalization(kind: usize, channels: usize, features: usize) -> Normalization {
        match kind {
            0 => Normalization::Pixels { mean: 0.25, deviation: 0.5 },
            1 => Normalization::Channels {
                mean: (0..channels).map(|c| 0.1 * c as f64).collect(),
                deviation: (0..channels).map(|c| 1.0 + c as f64).collect(),
            },
            2 => Normalization::PerImage,
            _ => Normalization::Features {
                mean: (0..features).map(|f| 0.1 * f as f64).collect(),
                deviation: (0..features).map(|f| 1.0 + f as f64).collect(),
            },
        }
    }

    /// The input of a number by the definition; its brightness, of a byte.
    fn expected(normalization: &Normalization, sample: &[f64], channel: usize, place: usize) -> f64 {
        let x = sample[place];
        match normalization {
            Normalization::Pixels { mean, deviation } => (x - mean) / deviation,
            Normalization::Channels { mean, deviation } => (x - mean[channel]) / deviation[channel],
            Normalization::PerImage => {
                let n = sample.len() as f64;
                let mean = sample.iter().sum::<f64>() / n;
                let variance = sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                (x - mean) / variance.sqrt().max(1.0 / n.sqrt())
            }
            Normalization::Features { mean, deviation } => (x - mean[place]) / deviation[place],
        }
    }

    proptest! {
        /// Every form, with buffers that held another batch: each value where the layout says, all else zero.
        #[test]
        fn values_stand_where_the_layout_says_and_all_else_is_zero(
            channels in 1usize..4, height in 1usize..7, width in 1usize..20, kind in 0usize..4,
            strip in prop::sample::select(&[1usize, 8, 16, 32, 48]), border in prop::option::of(0usize..3),
            batches in prop::collection::vec(1usize..70, 1..4), seed: u8,
        ) {
            let shape = [channels, height, width];
            let form = match border {
                Some(border) if strip <= 32 => InputForm::Images { border, strip },
                _ => InputForm::Features { strip: strip.max(16) },
            };
            let normalization = normalization(kind, channels, channels * height * width);
            check::<u8>(&normalization, shape, form, &batches, seed, |byte| f64::from(byte) / 255.0)?;
            check::<f32>(&normalization, shape, form, &batches, seed, f64::from)?;
        }
    }

    fn check<T: Element + From<u8>>(
        normalization: &Normalization,
        shape: [usize; 3],
        form: InputForm,
        batches: &[usize],
        seed: u8,
        value_of: impl Fn(T) -> f64,
    ) -> Result<(), TestCaseError> {
        let [channels, height, width] = shape;
        let mut filler = Filler::<T>::new(shape, normalization);
        let mut to = Vec::new();
        for (number, &samples) in batches.iter().enumerate() {
            let layout = form.layout(samples, shape).unwrap();
            let element =
                |n: usize, place: usize| T::from((n * 83 + place * place * 7 + number + usize::from(seed)) as u8);
            let sample = |n: usize, values: &mut [T]| -> Result<(), Infallible> {
                values.iter_mut().enumerate().for_each(|(place, to)| *to = element(n, place));
                Ok(())
            };
            filler.fill(layout, &mut to, sample).unwrap();
            prop_assert_eq!(to.len(), layout.len());
            let mut left = to.clone();
            for n in 0..samples {
                let sample: Vec<f64> =
                    (0..channels * height * width).map(|place| value_of(element(n, place))).collect();
                for place in 0..sample.len() {
                    let (channel, y, x) = (place / (height * width), place / width % height, place % width);
                    let at = match layout {
                        Layout::Strips(layout) => layout.index(place, n),
                        Layout::Images(layout) => layout.index(n, channel, [y, x]),
                    };
                    let expected = expected(normalization, &sample, channel, place);
                    // A rounding of each of factor, offset, product and sum; the terms are a number and a mean.
                    let bound = 4.0 * f64::from(f32::EPSILON) * (expected.abs() + 2.0 * sample[place].abs() + 512.0);
                    prop_assert!((f64::from(to[at]) - expected).abs() <= bound, "{} {expected}", to[at]);
                    left[at] = 0.0;
                }
            }
            prop_assert!(left.iter().all(|&value| value == 0.0));
        }
        Ok(())
    }

    #[test]
    fn the_first_error_is_told() {
        let mut filler = Filler::<u8>::new([1, 2, 2], &Normalization::PerImage);
        let layout = InputForm::Images { border: 0, strip: 8 }.layout(20, [1, 2, 2]).unwrap();
        let fail = |n: usize, _: &mut [u8]| if n >= 9 { Err(n) } else { Ok(()) };
        assert_eq!(filler.fill(layout, &mut Vec::new(), fail), Err(9));
        assert!(InputForm::Images { border: 0, strip: 4 }.layout(20, [1, 2, 2]).is_err());
        assert!(InputForm::Features { strip: 8 }.layout(20, [1, 2, 2]).is_err());
    }

    /// `cargo test --release -p rigl-cli -- --ignored --nocapture time_per_batch`
    #[test]
    #[ignore = "a measurement"]
    fn time_per_batch() {
        let cifar = ([3, 32, 32], 128);
        for (name, form, (shape, samples), normalization) in [
            ("28×28 features, strip 32", InputForm::Features { strip: 32 }, ([1, 28, 28], 100), normalization(0, 1, 0)),
            (
                "28×28 features, strip 112",
                InputForm::Features { strip: 112 },
                ([1, 28, 28], 100),
                normalization(0, 1, 0),
            ),
            ("CIFAR features, strip 32", InputForm::Features { strip: 32 }, cifar, normalization(1, 3, 0)),
            ("CIFAR images, strip 1", InputForm::Images { border: 1, strip: 1 }, cifar, normalization(1, 3, 0)),
            ("CIFAR images, strip 8", InputForm::Images { border: 1, strip: 8 }, cifar, normalization(1, 3, 0)),
            ("CIFAR images, strip 16", InputForm::Images { border: 1, strip: 16 }, cifar, normalization(1, 3, 0)),
            ("CIFAR images, strip 32", InputForm::Images { border: 1, strip: 32 }, cifar, normalization(1, 3, 0)),
            (
                "CIFAR images, strip 32, per image",
                InputForm::Images { border: 1, strip: 32 },
                cifar,
                normalization(2, 3, 0),
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
