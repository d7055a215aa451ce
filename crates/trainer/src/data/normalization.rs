//! How pixels become inputs.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// Which values the mean and standard deviation that normalise inputs are computed over.
    Normalize {
        /// All pixels of the training set.
        Pixels,
        /// Each channel of the training set separately.
        Channels,
        /// Each image separately.
        PerImage,
        /// Each feature of the training set separately: a column of a table, a pixel.
        Features,
        /// None: inputs are brightnesses from 0 to 1, or the numbers of a table or an array as they are.
        None,
    }
}

/// How a value becomes an input: of a picture's byte, `x = byte / 255` being the pixel's brightness; of a number, `x` itself.
/// A missing number becomes the mean.
///
/// In JSON: `{"mean": m, "deviation": d}`, the same with lists, `{"feature-mean": […], "feature-deviation": […]}` or
/// `"per-image"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// `(x − mean) / max(deviation, 1 / √n)` with mean and deviation of the `n` values of the picture itself, as
    /// TensorFlow's `per_image_standardization`.
    PerImage,
    /// `(x − mean) / deviation`, for all pixels alike.
    #[serde(untagged)]
    Pixels {
        /// Mean of `x`.
        mean: f64,
        /// Standard deviation of `x` (of the population); 1 if all pixels are equal.
        deviation: f64,
    },
    /// `(x − mean) / deviation`, with numbers of each channel.
    #[serde(untagged)]
    Channels {
        /// As of [`Normalization::Pixels`], for each channel.
        mean: Vec<f64>,
        /// As of [`Normalization::Pixels`], for each channel.
        deviation: Vec<f64>,
    },
    /// `(x − mean) / deviation`, with numbers of each feature.
    #[serde(untagged)]
    Features {
        /// As of [`Normalization::Pixels`], for each feature.
        #[serde(rename = "feature-mean")]
        mean: Vec<f64>,
        /// As of [`Normalization::Pixels`], for each feature.
        #[serde(rename = "feature-deviation")]
        deviation: Vec<f64>,
    },
}

impl Normalization {
    /// That which gives all of `pixels` mean 0 and deviation 1.
    pub fn of_pixels(pixels: &[u8]) -> Self {
        let (mean, deviation) = moments(pixels.chunks(pixels.len().max(1)));
        Self::Pixels { mean, deviation }
    }

    /// That which gives each channel of pictures `[channels, height, width]` mean 0 and deviation 1.
    pub fn of_channels(pictures: &[u8], [channels, height, width]: [usize; 3]) -> Self {
        let plane = height * width;
        let of = |channel| moments(pictures.chunks_exact(plane).skip(channel).step_by(channels));
        let (mean, deviation) = (0..channels).map(of).unzip();
        Self::Channels { mean, deviation }
    }

    /// That which gives all of `values` mean 0 and deviation 1.
    pub fn of_values(values: &[f32]) -> Self {
        let (mean, deviation) = value_moments(values.iter().copied());
        Self::Pixels { mean, deviation }
    }

    /// That which gives each channel of samples `[channels, height, width]` mean 0 and deviation 1.
    pub fn of_value_channels(values: &[f32], [channels, height, width]: [usize; 3]) -> Self {
        let plane = height * width;
        let of = |channel| value_moments(values.chunks_exact(plane).skip(channel).step_by(channels).flatten().copied());
        let (mean, deviation) = (0..channels).map(of).unzip();
        Self::Channels { mean, deviation }
    }

    /// That which gives each feature mean 0 and deviation 1, but for those that are to stay as they are.
    pub fn of_features(values: &[f32], features: usize, stays: impl Fn(usize) -> bool) -> Self {
        let of = |feature| match stays(feature) {
            true => (0.0, 1.0),
            false => value_moments(values.iter().skip(feature).step_by(features).copied()),
        };
        let (mean, deviation) = (0..features).map(of).unzip();
        Self::Features { mean, deviation }
    }

    /// By the mean and deviation of the channels of ImageNet's training images, as they are published and commonly used.
    pub fn of_imagenet() -> Self {
        Self::Channels { mean: vec![0.485, 0.456, 0.406], deviation: vec![0.229, 0.224, 0.225] }
    }

    /// The number of channels that pictures must have, if it matters.
    pub fn channels(&self) -> Option<usize> {
        match self {
            Self::Channels { mean, deviation } => Some(mean.len().min(deviation.len())),
            Self::Pixels { .. } | Self::PerImage | Self::Features { .. } => None,
        }
    }

