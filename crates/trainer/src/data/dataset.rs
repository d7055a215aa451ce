//! Samples in memory or in files.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sparse_kernels::random::Key;

use super::error::DataError;
use super::lists::Lists;
use super::normalization::{Normalization, Normalize, value_moments};
use super::picture_files::PictureFiles;
use super::sequences::LaneOrder;
use super::svmlight::Numbering;
use super::table::TableColumns;
use super::targets::Targets;
use super::text::{Alphabet, Text};
use crate::task::TargetScale;

/// Inputs of a split.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// Bytes of pictures, sample by sample: `[sample][channel][row][pixel]`.
    Bytes(Vec<u8>),
    /// Files of pictures, read when they are needed.
    Files(PictureFiles),
    /// Numbers, in the order of bytes. NaN is a missing one.
    Floats(Vec<f32>),
    /// A text, each token of which is to be foreseen. A sample is a window.
    Text(Text),
    /// Features and values of each sample.
    Lists(Lists),
}

/// Samples with what is to be learned of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Channels, height and width of each image, as it is read; of features `[1, 1, features]`, of a text `[1, 1, length]` with
    /// the tokens of a window.
    pub shape: [usize; 3],
    /// The inputs.
    pub inputs: Inputs,
    /// The targets; none of a text, whose tokens are its targets.
    pub targets: Targets,
}

impl Split {
    /// A text.
    pub fn of_text(text: Text) -> Self {
        Self { shape: [1, 1, text.length()], inputs: Inputs::Text(text), targets: Targets::Classes(Vec::new()) }
    }

    /// Number of samples; of a text, windows of an epoch of training.
    pub fn len(&self) -> usize {
        self.text().map_or(self.targets.len(), Text::training_windows)
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&Text> {
        match &self.inputs {
            Inputs::Text(text) => Some(text),
            Inputs::Bytes(_) | Inputs::Floats(_) | Inputs::Files(_) | Inputs::Lists(_) => None,
        }
    }

    /// Batches of an epoch of training, and the samples in all of them. Of a text that comes in streams
    /// ([`LaneOrder::TimeMajor`]), the windows beyond equally long streams are left out.
    pub fn epoch(&self, batch_size: usize, order: Option<LaneOrder>) -> [usize; 2] {
        let batch_size = batch_size.min(self.len()).max(1);
        match order {
            Some(LaneOrder::TimeMajor) => [self.len() / batch_size, self.len() / batch_size * batch_size],
            Some(LaneOrder::SequenceMajor) | None => [self.len().div_ceil(batch_size), self.len()],
        }
    }

    /// The class of each sample; none where samples have numbers.
    pub fn labels(&self) -> &[u32] {
        self.targets.classes()
    }

    /// The files of all images, if they are in files.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let files = match &self.inputs {
            Inputs::Bytes(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_) => None,
            Inputs::Files(files) => Some(files),
        };
        let labels = (0..).zip(self.labels());
        files.into_iter().flat_map(move |files| labels.clone().map(|(sample, &label)| files.path(sample, label)))
    }

    /// The bytes of all images, if they are bytes in memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.inputs {
            Inputs::Bytes(bytes) => Some(bytes),
            Inputs::Files(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_) => None,
        }
    }

    /// Cuts off a share of the samples, `round(fraction · samples)`, as a test set. It is chosen by the number of samples
    /// alone, so that it is the same in every run; both parts keep the order of the original.
    ///
    /// # Errors
    /// [`DataError::TestFraction`] unless both parts have a sample.
    pub(super) fn share(self, fraction: f64) -> Result<(Self, Self), DataError> {
        let samples = self.len();
        let held = (fraction * samples as f64).round() as usize;
        for (empty, is_empty) in [("test", held == 0), ("training", held >= samples)] {
            if is_empty {
                return Err(DataError::TestFraction { fraction, samples, empty });
            }
        }
        let order = shuffled(samples, Key::new(0).with_name("test"));
        let part = |chosen: &[u32]| {
            let mut chosen: Vec<usize> = chosen.iter().map(|&sample| sample as usize).collect();
            chosen.sort_unstable();
            self.select(&chosen)
        };
        let (held, kept) = order.split_at(held);
        Ok((part(kept), part(held)))
    }

    pub(super) fn select(&self, samples: &[usize]) -> Self {
        let features = self.shape.iter().product::<usize>();
        let inputs = match &self.inputs {
            Inputs::Bytes(bytes) => Inputs::Bytes(chosen(bytes, features, samples)),
            Inputs::Floats(values) => Inputs::Floats(chosen(values, features, samples)),
            Inputs::Files(files) => Inputs::Files(files.select(samples)),
            Inputs::Lists(lists) => Inputs::Lists(lists.select(samples.iter().copied())),
            Inputs::Text(_) => unreachable!("a text is cut, its windows are not chosen"),
        };
        Self { shape: self.shape, inputs, targets: self.targets.select(samples) }
    }
}

