//! Why a comparison cannot be made.

use std::io;
use std::path::PathBuf;

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
    /// A file is not TOML, or has an unknown key or a value of a wrong type.
    #[error("config: {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: Box<toml::de::Error>,
    },
    /// The settings of a run cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A part of a description is impossible.
    #[error("{place}: {value} is not possible; it must be {rule}")]
    Value {
        /// Option, key or table.
        place: String,
        /// What was given.
        value: String,
        /// What would be valid.
        rule: String,
    },
    /// An option or key of `rigl train` that a comparison sets itself.
    #[error("{place}: {key} is not for a comparison; give {instead}")]
    Instead {
        /// Command line or table.
        place: String,
        /// The option or key.
        key: String,
        /// What does it here.
        instead: &'static str,
    },
    /// Two lines of the comparison would be the same runs.
    #[error("{first} and {second} are the same runs; leave one of them out, or give them settings that differ")]
    Same {
        /// Arm and density.
        first: String,
        /// Arm and density.
        second: String,
    },
    /// A run's folder holds a run of other settings.
    #[error(
        "{}: holds a run of other settings ({differences}); give another folder with --out, or remove that one",
        path.display()
    )]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// What differs: key, there, here.
        differences: String,
    },
    /// Another process makes this comparison.
    #[error("{}: another process is working on this comparison; wait for it, or stop it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A folder or file cannot be written.
    #[error("out: {}: {source}; give a folder that can be made and written", path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is nothing to report.
    #[error("{}: no run of it has finished", path.display())]
    NothingFinished {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a run or a comparison.
    #[error("{}: neither a run (config.toml) nor a comparison (comparison.toml) is in it", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
    },
    /// A plot could not be drawn.
    #[error(transparent)]
    Drawing(#[from] DrawingError),
    /// Some runs failed; the others are reported.
    #[error(
        "{failed} of {total} runs failed; what went wrong stands above. The same command, or rigl compare --resume {}, tries \
         them again", out.display()
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
    #[error("interrupted with {finished} of {total} runs finished; go on with: rigl compare --resume {}", out.display())]
    Interrupted {
        /// Runs that are finished.
        finished: usize,
        /// Of how many.
        total: usize,
        /// The comparison's folder.
        out: PathBuf,
    },
}

impl ComparisonError {
    /// Whether the command line or the files that it names must change.
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::Drawing(_) | Self::Failed { .. } | Self::Interrupted { .. } | Self::NothingFinished { .. }
        )
    }
}
