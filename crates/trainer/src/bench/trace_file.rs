//! The file of `rigl bench step --trace`: steps of one rank, from which `rigl plan --ranks --trace` expects those of many.

use std::fs;
use std::path::{Path, PathBuf};

use ranks::simulate::{Ready, Step};
use serde::{Deserialize, Serialize};

use crate::atomic_file::write_atomic;

/// Steps of one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraceFile {
    /// The network.
    pub model: String,
    /// Samples that the rank computed.
    pub batch_size: usize,
    /// A step of each density.
    pub steps: Vec<TracedStep>,
}

/// A step of one density.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracedStep {
    /// As asked for.
    pub density: f64,
    /// What it took.
    pub seconds: f64,
    /// Of each gradient, in their order: seconds to the end of the backward pass, and numbers.
    pub gradients: Vec<(f64, usize)>,
}

/// A file that says nothing about this network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("cannot read {}: {message}; rigl bench step --trace writes such a file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// It is of another network or density.
    #[error("{} was recorded for {got}, not for {expected}; record it with rigl bench step --trace", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is of.
        got: String,
        /// What is asked for.
        expected: String,
    },
}

crate::error::kinded!(Usage: TraceError);

impl TracedStep {
    /// As recorded.
    pub fn new(density: f64, step: &Step) -> Self {
        let gradients = step.gradients.iter().map(|ready| (ready.before_end, ready.len)).collect();
        Self { density, seconds: step.seconds, gradients }
    }

    /// For the simulation.
    pub fn step(&self) -> Step {
        let ready = |&(before_end, len): &(f64, usize)| Ready { before_end, len };
        Step { seconds: self.seconds, gradients: self.gradients.iter().map(ready).collect() }
    }
}

impl TraceFile {
    /// Writes the file.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), TraceError> {
        let text = serde_json::to_string(self).expect("numbers and names");
        write_atomic(path, text.as_bytes()).map_err(|source| TraceError::Write { path: path.to_owned(), source })
    }

    /// The step of this network, batch size and density in a file.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn step_of(path: &Path, model: &str, batch_size: usize, density: f64) -> Result<TracedStep, TraceError> {
        let read = |message: String| TraceError::Read { path: path.to_owned(), message };
        let text = fs::read_to_string(path).map_err(|error| read(error.to_string()))?;
        let file: Self = serde_json::from_str(&text).map_err(|error| read(error.to_string()))?;
        let other = |got: String, expected: String| TraceError::Other { path: path.to_owned(), got, expected };
        if file.model != model {
            return Err(other(file.model, model.to_owned()));
        }
        if file.batch_size != batch_size {
            return Err(other(format!("batch size {}", file.batch_size), format!("batch size {batch_size}")));
        }
        let found = file.steps.iter().find(|step| (step.density - density).abs() < 1e-9);
        let all = || file.steps.iter().map(|step| step.density.to_string()).collect::<Vec<_>>().join(", ");
        found.cloned().ok_or_else(|| other(format!("density {}", all()), format!("density {density}")))
    }
}
