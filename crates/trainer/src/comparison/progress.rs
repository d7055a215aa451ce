//! Where a comparison stands, on standard error: a bar on a terminal, a line a run elsewhere, nothing with `--json`.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::PlannedRun;
use super::summary::percent;
use crate::metrics::BITS;
use crate::report::Significant;

/// Progress of a comparison.
#[derive(Debug)]
pub struct ComparisonProgress {
    bar: Option<ProgressBar>,
    silent: bool,
    total: usize,
    /// Runs before the present one.
    before: usize,
    /// Warnings that were shown.
    seen: HashSet<String>,
}

/// Steps of the bar a run: runs of all lengths count alike.
const OF_RUN: u64 = 1000;

impl ComparisonProgress {
    /// Of `total` runs.
    pub fn new(total: usize, json: bool) -> Self {
        let bar = (!json && io::stderr().is_terminal()).then(|| {
            // Fits 80 columns.
            let style = ProgressStyle::with_template("{bar:8} {wide_msg} {eta}").expect("the template is fixed");
            ProgressBar::new(total as u64 * OF_RUN).with_style(style)
        });
        Self { bar, silent: json, total, before: 0, seen: HashSet::new() }
    }

    /// The `number`-th run, from 0 on, begins or goes on.
    pub fn begin(&mut self, number: usize, run: &PlannedRun) {
        self.before = number;
        if let Some(bar) = &self.bar {
            bar.set_position(number as u64 * OF_RUN);
            bar.set_message(self.message(run, ""));
        }
    }

    /// A record of the present run.
    pub fn record(&mut self, run: &PlannedRun, record: &Value) {
        let (Some(bar), Some(step)) = (&self.bar, record["step"].as_u64()) else { return };
        let share = step as f64 / run.total_steps.max(1) as f64;
        bar.set_position(self.before as u64 * OF_RUN + (OF_RUN as f64 * share.min(1.0)) as u64);
        let loss = record["train_loss"].as_f64().map_or(String::new(), |loss| format!("  loss {loss:.4}"));
        bar.set_message(self.message(run, &format!("  step {step}/{}{loss}", run.total_steps)));
    }

    /// A warning of the present run; what every run says is shown once.
    pub fn warning(&mut self, run: &PlannedRun, line: &str) {
        if self.seen.insert(line.to_owned()) {
            self.line(&format!("{}: {}", run.place.name, line.trim()));
        }
    }

    /// The present run is finished, now or before.
    pub fn finish_run(&mut self, run: &PlannedRun, record: &Value, before: bool) {
        // With validation samples, the test set is not looked at along the way.
        let (name, set) = if run.config.has_validation() { ("validation", "val") } else { ("test", "test") };
        let value = |measure: &str| record[format!("{set}_{measure}")].as_f64();
        let result = match value(BITS) {
            Some(bits) => format!("{bits:.3} bits/character"),
            None => format!("accuracy {}%", value("accuracy").map_or("–".to_owned(), percent)),
        };
        let seconds = record["train_seconds"].as_f64().map_or(String::new(), |s| format!("  {} s", Significant(s)));
        let note = if before { "  (was there)" } else { "" };
        if !self.silent {
            self.line(&format!("{}  {name} {result}{seconds}{note}", self.message(run, "")));
        }
    }

    /// The present run failed. Said with `--json` too.
    pub fn fail_run(&mut self, run: &PlannedRun, message: &str) {
        self.line(&format!("{} failed: {message}", self.message(run, "")));
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn message(&self, run: &PlannedRun, more: &str) -> String {
        format!("run {}/{}  {}{more}", self.before + 1, self.total, run.place.name)
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // Progress is no reason to fail when nobody reads it.
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }
}
