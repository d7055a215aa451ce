//! `rigl compare`: several methods, densities and seeds, a process for each run, and the report of them.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::report::write_and_print;
use crate::atomic_file::write_atomic;
use crate::comparison::{
    Asked, COMPARISON, ComparisonError, ComparisonProgress, Definition, EpochValues, Outcome, Plan, PlannedRun,
    Results, RunFolder, RunState, Said, Seeds, failure_file, failure_of, run_child, settings_file, write_report,
};
use crate::interrupt::Interrupt;
use crate::launch;
use crate::metrics::BITS;
use crate::models::parse_density;
use crate::report::print_record;
use crate::settings::error::ConfigError;
use crate::settings::{RESUMABLE, TrainOptions};

const HEADING: &str = "Comparison";

const COMPARE_EXAMPLES: &str = "\
Examples:
  rigl compare
      dense, static, set and rigl at density 0.1, three seeds each, on the
      embedded images
  rigl compare --methods static,rigl,small-dense --densities 0.1,0.02 --seeds 5
      includes a dense network as large as the sparse one; five seeds,
      starting at --seed (0)
  rigl compare --data mnist --data-dir ~/data --seeds 0,5,7 --out runs/mnist
      specific seeds; any option of rigl train applies to all runs
  rigl compare --val-fraction 0.1
      ranks by validation accuracy; the test set has no part in the ranking
  rigl compare --config experiments/lenet-fashion-mnist.toml --epochs 1
      an experiment from a file, with its published numbers, shortened by the
      command line
  rigl compare --resume runs/mnist
      continue after Ctrl-C; repeating the original command does the same

A file for --config:
  title = \"LeNet-300-100\"
  source = \"where it is published\"   # with notes = \"...\": text for the report
  [settings]                          # as for rigl train --config
  epochs = 10
  [compare]
  densities = [0.1, 0.02]
  seeds = 3                           # or a list: [0, 5, 7]
  [[arm]]                             # one per line of the comparison
  name = \"rigl\"
  method = \"rigl\"
  [[arm]]
  name = \"rigl, often\"
  method = \"rigl\"
  update-interval = 50                # any setting that differs
  densities = [0.1]                   # default: those of [compare]
  [[published]]                       # shown beside ours in table and report
  arm = \"rigl\"
  density = 0.1
  accuracy = 0.89
  deviation = 0.003                   # optional, like source and note

A comparison's folder: comparison.toml (what is compared; --config repeats
it), runs/ARM-dDENSITY-sSEED (a folder per run, like rigl train's),
report.html, accuracy-flops.svg, accuracy-seconds.svg, summary.json. A run
that already exists with the same settings is reused, so seeds, densities and
methods can be added later.";

/// `rigl compare`.
#[derive(Debug, Args)]
#[command(
    after_long_help = COMPARE_EXAMPLES,
    mut_arg("method", |arg| arg.hide(true)),
    mut_arg("density", |arg| arg.hide(true)),
    mut_arg("sparsity", |arg| arg.hide(true)),
    mut_arg("seed", |arg| {
        arg.help("The first seed, if --seeds is a number; a seed gives all methods the same initial weights, order of \
                  the data and, at one density, first connections [default: 0]")
    }),
    mut_arg("threads", |arg| arg.help("Threads of each run; runs follow one another [default: one per core]")),
    mut_arg("out", |arg| {
        arg.help("Folder for the runs and the report [default: runs/compare-MODEL-DATA, of a file runs/NAME]; what it holds of \
                  the same comparison is gone on with")
    }),
)]
pub struct CompareArgs {
    /// Methods: those of rigl train; small-dense, a dense network as large as the sparse one; big-sparse, rigl on a
    /// network as large as the dense one (counting the paper's format, with one bit per position of a sparse layer).
    /// With a file, its arms of these names [default: dense,static,set,rigl; all arms of a file]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = HEADING)]
    pub methods: Option<Vec<String>>,
    /// Densities, each in (0, 1]; the method dense runs once per seed, at density 1 [default: 0.1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', value_parser = parse_density, help_heading = HEADING)]
    pub densities: Option<Vec<f64>>,
    /// Number of seeds, starting at --seed, or a comma-separated list [default: 3]
    #[arg(long, value_name = "N|SEED,...", help_heading = HEADING)]
    pub seeds: Option<Seeds>,
    /// TOML file that describes the comparison; the command line overrides it
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub config: Option<PathBuf>,
    /// Resume the comparison in this folder; only --threads, --loader-threads, --device, --data-dir,
    /// --checkpoint-every, --keep-checkpoints, --log and --json may change
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "methods", "densities", "seeds"],
        help_heading = HEADING)]
    pub resume: Option<PathBuf>,
    /// Start each run with this command, such as "mpirun -n 4". Needs a program built with --features mpi
    #[arg(long, value_name = "COMMAND", help_heading = HEADING)]
    pub launcher: Option<String>,
    /// Settings of all runs.
    #[command(flatten)]
    pub options: TrainOptions,
}

