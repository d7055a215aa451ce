//! The files of a report.

use std::path::Path;

use super::charts::{Cost, accuracy_file};
use super::page::page;
use super::{ComparisonError, Results, Summary};
use crate::atomic_file::write_atomic;

/// The report itself.
pub const REPORT: &str = "report.html";

/// Writes `report.html`, `accuracy-flops.svg`, `accuracy-seconds.svg` and `summary.json` into `out`, each as a whole.
///
/// # Errors
/// If a figure cannot be drawn or a file cannot be written.
pub fn write_report(results: &Results, out: &Path) -> Result<(), ComparisonError> {
    let summary = Summary::of(results);
    let mut json = serde_json::to_string_pretty(&summary).expect("a summary is JSON");
    json.push('\n');
    let files = [
        (REPORT, page(results, &summary)?),
        ("accuracy-flops.svg", accuracy_file(results, &summary, Cost::Flops)?),
        ("accuracy-seconds.svg", accuracy_file(results, &summary, Cost::Seconds)?),
        ("summary.json", json),
    ];
    for (name, text) in files {
        let path = out.join(name);
        write_atomic(&path, text.as_bytes()).map_err(|source| ComparisonError::Write { path, source })?;
    }
    Ok(())
}
