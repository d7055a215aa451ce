//! Labelled images in memory or in files.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sparse_kernels::random::Key;

use super::error::DataError;
use super::normalization::{Normalization, Normalize};
use super::picture_files::PictureFiles;

/// Images of a split.
#[derive(Debug, Clone, PartialEq)]
pub enum Pictures {
    /// Bytes, sample by sample: `[sample][channel][row][pixel]`.
    Memory(Vec<u8>),
    /// Files, read when they are needed.
    Files(PictureFiles),
}

/// Labelled images.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Channels, height and width of each image, as it is read.
    pub shape: [usize; 3],
    /// The images.
    pub pictures: Pictures,
    /// The class of each sample.
    pub labels: Vec<u32>,
}

impl Split {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The files of all images, if they are in files.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let files = match &self.pictures {
            Pictures::Memory(_) => None,
            Pictures::Files(files) => Some(files),
        };
        let labels = (0..).zip(&self.labels);
        files.into_iter().flat_map(move |files| labels.clone().map(|(sample, &label)| files.path(sample, label)))
    }

    /// The bytes of all images, if they are in memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.pictures {
            Pictures::Memory(bytes) => Some(bytes),
            Pictures::Files(_) => None,
        }
    }

    pub(super) fn select(&self, samples: &[usize]) -> Self {
        let features = self.shape.iter().product::<usize>();
        let pictures = match &self.pictures {
            Pictures::Memory(bytes) => {
                let chosen = samples.iter().flat_map(|&s| &bytes[s * features..][..features]);
                Pictures::Memory(chosen.copied().collect())
            }
            Pictures::Files(files) => Pictures::Files(files.select(samples)),
        };
        Self { shape: self.shape, pictures, labels: samples.iter().map(|&s| self.labels[s]).collect() }
    }
}

/// A data set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name, one of [`KNOWN`](super::KNOWN).
    pub name: String,
    /// Number of classes; every label is below it.
    pub classes: usize,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// What is trained on.
    pub train: Arc<Split>,
    /// Held out of the training set by [`Dataset::hold_out`].
    pub validation: Option<Arc<Split>>,
    /// The test set.
    pub test: Arc<Split>,
}

impl Dataset {
    /// Values of an image: `channels · height · width`.
    pub fn features(&self) -> usize {
        self.shape.iter().product()
    }

    /// Moves `round(fraction · samples)` training samples, chosen by `seed`, to [`Dataset::validation`]. Both parts
    /// keep the order of the original. A fraction of 0 changes nothing.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `0 <= fraction < 1` and both parts have a sample.
    pub fn hold_out(&mut self, fraction: f64, seed: u64) -> Result<(), DataError> {
        if fraction == 0.0 {
            return Ok(());
        }
        let samples = self.train.len();
        let held = (fraction * samples as f64).round();
        let fail = |empty| Err(DataError::Fraction { fraction, samples, empty });
        if held < 1.0 || held.is_nan() {
            return fail("validation");
        }
        if held >= samples as f64 {
            return fail("training");
        }
        let order = shuffled(samples, Key::new(seed).with_name("validation"));
        let (held, kept) = order.split_at(held as usize);
        let part = |chosen: &[u32]| {
            let mut chosen: Vec<usize> = chosen.iter().map(|&sample| sample as usize).collect();
            chosen.sort_unstable();
            Arc::new(self.train.select(&chosen))
        };
        (self.validation, self.train) = (Some(part(held)), part(kept));
        Ok(())
    }

    /// A sum over all samples, in the order in which they are used. Equal data sets have equal sums, wherever they were
    /// read from. Of files, their folders, names and sizes stand for the samples.
    pub fn sha256(&self) -> String {
        let mut sum = Sha256::new();
        for split in [Some(&self.train), self.validation.as_ref(), Some(&self.test)].into_iter().flatten() {
            sum.update((split.len() as u64).to_le_bytes());
            match &split.pictures {
                Pictures::Memory(bytes) => {
                    sum.update(bytes);
                    // No set in memory has more classes than a byte can tell apart.
                    sum.update(split.labels.iter().map(|&label| label as u8).collect::<Vec<_>>());
                }
                Pictures::Files(files) => files.digest(&split.labels, &mut sum),
            }
        }
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How its pixels become inputs, by the training set (without those held out). Files are not read for this: of them,
    /// all but [`Normalize::PerImage`] and [`Normalize::None`] gives the channels' figures of ImageNet.
    pub fn normalization(&self, normalize: Normalize) -> Normalization {
        match (normalize, &self.train.pictures) {
            (Normalize::PerImage, _) => Normalization::PerImage,
            (Normalize::None, _) => Normalization::Pixels { mean: 0.0, deviation: 1.0 },
            (Normalize::Pixels, Pictures::Memory(bytes)) => Normalization::of_pixels(bytes),
            (Normalize::Channels, Pictures::Memory(bytes)) => Normalization::of_channels(bytes, self.shape),
            (_, Pictures::Files(_)) => Normalization::of_imagenet(),
        }
    }

    /// Whether its pictures are files, of which any may turn out to be broken.
    pub fn is_files(&self) -> bool {
        matches!(self.train.pictures, Pictures::Files(_))
    }
}

/// A sum over the samples in memory that does not depend on their order: of the training and of the test set, the sum
/// modulo 2^128 of the first 16 bytes, little-endian, of SHA-256 of each record, label then pixels. So files that hold a
/// data set in another order or otherwise compressed are recognized.
pub fn content_sums(data: &Dataset) -> [u128; 2] {
    [&data.train, &data.test].map(|split| {
        let features = split.shape.iter().product::<usize>().max(1);
        let records = split.bytes().unwrap_or_default().chunks(features).zip(&split.labels);
        records.fold(0u128, |sum, (pixels, &label)| {
            let digest = Sha256::new().chain_update([label as u8]).chain_update(pixels).finalize();
            let first = digest.first_chunk().expect("SHA-256 has 32 bytes");
            sum.wrapping_add(u128::from_le_bytes(*first))
        })
    })
}

/// `0..samples` in an order that depends on the key only: sorted by `(key.bits(sample), sample)`.
pub(super) fn shuffled(samples: usize, key: Key) -> Vec<u32> {
    let mut order = Vec::new();
    shuffle(&mut Vec::new(), &mut order, samples, key);
    order
}

/// [`shuffled`] into buffers that are used again.
pub(super) fn shuffle(scratch: &mut Vec<(u64, u32)>, order: &mut Vec<u32>, samples: usize, key: Key) {
    scratch.clear();
    scratch.extend((0..samples as u32).map(|sample| (key.bits(u64::from(sample)), sample)));
    scratch.sort_unstable();
    order.clear();
    order.extend(scratch.iter().map(|&(_, sample)| sample));
}
