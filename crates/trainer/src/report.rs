//! What a person sees while a run goes on and at its end, and the records that a machine reads.
//!
//! Standard output carries results only: a table, or with `--json` one object a line. Progress goes to standard
//! error: a bar on a terminal, a line an epoch elsewhere, nothing with `--json`.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Sizes for people: `300×784`.
pub fn dimensions(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Writes one record as a line of standard output, at once.
///
/// # Errors
/// As [`print_text`].
pub fn print_record(record: &impl Serialize) -> io::Result<()> {
    print_text(serde_json::to_string(record)?)
}

/// Writes text and the end of its line to standard output, at once.
///
/// # Errors
/// What the stream reports, with its name; a closed pipe is an error, not a panic.
pub fn print_text(text: impl fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| io::Error::new(error.kind(), format!("standard output: {error}")))
}

/// Where training stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Status {
    /// Steps done.
    pub step: u64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Share of right answers in the epoch so far, where there are classes.
    pub accuracy: Option<f64>,
    /// Samples trained on in a second.
    pub samples_per_second: f64,
    /// nnz / size of the sparse layers.
    pub density: f64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, accuracy, samples_per_second, density, .. } = self;
        write!(f, "loss {loss:.4}")?;
        if let Some(accuracy) = accuracy {
            write!(f, " accuracy {:.2}%", 100.0 * accuracy)?;
        }
        write!(f, " {samples_per_second:.0} samples/s density {}", Significant(*density))
    }
}

/// Progress of a run on standard error.
#[derive(Debug)]
pub enum Progress {
    /// A terminal.
    Bar(ProgressBar),
    /// A file or a pipe.
    Lines {
        /// Steps of the run.
        total_steps: u64,
    },
    /// With `--json`.
    Silent,
}

impl Progress {
    /// The kind that suits standard error, or none with `json`.
    pub fn new(total_steps: u64, json: bool) -> Self {
        if json {
            Self::Silent
        } else if io::stderr().is_terminal() {
            // Fits 80 columns.
            let style = ProgressStyle::with_template("{bar:8} {pos}/{len} {wide_msg} {eta}");
            Self::Bar(ProgressBar::new(total_steps).with_style(style.expect("the template is fixed")))
        } else {
            Self::Lines { total_steps }
        }
    }

    /// Shows where training stands; cheap enough for every step, since the bar draws at most 20 times a second.
    pub fn step(&self, status: &Status) {
        if let Self::Bar(bar) = self {
            bar.set_position(status.step);
            bar.set_message(status.to_string());
        }
    }

    /// Leaves a line about an epoch that is over: `status` of the whole epoch and `more` (validation results, or
    /// nothing).
    pub fn epoch(&self, epoch: u64, status: &Status, more: &str) {
        let separator = if more.is_empty() { "" } else { "  " };
        match self {
            Self::Bar(bar) => bar.println(format!("epoch {epoch}  {status}{separator}{more}")),
            Self::Lines { total_steps } => {
                let step = status.step;
                // Progress is no reason to fail when nobody reads it.
                let _ = writeln!(io::stderr(), "epoch {epoch}  step {step}/{total_steps}  {status}{separator}{more}");
            }
            Self::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// A number with three significant digits, without an exponent from 0.0001 on.
#[derive(Debug, Clone, Copy)]
pub struct Significant(pub f64);

impl fmt::Display for Significant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        let text = if value == 0.0 || !value.is_finite() {
            value.to_string()
        } else if value.abs() < 1e-4 {
            format!("{value:.2e}")
        } else {
            // The exponent after rounding: 0.9996 has the digits of 1.00.
            let rounded = format!("{value:.2e}");
            let exponent: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
            format!("{value:.*}", (2 - exponent).max(0) as usize)
        };
        f.pad(&text)
    }
}

/// Rows of text under headings: the first column at the left, the others, numbers, at the right.
///
/// ```
/// use trainer::report::Table;
/// let mut table = Table::new(["layer", "density", "nnz"]);
/// table.row(["fc1", "0.0796", "18715"]);
/// table.row(["fc3", "1.00", "1000"]);
/// assert_eq!(table.to_string(), "\
/// layer  density    nnz
/// ─────  ───────  ─────
/// fc1     0.0796  18715
/// fc3       1.00   1000
/// ");
/// ```
#[derive(Debug, Clone)]
pub struct Table<const COLUMNS: usize> {
    headings: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub fn new(headings: [&'static str; COLUMNS]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [impl Into<String>; COLUMNS]) {
        self.rows.push(cells.map(Into::into));
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: &str| text.chars().count();
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| width(&row[column]));
            cells.chain([width(self.headings[column])]).max().unwrap_or(0)
        });
        let mut line = |cells: [&str; COLUMNS]| {
            for (column, (cell, width)) in cells.into_iter().zip(widths).enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)
        };
        line(self.headings)?;
        let rules = widths.map(|width| "─".repeat(width));
        line(std::array::from_fn(|column| rules[column].as_str()))?;
        self.rows.iter().try_for_each(|row| line(std::array::from_fn(|column| row[column].as_str())))
    }
}

/// A number of nanoseconds for people.
pub(crate) fn nanoseconds_text(ns: u64) -> String {
    let (value, unit) = match ns {
        0..10_000 => (ns as f64, "ns"),
        10_000..10_000_000 => (ns as f64 / 1e3, "µs"),
        _ => (ns as f64 / 1e6, "ms"),
    };
    format!("{} {unit}", Significant(value))
}

/// A number of bytes for people.
pub(crate) fn gibibytes(bytes: usize) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits() {
        for (value, text) in [
            (0.1, "0.100"),
            (0.079_57, "0.0796"),
            (0.9996, "1.00"),
            (0.0, "0"),
            (1.0, "1.00"),
            (12345.0, "12345"),
            (99.95, "100"),
            (0.000_123_45, "0.000123"),
            (0.000_012_345, "1.23e-5"),
            (-2.5, "-2.50"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(Significant(value).to_string(), text);
        }
        assert_eq!(format!("{:>8}", Significant(0.5)), "   0.500");
    }

    #[test]
    fn a_status_reads_as_a_line() {
        let status =
            Status { step: 120, loss: 0.51234, accuracy: Some(0.8567), samples_per_second: 50_123.4, density: 0.1 };
        assert_eq!(status.to_string(), "loss 0.5123 accuracy 85.67% 50123 samples/s density 0.100");
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(["size", "é"]);
        table.row(["300 × 100", "1"]);
        table.row([String::from("x"), "22".to_owned()]);
        assert_eq!(table.to_string(), "size        é\n─────────  ──\n300 × 100   1\nx          22\n");
    }
}
