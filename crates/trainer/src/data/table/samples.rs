//! Samples of a table's columns.

use super::super::dataset::Split;
use super::super::targets::Targets;
use super::columns::{Feature, TableColumns};
use super::error::TableError;
use super::options::TableOptions;

/// What was read of a file.
pub(super) struct Read {
    pub split: Split,
    pub outputs: usize,
    pub columns: Option<TableColumns>,
    pub classes: Option<Vec<String>>,
    /// Whether the file has a test set beside.
    pub has_test: bool,
}

/// Outputs that a network needs.
pub(super) fn outputs(targets: &Targets, classes: Option<&[String]>) -> usize {
    match (targets, classes) {
        (_, Some(classes)) => classes.len(),
        (Targets::Numbers { outputs, .. }, None) => *outputs,
        (Targets::Labels(labels), None) => labels.columns(),
        (Targets::Classes(labels), None) => labels.iter().max().map_or(0, |&most| most as usize + 1),
    }
}

/// What the columns of these names become; `words` gives those of each column that is text.
pub(super) fn columns_of(
    options: &TableOptions,
    names: &[String],
    words: impl Fn(&[usize]) -> Result<Vec<Option<Vec<String>>>, TableError>,
) -> Result<TableColumns, TableError> {
    let TableOptions { targets, features, dropped, missing, one_hot, .. } = options;
    if targets.is_empty() {
        return Err(TableError::NoTarget { columns: names.to_vec() });
    }
    places(names, targets)?;
    places(names, dropped)?;
    let chosen = places(names, features)?;
    if let Some(column) = features.iter().find(|feature| targets.contains(feature)) {
        return Err(TableError::Both { column: column.clone() });
    }
    let is_left = |&column: &usize| !targets.contains(&names[column]) && !dropped.contains(&names[column]);
    let chosen: Vec<usize> = match chosen.is_empty() {
        true => (0..names.len()).filter(is_left).collect(),
        false => chosen.into_iter().filter(is_left).collect(),
    };
    if chosen.is_empty() {
        return Err(TableError::NoFeatures { columns: names.to_vec() });
    }
    let words = if *one_hot { words(&chosen)? } else { vec![None; chosen.len()] };
    let feature = |(&column, words): (&usize, _)| Feature { name: names[column].clone(), words };
    let features = chosen.iter().zip(words).map(feature).collect();
    Ok(TableColumns { features, targets: targets.clone(), missing: *missing })
}

/// Where the columns of these names are.
pub(super) fn places(names: &[String], wanted: &[String]) -> Result<Vec<usize>, TableError> {
    let place = |column: &String| {
        let found = names.iter().position(|name| name == column);
        found.ok_or_else(|| TableError::NoColumn { column: column.clone(), columns: names.to_vec() })
    };
    wanted.iter().map(place).collect()
}