impl CompareArgs {
    /// What is asked for.
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked {
            methods: self.methods.as_deref(),
            densities: self.densities.as_deref(),
            seeds: self.seeds.as_ref(),
            config: self.config.as_deref(),
            resume: self.resume.as_deref(),
            options: &self.options,
        }
    }
}

const LOCK: &str = ".lock";

/// Runs the command.
///
/// # Errors
/// If the comparison is impossible, some run failed, it was interrupted, or its folder cannot be written.
pub fn run(args: &CompareArgs) -> crate::Result<()> {
    launch::launches("compare")?;
    let data_dir = std::env::var_os("RIGL_DATA_DIR").map(Into::into);
    let (definition, out) = Definition::resolve(&args.asked())?;
    let interrupt = Interrupt::install()?;
    let Plan { definition, runs } = Plan::new(definition, &settings_given(args), data_dir)?;
    let _lock = open(&out)?;
    // What does not fit is refused before anything is run.
    let states = runs.iter().map(|run| run.state(&out, args.launcher.is_some())).collect::<Result<Vec<_>, _>>()?;
    write(&out.join(COMPARISON), &definition.to_toml()?)?;

    let json = args.options.json.unwrap_or(false);
    let mut progress = ComparisonProgress::new(runs.len(), json);
    let launcher = args.launcher.as_deref();
    let parts = Parts { definition: &definition, runs: &runs, out: &out, interrupt: &interrupt, json, launcher };
    let made = make_runs(&parts, &states, &mut progress);
    progress.finish();
    let failed = made?;
    write_and_print(&Results::of_comparison(&definition, &out)?, &out, json)?;
    match failed {
        0 => Ok(()),
        failed => Err(ComparisonError::Failed { failed, total: runs.len(), out }.into()),
    }
}

/// What the runs of a comparison are made with.
struct Parts<'p> {
    definition: &'p Definition,
    runs: &'p [PlannedRun],
    out: &'p Path,
    interrupt: &'p Interrupt,
    json: bool,
    launcher: Option<&'p str>,
}

/// Makes the runs that are not finished, one after the other; returns how many failed.
fn make_runs(parts: &Parts<'_>, states: &[RunState], progress: &mut ComparisonProgress) -> crate::Result<usize> {
    let &Parts { definition, runs, out, interrupt, json, launcher } = parts;
    let mut failed = 0;
    for (number, (run, &state)) in runs.iter().zip(states).enumerate() {
        progress.begin(number, run);
        if interrupt.requested() {
            return Err(interrupted(definition, out)?.into());
        }
        if state != RunState::Finished {
            let [settings, failure] = [settings_file, failure_file].map(|file| file(out, &run.place.name));
            write(&settings, &run.config_in(out).to_toml()?)?;
            // Of an earlier time.
            let _ = fs::remove_file(&failure);
            let outcome = run_child(launcher, &arguments(run, state, &settings, out)?, interrupt, |said| match said {
                Said::Record(record) => progress.record(run, &record),
                Said::Log(line) if failure_of(&line).is_some() || line.starts_with("interrupted ") => {}
                Said::Log(line) => progress.warning(run, &line),
            })?;
            match outcome {
                Outcome::Finished => {}
                Outcome::Interrupted => return Err(interrupted(definition, out)?.into()),
                Outcome::Failed(message) => {
                    failed += 1;
                    progress.fail_run(run, &message);
                    write(&failure, &message)?;
                    continue;
                }
            }
        }
        let record = done_record(run, definition, out)?;
        progress.finish_run(run, &record, state == RunState::Finished);
        if json {
            print_record(&record)?;
        }
        // For those who look at it in the night.
        write_report(&Results::of_comparison(definition, out)?, out)?;
    }
    Ok(failed)
}

