//! Samples of few features among very many, with any number of labels: bags of words, products that are bought together.
//!
//! A file is text, a sample in each line: its labels, separated by commas, then `feature:value` pairs.
//!
//! ```text
//! 3 7 4                      optional: samples, features, labels (the extreme classification repository's header)
//! 0,2 1:0.5 4:1 6:0.25
//! 3 0:1
//!  2:0.5 3:0.5               a sample without labels begins with a space
//! ```
//!
//! With the header line, features and labels are numbered from 0. Without it, labels are numbered from 0 and features from 1, as
//! LIBSVM and svmlight have it, or from 0 if a feature 0 occurs, in either file. A test set without a header is numbered as the training set
//! is, and what a model predicts as what it was trained on. A file is read line by line; `.gz` and `.xz` are unfolded first.

mod error;
mod generate;
mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Inputs, Split};
use super::error::DataError;
use super::lists::Lists;
use super::targets::Targets;

pub use error::SvmlightError;
pub use generate::{GenerateOptions, generate};
use read::{Numbered, read};

/// The name of the data set that is such files.
pub const SVMLIGHT: &str = "svmlight";

/// Which files.
#[derive(Debug, Clone, PartialEq)]
pub struct SvmlightOptions {
    /// What is trained on.
    pub samples: PathBuf,
    /// The test set, if it is a file of its own.
    pub test: Option<PathBuf>,
    /// Else the share of the samples that it is.
    pub test_fraction: f64,
}

/// How a model's features and labels are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbering {
    /// Features there are.
    pub features: usize,
    /// Labels there are.
    pub labels: usize,
    /// The number of the first feature in files without a header: 0 or 1.
    pub first_feature: u32,
}

/// Reads samples with their test set; for a model that was trained on others, with its numbering. How features are numbered comes with
/// the data set.
///
/// # Errors
/// [`DataError`] naming the file and the line.
pub fn load(options: &SvmlightOptions, trained: Option<Numbering>) -> Result<Dataset, DataError> {
    let train = read(&options.samples)?;
    let test = options.test.as_deref().map(|file| Ok::<_, DataError>((file, read(file)?))).transpose()?;
    let files = || [Some(&train), test.as_ref().map(|(_, test)| test)].into_iter().flatten();
    // A file without a header is numbered as the training file is; of such files, either may have a feature 0.
    let from_0 = train.has_header || files().any(|file| !file.has_header && file.has_feature_0);
    let first_feature = trained.map_or(u32::from(!from_0), |numbering| numbering.first_feature);
    let numbering = trained.unwrap_or_else(|| Numbering {
        features: files().map(|file| file.features - file.first(first_feature) as usize).max().unwrap_or(0),
        labels: files().map(|file| file.labels).max().unwrap_or(0),
        first_feature,
    });
    let split = |path: &Path, file: Numbered| -> Result<Split, DataError> {
        let [inputs, labels] = file.numbered(path, numbering)?;
        let (inputs, targets) = (Inputs::Lists(inputs), Targets::Labels(labels));
        Ok(Split { shape: [1, 1, numbering.features], inputs, targets })
    };
    let train = split(&options.samples, train)?;
    let (train, test) = match test {
        Some((path, test)) => (train, split(path, test)?),
        None => train.share(options.test_fraction)?,
    };
    let data = Dataset {
        name: SVMLIGHT.to_owned(),
        classes: numbering.labels,
        shape: train.shape,
        train: Arc::new(train),
        validation: None,
        test: Arc::new(test),
        table: None,
        class_names: None,
        target_scale: None,
        alphabet: None,
        numbering: Some(numbering),
    };
    Ok(data)
}
/// Features and labels of what is in a file, plain or compressed, numbered as in the file.
///
/// # Errors
/// [`DataError`] naming `file` and the line.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<[Lists; 2], DataError> {
    let Numbered { inputs, targets, .. } = read::parse(file, bytes)?;
    Ok([inputs, targets])
}

/// The features of a file's samples, for a model of this numbering.
///
/// # Errors
/// [`DataError`] naming the file and the line.
pub fn read_samples(file: &Path, numbering: Numbering) -> Result<Lists, DataError> {
    let labels = usize::MAX;
    let [inputs, _] = read(file)?.numbered(file, Numbering { labels, ..numbering })?;
    Ok(inputs)
}

impl Numbered {
    /// The number of the first feature in this file.
    fn first(&self, without_header: u32) -> u32 {
        if self.has_header { 0 } else { without_header }
    }

    /// Features and labels, numbered from 0.
    fn numbered(self, path: &Path, numbering: Numbering) -> Result<[Lists; 2], SvmlightError> {
        let first = self.first(numbering.first_feature);
        let unknown = |what, last: usize, known: usize, first: u32| {
            let (file, first) = (path.to_owned(), first as usize);
            Err(SvmlightError::Unknown { file, what, last, known, first })
        };
        if first > 0 && self.has_feature_0 {
            return unknown("feature", 0, numbering.features, first);
        }
        if self.features > numbering.features + first as usize {
            return unknown("feature", self.features - 1, numbering.features, first);
        }
        if self.labels > numbering.labels {
            return unknown("label", self.labels - 1, numbering.labels, 0);
        }
        Ok([self.inputs.shifted(first).with_columns(numbering.features), self.targets.with_columns(numbering.labels)])
    }
}
