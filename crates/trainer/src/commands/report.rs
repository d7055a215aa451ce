//! `rigl report`: the report of runs that are there.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::comparison::{COMPARISON, ComparisonError, Definition, REPORT, Results, Summary, write_report};
use crate::report::{print_record, print_text};

const REPORT_EXAMPLES: &str = "\
Examples:
  rigl report runs/compare-lenet-300-100-fashion-mnist-mini
      writes a comparison's report again, from the runs so far
  rigl report runs/2026-11-30-* --out report --title 'First night'
      runs of rigl train, grouped by the settings in which they differ and
      averaged over seeds";

/// `rigl report`.
#[derive(Debug, Args)]
#[command(after_long_help = REPORT_EXAMPLES)]
pub struct ReportArgs {
    /// Run folders or comparison folders
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder for report.html, accuracy-flops.svg, accuracy-seconds.svg and summary.json [default: the comparison's own
    /// folder if there is just one, otherwise report]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The report's title [default: the comparison's, or the networks and data sets]
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// If a folder holds no run, none has finished, or the report cannot be written.
pub fn run(args: &ReportArgs) -> crate::Result<()> {
    let (mut results, own) = match &args.runs[..] {
        [folder] if folder.join(COMPARISON).is_file() => {
            let definition = Definition::read(&folder.join(COMPARISON))?;
            (Results::of_comparison(&definition, folder)?, folder.clone())
        }
        folders => (Results::of_folders(folders)?, PathBuf::from("report")),
    };
    if results.progress()[0] == 0 {
        return Err(ComparisonError::NothingFinished { path: args.runs[0].clone() }.into());
    }
    if let Some(title) = &args.title {
        results.title.clone_from(title);
    }
    let out = args.out.as_deref().unwrap_or(&own);
    fs::create_dir_all(out).map_err(|source| ComparisonError::Write { path: out.to_owned(), source })?;
    write_and_print(&results, out, args.json)
}

/// Writes the report into `out`, prints the summary, and says where the report is.
pub(super) fn write_and_print(results: &Results, out: &Path, json: bool) -> crate::Result<()> {
    write_report(results, out)?;
    let summary = Summary::of(results);
    if json {
        print_record(&summary)?;
    } else {
        print_text(format_args!("{}\n{summary}", summary.title))?;
        print_text(format_args!("the report is {}", out.join(REPORT).display()))?;
    }
    Ok(())
}
