//! What a person sees while a run goes on and at its end, and the records that a machine reads.
//!
//! Standard output carries results only: a table, or with `--json` one object a line. Progress goes to standard
//! error: a bar on a terminal, a line an epoch elsewhere, nothing with `--json`.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::task::loss_text;

/// Sizes for people: `300×784`.
pub fn dimensions(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Names for a message: the first ones, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let mut text = names.iter().take(MOST).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text += &format!(" and {} more", names.len() - MOST);
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// Whether this process says nothing.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on this process says nothing: another one of the same run speaks.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Whether this process says nothing.
pub fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Where log lines go: standard error, unless this process says nothing.
pub fn log_writer() -> Box<dyn Write> {
    if is_silent() { Box::new(io::sink()) } else { Box::new(io::stderr()) }
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
    if is_silent() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(output_error)
}

/// Writes a part of a text to standard output, at once.
///
/// # Errors
/// As [`print_text`].
pub fn print_part(text: &str) -> io::Result<()> {
    if is_silent() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(output_error)
}

/// An error of standard output.
#[derive(Debug, thiserror::Error)]
#[error("standard output: {0}")]
struct OutputError(io::Error);

/// The error of a write to standard output.
pub(crate) fn output_error(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), OutputError(error))
}

/// Whether a write to standard output failed.
pub(crate) fn is_of_output(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<OutputError>())
}

/// Where training stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Status {
    /// Steps done.
    pub step: u64,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Whether the samples are the symbols of a text.
    pub is_text: bool,
    /// Share of right answers in the epoch so far, where there are classes.
    pub accuracy: Option<f64>,
    /// Samples trained on in a second; of a text, symbols.
    pub samples_per_second: f64,
    /// nnz / size of the sparse layers.
    pub density: f64,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, is_text, accuracy, samples_per_second, density, .. } = *self;
        write!(f, "training {}", loss_text(loss, is_text))?;
        // Beside the bits of a text there is no room for it on a line.
        if let Some(accuracy) = accuracy.filter(|_| !is_text) {
            write!(f, " accuracy {:.2}%", 100.0 * accuracy)?;
        }
        write!(f, "  density {}  {}", Significant(density), rate_text(samples_per_second, is_text))
    }
}

/// Samples in a second for people; of a text, symbols.
pub(crate) fn rate_text(samples_per_second: f64, is_text: bool) -> String {
    format!("{samples_per_second:.0} {}/s", if is_text { "tokens" } else { "samples" })
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
        if json || is_silent() {
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

    /// Leaves a line about an epoch that is over, or more where one is too short: `status` of the whole epoch and `more`
    /// (validation and test results, or nothing).
    pub fn epoch(&self, epoch: u64, status: &Status, more: &[String]) {
        let status_text = status.to_string();
        let mut parts = vec![format!("epoch {epoch}")];
        if let Self::Lines { total_steps } = self {
            parts.push(format!("step {}/{total_steps}", status.step));
        }
        parts.extend(status_text.split("  ").map(str::to_owned));
        parts.extend_from_slice(more);
        match self {
            Self::Bar(bar) => bar.println(wrapped(&parts)),
            // Progress is no reason to fail when nobody reads it.
            Self::Lines { .. } => drop(writeln!(io::stderr(), "{}", wrapped(&parts))),
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

/// Parts of a text, two spaces apart, in lines of at most 80 columns where no part is longer. Lines after the first are indented.
pub(crate) fn wrapped(parts: &[String]) -> String {
    const COLUMNS: usize = 80;
    let (mut text, mut column) = (String::new(), 0);
    for part in parts {
        let width = part.chars().count();
        if column > 0 && column + 2 + width > COLUMNS {
            text.push('\n');
            column = 0;
        }
        if !text.is_empty() {
            text += "  ";
            column += 2;
        }
        text += part;
        column += width;
    }
    text
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
    hides_empty: bool,
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub fn new(headings: [&'static str; COLUMNS]) -> Self {
        Self { headings, hides_empty: false, rows: Vec::new() }
    }

    /// Leaves out the columns that have a value, other than `–`, in no row.
    #[must_use]
    pub fn without_empty_columns(self) -> Self {
        Self { hides_empty: true, ..self }
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
        let is_empty = |column: usize| self.rows.iter().all(|row| row[column] == "–");
        let hidden: [bool; COLUMNS] = std::array::from_fn(|column| self.hides_empty && is_empty(column));
        let mut line = |cells: [&str; COLUMNS]| {
            for (column, (cell, width)) in
                cells.into_iter().zip(widths).enumerate().filter(|(column, _)| !hidden[*column])
            {
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

/// A number of bytes for people, in the largest unit of which there is at least one.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let unit = (bytes.ilog2() as usize / 10).min(UNITS.len());
    format!("{} {}", Significant(bytes as f64 / 1024f64.powi(unit as i32)), UNITS[unit - 1])
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
        let status = Status {
            step: 120,
            loss: 0.51234,
            is_text: false,
            accuracy: Some(0.8567),
            samples_per_second: 50_123.4,
            density: 0.1,
        };
        assert_eq!(status.to_string(), "training loss 0.5123 accuracy 85.67%  density 0.100  50123 samples/s");
        let status = Status { is_text: true, ..status };
        assert_eq!(status.to_string(), "training loss 0.5123 (0.739 bits/character)  density 0.100  50123 tokens/s");
    }

    #[test]
    fn sizes_have_a_unit_that_suits_them() {
        let sizes = [0, 1023, 1024, 1500, 50_000_000, (6 << 30) + (1 << 28), 3 << 40, u64::MAX];
        let texts = ["0 B", "1023 B", "1.00 KiB", "1.46 KiB", "47.7 MiB", "6.25 GiB", "3.00 TiB", "16777216 TiB"];
        assert_eq!(sizes.map(bytes_text), texts);
    }

    #[test]
    fn columns_without_values_can_be_left_out() {
        let mut table = Table::new(["arm", "validation", "test"]).without_empty_columns();
        table.row(["a", "–", "1"]);
        table.row(["b", "–", "–"]);
        assert_eq!(table.to_string(), "arm  test\n───  ────\na       1\nb       –\n");
    }

    #[test]
    fn long_lines_go_on_in_the_next() {
        let parts = ["epoch 1", &"x".repeat(40), &"y".repeat(30), "end"].map(str::to_owned);
        let expected = format!("epoch 1  {}\n  {}  end", "x".repeat(40), "y".repeat(30));
        assert_eq!((wrapped(&parts), wrapped(&[])), (expected, String::new()));
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(["size", "é"]);
        table.row(["300 × 100", "1"]);
        table.row([String::from("x"), "22".to_owned()]);
        assert_eq!(table.to_string(), "size        é\n─────────  ──\n300 × 100   1\nx          22\n");
    }
}
