//! A data set of the shape of the large ones that cannot be shipped: labels by a power law, each with features of its own.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use sparse_kernels::random::Key;

/// What is made. The numbers of Amazon-670K are 670,091 labels, 135,909 features, 490,449 and 153,025 samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Labels.
    pub labels: usize,
    /// Features.
    pub features: usize,
    /// Samples.
    pub samples: usize,
    /// What the samples depend on; those of training and test set must differ.
    pub seed: u64,
    /// The number of this part of the data set: parts have the same labels and other samples.
    pub part: u64,
}

/// Features that a label has, and how many of them a sample with the label shows.
const OF_LABEL: u64 = 24;
const SHOWN: f32 = 0.6;
/// Features of a sample that say nothing.
const NOISE: u64 = 16;
/// The most labels of a sample; the mean is about 5, as in Amazon-670K.
const MOST_LABELS: u64 = 9;

/// Writes samples in the extreme classification repository's format.
///
/// The labels of a sample lie near each other: the first one is drawn by a power law (a label's share falls with its number to the power
/// of −1/2 among all labels), the others from the sixteen around it. A label has 24 features of its own by chance, of which a sample shows six in ten,
/// with values from 0.5 to 1; 16 others are noise, of values from 0 to 0.5. A sample's values have a sum of squares of 1.
///
/// # Errors
/// If writing fails.
///
/// # Cost
/// About 100 features a sample, 1 kB of text.
pub fn generate(options: &GenerateOptions, to: impl Write) -> io::Result<()> {
    let GenerateOptions { labels, features, samples, seed, part } = *options;
    let mut to = BufWriter::with_capacity(1 << 20, to);
    writeln!(to, "{samples} {features} {labels}")?;
    let of_labels = Key::new(seed).with_name("label features");
    let of_samples = Key::new(seed).with_name("samples").with(part);
    let (mut had, mut pairs) = (Vec::new(), Vec::<(u32, f32)>::new());
    for sample in 0..samples as u64 {
        let key = of_samples.with(sample);
        let mut draws = 0;
        let mut uniform = || {
            draws += 1;
            f64::from(key.uniform(draws))
        };
        // The share of the labels up to number l is √(l / labels).
        let first = ((uniform().powi(2) * labels as f64) as usize).min(labels - 1);
        let count = 1 + (uniform() * MOST_LABELS as f64) as usize;
        had.clear();
        had.push(first as u32);
        for _ in 1..count {
            had.push(((first / 16 * 16 + (uniform() * 16.0) as usize) % labels) as u32);
        }
        had.sort_unstable();
        had.dedup();
        pairs.clear();
        for &label in &had {
            let key = of_labels.with(u64::from(label));
            for i in 0..OF_LABEL {
                if (uniform() as f32) < SHOWN {
                    pairs.push(((key.bits(i) % features as u64) as u32, 0.5 + 0.5 * uniform() as f32));
                }
            }
        }
        for _ in 0..NOISE {
            pairs.push((((uniform() * features as f64) as usize).min(features - 1) as u32, 0.5 * uniform() as f32));
        }
        pairs.sort_unstable_by_key(|&(feature, _)| feature);
        pairs.dedup_by_key(|&mut (feature, _)| feature);
        let norm = pairs.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
        let text: Vec<String> = had.iter().map(u32::to_string).collect();
        write!(to, "{}", text.join(","))?;
        for (feature, value) in &pairs {
            write!(to, " {feature}:{:.4}", value / norm)?;
        }
        writeln!(to)?;
    }
    to.flush()
}

impl GenerateOptions {
    /// Writes to a new file.
    ///
    /// # Errors
    /// If there is one already, or writing fails; no part of it then stays.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let written = generate(self, std::fs::File::create_new(path)?);
        if written.is_err() {
            // A part of a file would only be in the way; the first error says more than one of removing it.
            let _ = std::fs::remove_file(path);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_learned() {
        let folder = tempfile::tempdir().unwrap();
        let options = GenerateOptions { labels: 200, features: 900, samples: 400, seed: 3, part: 0 };
        let (samples, test) = (folder.path().join("train.txt"), folder.path().join("test.txt"));
        options.write(&samples).unwrap();
        GenerateOptions { part: 1, ..options }.write(&test).unwrap();
        assert!(options.write(&samples).is_err());
        let options = SvmlightOptions { samples, test: Some(test), test_fraction: 0.0 };
        let data = load(&options, None).unwrap();
        assert_eq!((data.classes, data.features(), data.train.len(), data.test.len()), (200, 900, 400, 400));
        let Targets::Labels(labels) = &data.train.targets else { panic!("labels") };
        // By the power law, the first of the labels have most of the samples.
        let of_the_first = (0..400).filter(|&i| labels.row(i)[0] < 50).count();
        assert!((160..300).contains(&of_the_first), "{of_the_first}");
        assert_ne!(data.train, data.test);
    }
}
