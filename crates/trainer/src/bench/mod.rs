//! Measuring: patterns to measure on, and timing that alternates the two sides of a comparison.

pub mod patterns;
mod profile;
mod provenance;
mod step;
mod timing;
mod trace_file;

pub use profile::{profile_table, rank_times_text};
pub use provenance::Provenance;
pub use step::StepBench;
pub use timing::{Best, alternate, peak_rss_bytes, repeat};
pub use trace_file::{TraceError, TraceFile, TracedStep};
