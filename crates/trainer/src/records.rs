//! Files of records: one JSON value a line.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;
use thiserror::Error;

use crate::error::{Kind, Kinded};

/// Why records cannot be read.
#[derive(Debug, Error)]
pub enum RecordsError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A line is no record.
    #[error("{}, line {line}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Kinded for RecordsError {
    fn kind(&self) -> Kind {
        if matches!(self, Self::Read { .. }) { Kind::Usage } else { Kind::Failure }
    }
}

/// What `record` makes of a file's lines, but for empty ones.
///
/// # Errors
/// If the file cannot be read, or naming the line that is no JSON or that `record` refuses.
pub fn read<T>(
    path: &Path,
    record: impl FnMut(Value) -> serde_json::Result<Option<T>>,
) -> Result<Vec<T>, RecordsError> {
    let text = fs::read_to_string(path).map_err(|source| RecordsError::Read { path: path.to_owned(), source })?;
    parse(path, &text, record)
}

/// As [`read`], of the text of a file.
pub(crate) fn parse<T>(
    path: &Path,
    text: &str,
    mut record: impl FnMut(Value) -> serde_json::Result<Option<T>>,
) -> Result<Vec<T>, RecordsError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(i, line)| {
        let parsed = serde_json::from_str(line).and_then(&mut record);
        parsed.map_err(|source| RecordsError::Line { path: path.to_owned(), line: i + 1, source })
    });
    parsed.filter_map(Result::transpose).collect()
}
