//! Why a comparison cannot be made.

use std::io;
use std::path::PathBuf;

use crate::error::{Kind, Kinded};
use crate::figure::DrawingError;
use crate::settings::error::ConfigError;

/// Why a comparison or a report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComparisonError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A description or the settings of a run cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A part of a description is impossible.
    #[error("{place}: {value} is invalid; it must be {rule}")]
    Value {
        /// Option, key or table.
        place: String,
        /// What was given.
        value: String,
        /// What would be valid.
        rule: String,
    },
    /// An option or key of `rigl train` that a comparison sets itself.
    #[error("{place}: a comparison does not take {key}; use {instead}")]
    Instead {
        /// Command line or table.
        place: String,
        /// The option or key.
        key: String,
        /// What to use instead.
        instead: &'static str,
    },
    /// Two lines of the comparison would be the same runs.
    #[error("{first} and {second} are the same runs; remove one, or give them different settings")]
    Same {
        /// Arm and density.
        first: String,
        /// Arm and density.
        second: String,
    },
    /// A run's folder holds a run with other settings.
    #[error(
        "{}: holds a run with other settings ({differences}); choose another folder with --out, or remove that one",
        path.display()
    )]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// What differs: key, there, here.
        differences: String,
    },
    /// Another process is running this comparison.
    #[error("{}: another process is working on this comparison; wait for it, or stop it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or file cannot be written.
    #[error("out: {}: {source}; choose a writable folder", path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is nothing to report.
    #[error("{}: no run has finished", path.display())]
    NothingFinished {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a run or a comparison.
    #[error("{}: holds neither a run (config.toml) nor a comparison (comparison.toml)", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A plot could not be drawn.
    #[error(transparent)]
    Drawing(#[from] DrawingError),
    /// Some runs failed; the others are reported.
    #[error(
        "{failed} of {total} runs failed; see the messages above. Retry them with the same command, or with rigl compare \
         --resume {}", out.display()
    )]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        total: usize,
        /// The comparison's folder.
        out: PathBuf,
    },
    /// The comparison was asked to stop.
    #[error("interrupted with {finished} of {total} runs finished; continue with: rigl compare --resume {}", out.display())]
    Interrupted {
        /// Finished runs.
        finished: usize,
        /// Of how many.
        total: usize,
        /// The comparison's folder.
        out: PathBuf,
    },
}

impl Kinded for ComparisonError {
    fn kind(&self) -> Kind {
        match self {
            Self::Interrupted { .. } => Kind::Interrupted,
            Self::Drawing(_) | Self::Failed { .. } | Self::NothingFinished { .. } => Kind::Failure,
            _ => Kind::Usage,
        }
    }
}
