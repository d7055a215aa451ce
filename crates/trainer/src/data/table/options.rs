//! What is asked for of a table.

use std::path::PathBuf;

use super::columns::Missing;
use crate::task::LossKind;

/// Where a table is, and what its columns are.
#[derive(Debug, Clone, PartialEq)]
pub struct TableOptions {
    /// The file.
    pub table: PathBuf,
    /// The file of the test set, if it has one.
    pub test_table: Option<PathBuf>,
    /// The share of the rows that is the test set where there is no file and no array of it.
    pub test_fraction: f64,
    /// Names of the targets.
    pub targets: Vec<String>,
    /// Names of the features; if none are given, all columns but the targets.
    pub features: Vec<String>,
    /// Names of columns that are left out.
    pub dropped: Vec<String>,
    /// What is done about missing values.
    pub missing: Missing,
    /// Whether columns of text become inputs.
    pub one_hot: bool,
    /// What the targets are for.
    pub loss: LossKind,
}
