//! What can be wrong with files of samples that are lists.

use std::path::PathBuf;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvmlightError {
    /// A line is no sample.
    #[error("{}: line {line}: {what}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, with what would be right.
        what: String,
    },
    /// Not as many samples as the header says.
    #[error("{}: has {got} {}; its header says {expected}", file.display(), if *got == 1 { "sample" } else { "samples" })]
    Samples {
        /// The file.
        file: PathBuf,
        /// Of the header.
        expected: usize,
        /// Found.
        got: usize,
    },
    /// A file without samples.
    #[error("{}: has no sample; a line is LABEL,LABEL,... FEATURE:VALUE ...", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Features or labels that a model does not know.
    #[error("{}: has {what} {last}; the model knows {what}s {first} to {}", file.display(), (known + first).saturating_sub(1))]
    Unknown {
        /// The file.
        file: PathBuf,
        /// `feature` or `label`.
        what: &'static str,
        /// The last one of the file.
        last: usize,
        /// How many the model knows.
        known: usize,
        /// The number of the first one.
        first: usize,
    },
}