    /// The number of features that samples must have, if it matters.
    pub fn features(&self) -> Option<usize> {
        match self {
            Self::Features { mean, deviation } => Some(mean.len().min(deviation.len())),
            Self::Channels { .. } | Self::Pixels { .. } | Self::PerImage => None,
        }
    }

    /// Mean and deviation of each value of a sample `[channels, height, width]`; `None` where they depend on the sample.
    pub(super) fn moments(&self, [channels, height, width]: [usize; 3]) -> Option<Vec<[f64; 2]>> {
        let plane = height * width;
        let pair = |(&mean, &deviation): (&f64, &f64)| [mean, deviation];
        match self {
            Self::PerImage => None,
            Self::Pixels { mean, deviation } => Some(vec![[*mean, *deviation]; channels * plane]),
            Self::Channels { mean, deviation } => {
                Some(mean.iter().zip(deviation).map(pair).flat_map(|pair| std::iter::repeat_n(pair, plane)).collect())
            }
            Self::Features { mean, deviation } => Some(mean.iter().zip(deviation).map(pair).collect()),
        }
    }

    /// The input for each byte: one table for all channels, or one for each. `None` where it depends on the picture or on the
    /// place in it.
    pub fn tables(&self) -> Option<Vec<[f32; 256]>> {
        let table = |(mean, deviation): (&f64, &f64)| -> [f32; 256] {
            std::array::from_fn(|byte| ((byte as f64 / 255.0 - mean) / deviation) as f32)
        };
        match self {
            Self::Pixels { mean, deviation } => Some(vec![table((mean, deviation))]),
            Self::Channels { mean, deviation } => Some(mean.iter().zip(deviation).map(table).collect()),
            Self::PerImage | Self::Features { .. } => None,
        }
    }
}

/// `[factor, offset]` that make inputs of a sample's own numbers, for [`Normalization::PerImage`]; NaN does not count.
pub(super) fn value_standardization(values: &[f32]) -> [f32; 2] {
    let (mean, deviation) = value_moments(values.iter().copied());
    let constant = values.windows(2).all(|pair| pair[0] == pair[1]);
    let least = 1.0 / (values.len().max(1) as f64).sqrt();
    let deviation = if constant { least } else { deviation.max(least) };
    [(1.0 / deviation) as f32, (-mean / deviation) as f32]
}

/// Mean and deviation of the numbers that are no NaN; deviation 1 if they are equal.
pub(super) fn value_moments(values: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
    let values = values.filter(|value| !value.is_nan()).map(f64::from);
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    // A rounding error of the mean is no deviation.
    let deviation = if variance > (mean.abs() * 1e-7).powi(2) { variance.sqrt() } else { 1.0 };
    (mean, deviation)
}

/// `[factor, offset]` that make inputs of a picture's own bytes, for [`Normalization::PerImage`].
pub(super) fn standardization(picture: &[u8]) -> [f32; 2] {
    // Whole numbers: nothing cancels.
    let sum: u64 = picture.iter().map(|&byte| u64::from(byte)).sum();
    let squares: u64 = picture.iter().map(|&byte| u64::from(byte).pow(2)).sum();
    let n = picture.len() as u64;
    let variance = (u128::from(n) * u128::from(squares) - u128::from(sum).pow(2)) as f64 / (n as f64 * 255.0).powi(2);
    let deviation = variance.sqrt().max(1.0 / (n as f64).sqrt());
    let mean = sum as f64 / (n as f64 * 255.0);
    [(1.0 / (255.0 * deviation)) as f32, (-mean / deviation) as f32]
}

