//! The checkpoints of a run, and the model in the newest one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::{Kind, Kinded};
use crate::models::StoredModel;

/// The folder of a run's checkpoints of steps, in the run's.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The checkpoint of a run's end, in its folder.
pub(crate) const FINAL: &str = "checkpoint.safetensors";
/// The checkpoint of the best epoch.
pub(crate) const BEST: &str = "best.safetensors";

/// Why a run's checkpoints cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The run has no checkpoint yet, or none that can be read.
    #[error("{} has no readable checkpoint{}", path.display(), list(damaged))]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
        /// What is wrong with those that are there.
        damaged: Vec<CheckpointError>,
    },
    /// The run kept no best checkpoint.
    #[error("{} has no {BEST}: the run was not trained with --keep-best, or no epoch is over", path.display())]
    NoBest {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Kinded for FindError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoCheckpoint { .. } | Self::NoBest { .. } => Kind::Usage,
            Self::Io { .. } => Kind::Failure,
            Self::Checkpoint(error) => error.kind(),
        }
    }
}

fn list(damaged: &[CheckpointError]) -> String {
    damaged.iter().map(|error| format!("; {error}")).collect()
}

/// A checkpoint of a run.
#[derive(Debug)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub checkpoint: Checkpoint,
}

/// A checkpoint that cannot be used, and why.
#[derive(Debug)]
pub struct Unusable {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: CheckpointError,
}

/// The newest checkpoint of the run in `folder` that is whole, if there is one, and those newer than it that are not.
///
/// # Errors
/// If the folder cannot be read, or a checkpoint is whole and of another version of this crate.
pub fn newest_checkpoint(folder: &Path) -> Result<(Option<Found>, Vec<Unusable>), FindError> {
    let mut unusable = Vec::new();
    for path in checkpoints(folder)? {
        match Checkpoint::load(&path) {
            Ok(checkpoint) => return Ok((Some(Found { path, checkpoint }), unusable)),
            // A run at work has removed it meanwhile.
            Err(CheckpointError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.is_version() => return Err(error.into()),
            Err(error) => unusable.push(Unusable { path, error }),
        }
    }
    Ok((None, unusable))
}

/// All checkpoints, newest first: that of the end, then those of steps.
pub(crate) fn checkpoints(folder: &Path) -> Result<Vec<PathBuf>, FindError> {
    let last = folder.join(FINAL);
    let mut paths = if last.exists() { vec![last] } else { vec![] };
    paths.extend(step_checkpoints(folder)?);
    Ok(paths)
}

/// The model of a run's newest whole checkpoint (of a folder) or of a checkpoint or model file, and that file.
///
/// # Errors
/// [`FindError`] saying what is not there or wrong.
pub fn load_model(path: &Path) -> Result<(StoredModel, PathBuf), FindError> {
    if !path.is_dir() {
        return Ok((StoredModel::load(path)?, path.to_owned()));
    }
    let (found, unusable) = newest_checkpoint(path)?;
    let Some(found) = found else {
        let damaged = unusable.into_iter().map(|unusable| unusable.error).collect();
        return Err(FindError::NoCheckpoint { path: path.to_owned(), damaged });
    };
    for Unusable { error, .. } in unusable {
        tracing::warn!("{error}; falling back to {}", found.path.display());
    }
    let model = StoredModel::from_checkpoint(&found.checkpoint).map_err(CheckpointError::in_file(&found.path))?;
    Ok((model, found.path))
}

crate::choice::choices! {
    /// Which checkpoint of a run.
    Which {
        /// The newest intact one: of a finished run, its end.
        Newest,
        /// That of the best epoch, which --keep-best keeps.
        Best,
    }
}

/// As [`load_model`], where a folder stands for the newest or the best checkpoint of its run.
///
/// # Errors
/// As [`load_model`]; [`FindError::NoBest`].
pub fn load_model_of(path: &Path, which: Which) -> Result<(StoredModel, PathBuf), FindError> {
    if which == Which::Newest {
        return load_model(path);
    }
    let best = path.join(BEST);
    if !best.is_file() {
        return Err(FindError::NoBest { path: path.to_owned() });
    }
    Ok((StoredModel::load(&best)?, best))
}

/// Newest first.
pub(crate) fn step_checkpoints(folder: &Path) -> Result<Vec<PathBuf>, FindError> {
    let folder = folder.join(CHECKPOINTS);
    let in_folder = |source| FindError::Io { path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(in_folder(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(in_folder)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse::<u64>().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