fn chosen<T: Copy>(from: &[T], features: usize, samples: &[usize]) -> Vec<T> {
    samples.iter().flat_map(|&s| &from[s * features..][..features]).copied().collect()
}

/// A data set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name, one of [`KNOWN`](super::KNOWN).
    pub name: String,
    /// Number of classes, every label being below it; of targets that are numbers, how many there are of each sample.
    pub classes: usize,
    /// Channels, height and width of an image.
    pub shape: [usize; 3],
    /// What is trained on.
    pub train: Arc<Split>,
    /// Held out of the training set by [`Dataset::hold_out`].
    pub validation: Option<Arc<Split>>,
    /// The test set.
    pub test: Arc<Split>,
    /// What the columns of a table became.
    pub table: Option<Arc<TableColumns>>,
    /// The names of the classes or labels of a table, in the order of their numbers.
    pub class_names: Option<Vec<String>>,
    /// How targets that are numbers were scaled, see [`Dataset::scale_targets`].
    pub target_scale: Option<TargetScale>,
    /// The symbols of a text.
    pub alphabet: Option<Alphabet>,
    /// Of samples that are lists, how features and labels are numbered.
    pub numbering: Option<Numbering>,
}

impl Dataset {
    /// Values of an image: `channels · height · width`.
    pub fn features(&self) -> usize {
        self.shape.iter().product()
    }

