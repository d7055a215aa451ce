//! Comparisons: methods × densities × seeds on one network and data set, and the report of them.
//!
//! ```text
//! command line, file ─ Definition ─ Plan ─ a process a run ─ run folders ─ Results ─ rows, charts, report.html
//! ```
//!
//! A [`Definition`] says what is compared and is what `comparison.toml` holds; a [`Plan`] is its runs with all their
//! settings. [`Results`] know run folders only, so that a report can be made again at any time, of any runs.

mod charts;
mod child;
mod definition;
mod error;
mod heat_map;
mod page;
mod plan;
mod progress;
mod report_files;
mod results;
mod run_folder;
mod score;
mod statistics;
mod summary;
#[cfg(test)]
mod testing;

pub use child::{Outcome, Said, failure_of, run_child};
pub use definition::{Arm, Asked, COMPARISON, Definition, PlannedName, Published, Seeds, failure_file, settings_file};
pub use error::ComparisonError;
pub use plan::{Plan, PlannedRun, RunState};
pub use progress::ComparisonProgress;
pub use report_files::{REPORT, write_report};
pub use results::{Group, GroupRun, Reference, Results};
pub use run_folder::{DoneValues, EpochValues, Machine, RunFolder};
pub use score::{Measure, RankedOn, Ranking};
pub use statistics::Sample;
pub use summary::{PublishedRow, Row, Summary};