fn write(path: &Path, text: &str) -> Result<(), ComparisonError> {
    write_atomic(path, text.as_bytes()).map_err(|source| ComparisonError::Write { path: path.to_owned(), source })
}

/// The settings of the command line that concern single runs, and so must have an effect on one.
fn settings_given(args: &CompareArgs) -> TrainOptions {
    TrainOptions { out: None, json: None, seed: None, ..args.options.clone() }
}

/// The comparison's folder, with this process's hold on it.
fn open(out: &Path) -> Result<File, ComparisonError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        |source| ComparisonError::Write { path, source }
    };
    let settings = settings_file(out, "any");
    let folder = settings.parent().unwrap_or(out);
    fs::create_dir_all(folder).map_err(write(folder))?;
    let path = out.join(LOCK);
    let lock = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(write(&path))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => return Err(ComparisonError::InUse { path: out.to_owned() }),
        // Some network file systems have no locks; a comparison there is on its own.
        Err(TryLockError::Error(error)) => tracing::debug!("{}: no lock: {error}", out.display()),
        Ok(()) => {}
    }
    Ok(lock)
}

/// The command line of a run's process.
fn arguments(run: &PlannedRun, state: RunState, settings: &Path, out: &Path) -> Result<Vec<OsString>, ConfigError> {
    let mut arguments: Vec<OsString> = vec!["train".into(), "--json".into()];
    let folder = run.folder(out);
    if state == RunState::New {
        arguments.extend(["--config".into(), settings.into(), "--out".into(), folder.into()]);
        return Ok(arguments);
    }
    arguments.extend(["--resume".into(), folder.into()]);
    // What may have changed since the run was begun.
    let table = toml::Table::try_from(&run.config)?;
    for key in RESUMABLE.iter().filter(|&&key| key != "json") {
        if let Some(text) = table.get(*key).and_then(as_argument) {
            arguments.push(format!("--{key}={text}").into());
        }
    }
    Ok(arguments)
}

/// A setting as the command line has it; none of an empty list, which is said by leaving it out.
fn as_argument(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(as_argument).collect();
            (!items.is_empty()).then(|| items.join(","))
        }
        other => Some(other.to_string()),
    }
}

/// The record of a finished run, with its place in the comparison.
fn done_record(run: &PlannedRun, definition: &Definition, out: &Path) -> crate::Result<Value> {
    let folder = RunFolder::read(&run.folder(out))?;
    let mut record = folder.done_record;
    let values = record.as_object_mut().ok_or_else(|| format!("{} has no last record", folder.path.display()))?;
    let arm = &definition.arms[run.place.arm];
    values.insert("arm".to_owned(), arm.name.clone().into());
    values.insert("method".to_owned(), arm.method.clone().into());
    values.insert("density_asked".to_owned(), run.place.density.into());
    let of_validation = |value: fn(&EpochValues) -> Option<f64>| folder.epochs.last().and_then(value);
    for (name, value) in [
        ("val_accuracy".to_owned(), of_validation(|epoch| epoch.val_accuracy)),
        (format!("val_{BITS}"), of_validation(|epoch| epoch.val_bits_per_character)),
    ] {
        values.extend(value.map(|value| (name, value.into())));
    }
    Ok(record)
}

/// What there is by now is reported, and the error says how to go on.
fn interrupted(definition: &Definition, out: &Path) -> crate::Result<ComparisonError> {
    let results = Results::of_comparison(definition, out)?;
    let [finished, total] = results.progress();
    if finished > 0 {
        write_report(&results, out)?;
    }
    Ok(ComparisonError::Interrupted { finished, total, out: out.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_as_the_command_line_has_them() {
        let table: toml::Table =
            "files = ['a.txt', 'b.txt']\nnone = []\nthreads = 2\nname = 'cpu'\nshown = true".parse().unwrap();
        let told = |key: &str| as_argument(&table[key]);
        assert_eq!(told("files").as_deref(), Some("a.txt,b.txt"));
        assert_eq!(told("none"), None);
        assert_eq!(["threads", "name", "shown"].map(|key| told(key).unwrap()), ["2", "cpu", "true"]);
    }
}