    /// Moves `round(fraction · samples)` training samples, chosen by `seed`, to [`Dataset::validation`]. Both parts
    /// keep the order of the original. Of a text it is the end of what is trained on, as many tokens as the fraction is of the whole
    /// text. A fraction of 0 holds nothing out.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `0 <= fraction < 1` and both parts have a sample; [`DataError::Text`] if a part is too short: what
    /// is left for training must have a whole window.
    pub fn hold_out(&mut self, fraction: f64, seed: u64) -> Result<(), DataError> {
        if let Inputs::Text(text) = &self.train.inputs {
            let (train, validation) = text.cut(fraction);
            if fraction != 0.0 {
                self.validation = Some(Arc::new(Split::of_text(validation.checked("validation")?)));
            }
            self.train = Arc::new(Split::of_text(train.for_training()?));
            return Ok(());
        }
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

    /// Gives each target of a regression mean 0 and deviation 1 in the training set (without samples held out), whatever its
    /// units; or scales as a model does that was trained so. Data with classes stays as it is.
    pub fn scale_targets(&mut self, trained: Option<&TargetScale>) {
        let Targets::Numbers { outputs, values } = &self.train.targets else { return };
        let of = |output: usize| value_moments(values.iter().skip(output).step_by(*outputs).copied());
        let scale = trained.cloned().unwrap_or_else(|| {
            let (mean, deviation) = (0..*outputs).map(of).unzip();
            TargetScale { mean, deviation }
        });
        let validation = self.validation.iter_mut();
        for split in [&mut self.train, &mut self.test].into_iter().chain(validation) {
            let Targets::Numbers { outputs, values } = &mut Arc::make_mut(split).targets else { continue };
            for (i, value) in values.iter_mut().enumerate() {
                let output = i % *outputs;
                *value = ((f64::from(*value) - scale.mean[output]) / scale.deviation[output]) as f32;
            }
        }
        self.target_scale = Some(scale);
    }

    /// A sum over all samples, in the order in which they are used. Equal data sets have equal sums, wherever they were
    /// read from. Of files, their folders, names and sizes stand for the samples.
    pub fn sha256(&self) -> String {
        let mut sum = Sha256::new();
        for split in [Some(&self.train), self.validation.as_ref(), Some(&self.test)].into_iter().flatten() {
            sum.update((split.len() as u64).to_le_bytes());
            match (&split.inputs, &split.targets) {
                (Inputs::Files(files), _) => files.digest(split.labels(), &mut sum),
                (Inputs::Text(text), _) => {
                    sum.update((text.tokens().len() as u64).to_le_bytes());
                    add_words(&mut sum, text.tokens(), u16::to_le_bytes);
                }
                (Inputs::Bytes(bytes), Targets::Classes(classes)) => {
                    sum.update(bytes);
                    // No set of bytes has more classes than a byte can tell apart.
                    sum.update(classes.iter().map(|&label| label as u8).collect::<Vec<_>>());
                }
                (inputs, targets) => {
                    match inputs {
                        Inputs::Bytes(bytes) => sum.update(bytes),
                        Inputs::Floats(values) => add_words(&mut sum, values, |value| value.to_le_bytes()),
                        Inputs::Lists(lists) => lists.digest(&mut sum),
                        Inputs::Files(_) | Inputs::Text(_) => {}
                    }
                    match targets {
                        Targets::Classes(classes) => add_words(&mut sum, classes, |class| class.to_le_bytes()),
                        Targets::Numbers { values, .. } => add_words(&mut sum, values, |value| value.to_le_bytes()),
                        Targets::Labels(labels) => labels.digest(&mut sum),
                    }
                }
            }
        }
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// How its values become inputs, by the training set (without those held out). Files are not read for this: of them,
    /// all but [`Normalize::PerImage`] and [`Normalize::None`] gives the channels' figures of ImageNet. A column that stands
    /// for a word of a table stays 0 or 1. Tokens and lists are not normalised, whatever is asked for.
    pub fn normalization(&self, normalize: Normalize) -> Normalization {
        match (normalize, &self.train.inputs) {
            (Normalize::None, _) | (_, Inputs::Text(_) | Inputs::Lists(_)) => {
                Normalization::Pixels { mean: 0.0, deviation: 1.0 }
            }
            (Normalize::PerImage, _) => Normalization::PerImage,
            (_, Inputs::Files(_)) => Normalization::of_imagenet(),
            (Normalize::Pixels, Inputs::Bytes(bytes)) => Normalization::of_pixels(bytes),
            (Normalize::Channels, Inputs::Bytes(bytes)) => Normalization::of_channels(bytes, self.shape),
            (Normalize::Features, Inputs::Bytes(bytes)) => {
                let values: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
                Normalization::of_features(&values, self.features(), |_| false)
            }
            (Normalize::Pixels, Inputs::Floats(values)) => Normalization::of_values(values),
            (Normalize::Channels, Inputs::Floats(values)) => Normalization::of_value_channels(values, self.shape),
            (Normalize::Features, Inputs::Floats(values)) => {
                let is_word = |feature: usize| self.table.as_ref().is_some_and(|table| table.is_word(feature));
                Normalization::of_features(values, self.features(), is_word)
            }
        }
    }

    /// Whether its pictures are files, of which any may turn out to be broken.
    pub fn is_files(&self) -> bool {
        matches!(self.train.inputs, Inputs::Files(_))
    }
}

/// A sum over the samples in memory that does not depend on their order: of the training and of the test set, the sum
/// modulo 2^128 of the first 16 bytes, little-endian, of SHA-256 of each record, label then pixels. So files that hold a
/// data set in another order or otherwise compressed are recognized.
pub fn content_sums(data: &Dataset) -> [u128; 2] {
    [&data.train, &data.test].map(|split| {
        let features = split.shape.iter().product::<usize>().max(1);
        let records = split.bytes().unwrap_or_default().chunks(features).zip(split.labels());
        records.fold(0u128, |sum, (pixels, &label)| {
            let digest = Sha256::new().chain_update([label as u8]).chain_update(pixels).finalize();
            let first = digest.first_chunk().expect("SHA-256 has 32 bytes");
            sum.wrapping_add(u128::from_le_bytes(*first))
        })
    })
}

fn add_words<T: Copy, const N: usize>(sum: &mut Sha256, words: &[T], bytes: impl Fn(T) -> [u8; N]) {
    for part in words.chunks(4096) {
        sum.update(part.iter().flat_map(|&word| bytes(word)).collect::<Vec<u8>>());
    }
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
