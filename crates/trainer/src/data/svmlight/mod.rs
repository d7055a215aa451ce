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
//! LIBSVM and svmlight have it, or from 0 if some file has a feature 0. A file is read line by line; `.gz` and `.xz` are unfolded first.

mod error;
mod generate;
mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Reads samples with their test set; for a model that was trained on others, with its numbers of features and labels.
///
/// # Errors
/// [`DataError`] naming the file and the line.
pub fn load(options: &SvmlightOptions, trained: Option<[usize; 2]>) -> Result<Dataset, DataError> {
    let train = read(&options.samples)?;
    let test = options.test.as_deref().map(read).transpose()?;
    let files: Vec<&Numbered> = [Some(&train), test.as_ref()].into_iter().flatten().collect();
    // Without headers, a feature 0 in either file says how both are numbered.
    let from_0 = files.iter().any(|file| file.has_header || file.has_feature_0);
    let most = |of: fn(&Numbered) -> usize| files.iter().map(|file| of(file)).max().unwrap_or(0);
    let features = most(|file| file.features) - usize::from(!from_0);
    let found = [features, most(|file| file.labels)];
    let [features, labels] = trained.unwrap_or(found);
    for (what, known, found, file) in [("feature", features, found[0], 0), ("label", labels, found[1], 1)] {
        if found > known {
            let file = if file == 0 { &options.samples } else { options.test.as_ref().unwrap_or(&options.samples) };
            return Err(SvmlightError::Unknown { file: file.clone(), what, last: found - 1, known }.into());
        }
    }
    let split = |file: Numbered| -> Result<Split, DataError> {
        let inputs = file.inputs.shifted(u32::from(!from_0)).with_columns(features);
        let targets = Targets::Labels(file.targets.with_columns(labels));
        Ok(Split { shape: [1, 1, features], inputs: Inputs::Lists(inputs), targets })
    };
    let train = split(train)?;
    let (train, test) = match test {
        Some(test) => (train, split(test)?),
        None => train.share(options.test_fraction)?,
    };
    Ok(Dataset {
        name: SVMLIGHT.to_owned(),
        classes: labels,
        shape: train.shape,
        train: Arc::new(train),
        validation: None,
        test: Arc::new(test),
        table: None,
        class_names: None,
        target_scale: None,
        alphabet: None,
    })
}

/// Features and labels of what is in a file, plain or compressed, numbered as in the file.
///
/// # Errors
/// [`DataError`] naming `file` and the line.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<[Lists; 2], DataError> {
    let Numbered { inputs, targets, .. } = read::parse(file, bytes)?;
    Ok([inputs, targets])
}

/// The samples of a file for a model that reads so many features.
///
/// # Errors
/// [`DataError`] naming the file and the line.
pub fn read_samples(file: &Path, features: usize) -> Result<Lists, DataError> {
    let numbered = read(file)?;
    let from_0 = numbered.has_header || numbered.has_feature_0;
    let found = numbered.features - usize::from(!from_0);
    if found > features {
        let (file, last) = (file.to_owned(), found - 1);
        return Err(SvmlightError::Unknown { file, what: "feature", last, known: features }.into());
    }
    Ok(numbered.inputs.shifted(u32::from(!from_0)).with_columns(features))
}