/// Mean and deviation of `byte / 255`.
fn moments<'p>(parts: impl Iterator<Item = &'p [u8]>) -> (f64, f64) {
    let mut histogram = [0u64; 256];
    parts.flatten().for_each(|&byte| histogram[usize::from(byte)] += 1);
    let count = histogram.iter().sum::<u64>().max(1) as f64;
    let moment = |power: i32| {
        let terms = histogram.iter().enumerate().map(|(byte, &n)| n as f64 * (byte as f64 / 255.0).powi(power));
        terms.sum::<f64>() / count
    };
    let mean = moment(1);
    let variance = moment(2) - mean * mean;
    // A rounding error of the difference is no deviation.
    let deviation = if variance > 1e-12 { variance.sqrt() } else { 1.0 };
    (mean, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_inputs(inputs: impl Iterator<Item = f32> + Clone) -> (f64, f64) {
        let n = inputs.clone().count() as f64;
        let mean = inputs.clone().map(f64::from).sum::<f64>() / n;
        (mean, (inputs.map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    fn is_standard((mean, deviation): (f64, f64)) -> bool {
        mean.abs() < 1e-6 && (deviation - 1.0).abs() < 1e-6
    }

    #[test]
    fn mean_is_0_and_deviation_1() {
        let pixels: Vec<u8> = (0..12_000u32).map(|i| (i * i % 251) as u8 / (1 + i / 20 % 3) as u8).collect();
        let table = Normalization::of_pixels(&pixels).tables().unwrap()[0];
        assert!(is_standard(of_inputs(pixels.iter().map(|&byte| table[usize::from(byte)]))));
        let channels = Normalization::of_channels(&pixels, [3, 4, 5]);
        let tables = channels.tables().unwrap();
        assert_eq!((tables.len(), channels.channels()), (3, Some(3)));
        for (channel, table) in tables.iter().enumerate() {
            let planes = pixels.chunks(20).skip(channel).step_by(3).flatten();
            assert!(is_standard(of_inputs(planes.map(|&byte| table[usize::from(byte)]))));
        }
        let [factor, offset] = standardization(&pixels);
        assert!(is_standard(of_inputs(pixels.iter().map(|&byte| f32::from(byte) * factor + offset))));
    }

    #[test]
    fn numbers_that_are_missing_do_not_count() {
        let values = [1.0, 10.0, f32::NAN, 10.0, 3.0, 10.0];
        let expected = Normalization::Features { mean: vec![2.0, 10.0], deviation: vec![1.0, 1.0] };
        assert_eq!(Normalization::of_features(&values, 2, |_| false), expected);
        let Normalization::Features { mean, deviation } = Normalization::of_features(&values, 2, |f| f == 0) else {
            panic!("features were asked for");
        };
        assert_eq!((mean[0], deviation[0]), (0.0, 1.0));
        let channels = Normalization::of_value_channels(&[1.0, 3.0, 5.0, 9.0], [2, 1, 2]);
        assert_eq!(channels.moments([2, 1, 2]).unwrap(), [[2.0, 1.0], [2.0, 1.0], [7.0, 2.0], [7.0, 2.0]]);
        assert_eq!(Normalization::of_values(&[]), Normalization::Pixels { mean: 0.0, deviation: 1.0 });
        // A deviation of 0 counts as 1 / √4.
        assert_eq!(value_standardization(&[5.0; 4]), [2.0, -10.0]);
    }

    #[test]
    fn equal_pixels_are_finite() {
        assert_eq!(Normalization::of_pixels(&[7; 100]), Normalization::Pixels { mean: 7.0 / 255.0, deviation: 1.0 });
        assert_eq!(Normalization::of_pixels(&[]).tables().unwrap()[0][255], 1.0);
        // A deviation of 0 counts as 1 / √100.
        let [factor, offset] = standardization(&[51; 100]);
        assert_eq!((factor, offset), ((10.0 / 255.0) as f32, -2.0));
        let [factor, _] = standardization(&[0; 4]);
        assert_eq!(factor, (2.0 / 255.0) as f32);
    }

    /// What older checkpoints hold is read as it was, and every kind survives.
    #[test]
    fn json_tells_the_kinds_apart() {
        let pixels = Normalization::Pixels { mean: 0.1307, deviation: 0.3081 };
        let channels = Normalization::Channels { mean: vec![0.5, 0.25, 0.1], deviation: vec![1.0, 2.0, 0.3] };
        for (value, text) in [
            (pixels, r#"{"mean":0.1307,"deviation":0.3081}"#),
            (channels, r#"{"mean":[0.5,0.25,0.1],"deviation":[1.0,2.0,0.3]}"#),
            (Normalization::PerImage, r#""per-image""#),
            (
                Normalization::Features { mean: vec![0.5], deviation: vec![2.0] },
                r#"{"feature-mean":[0.5],"feature-deviation":[2.0]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(serde_json::from_str::<Normalization>(text).unwrap(), value);
        }
        for wrong in [r#"{"mean":[0.5],"deviation":1.0}"#, "null", r#""pixels""#, r#"{"mean":0.5}"#] {
            assert!(serde_json::from_str::<Normalization>(wrong).is_err(), "{wrong}");
        }
    }
}
