//! `rigl train`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use ranks::{Ranks, RanksError, Totals, Traffic};
use rigl::LayerDensity;
use serde::Serialize;
use serde_json::Value;
use sparse_kernels::BackendError;

use crate::bench::{StepBench, alternate, peak_rss_bytes, profile_table, rank_times_text};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::Dataset;
use crate::device::{ComputeDevice, OnDevice, Place, backend_error, on_device};
use crate::error::{Context, Kind};
use crate::first_model::{FirstModel, first_densities};
use crate::fit::{self, check_fit};
use crate::interrupt::Interrupt;
use crate::launch::{self, Agreement, LaunchError};
use crate::memory;
use crate::metrics::Evaluation;
use crate::models::{Architecture, ModelInput, SequenceFamily, StoredModel};
use crate::report::{Significant, Table, bytes_text, dimensions, print_record, print_text, rate_text, wrapped};
use crate::run::{Run, RunParts};
use crate::run_checkpoints::{BEST, Found, newest_checkpoint};
use crate::run_dir::{RunDir, RunInfo};
use crate::settings::error::ConfigError;
use crate::settings::{RUN, TrainConfig, TrainOptions};
use crate::task::loss_text;
use crate::training::{BestBy, BestEpoch, Reduction, Trainer};

const TRAIN_EXAMPLES: &str = "\
Examples:
  rigl train
      LeNet-300-100 at density 0.1 with RigL on the embedded images; results
      in runs/
  rigl train --density 0.05 --seed 1 --epochs 40
      half the weights, another seed, twice the length
  rigl train --method dense
      the dense baseline
  rigl train --data mnist --data-dir ~/data --val-fraction 0.1
      MNIST from ~/data/mnist, holding out a tenth of its training set
  rigl train --data table --table wine.csv --target quality --model mlp-64-64
      a class for each row of a table, from its other columns
  rigl train --config experiment.toml --seed 2 --json > records.jsonl
      a file's settings with another seed, as JSON records
  rigl train --val-fraction 0.1 --keep-best accuracy --early-stopping 5
      keep the best epoch; end after 5 epochs that are no better
  rigl train --resume runs/1
      resume a run that was interrupted, by Ctrl-C or otherwise
  rigl train --resume runs/1 --extend --epochs 40
      make a finished run longer

The keys of a configuration file are the options' names:
  model = \"784-300-100-10\"
  density = 0.05
  lr-milestones = [1000, 2000]
The run's folder holds the settings in effect (config.toml), which --config
can read.";

/// `rigl train`.
#[derive(Debug, Args)]
#[command(after_long_help = TRAIN_EXAMPLES)]
pub struct TrainArgs {
    /// At the end, print each kernel's time, bytes and launches, averaged over the steps, on standard error. Makes a
    /// GPU run its kernels one after the other
    #[arg(long, help_heading = RUN)]
    pub profile: bool,
    /// Everything that a configuration file can also set.
    #[command(flatten)]
    pub options: TrainOptions,
    /// TOML file that sets any of the other options by name; the command line overrides it
    #[arg(long, value_name = "FILE", help_heading = RUN)]
    pub config: Option<PathBuf>,
    /// Under mpirun, give up after waiting this many seconds for another rank; must exceed the time to load data or write a
    /// checkpoint
    #[arg(long, value_name = "SECONDS", default_value_t = launch::PATIENCE, value_parser = clap::value_parser!(u64).range(1..),
        help_heading = RUN)]
    pub rank_timeout: u64,
    /// Resume the run in this folder from its newest intact checkpoint, to the same result as without the interruption;
    /// only --threads, --loader-threads, --device, --data-dir, --checkpoint-every, --keep-checkpoints, --log and --json may
    /// change
    #[arg(long, value_name = "RUN", conflicts_with = "config", help_heading = RUN)]
    pub resume: Option<PathBuf>,
    /// With --resume, make the run longer: --epochs or --steps is its new length in all. From here on, the schedules are
    /// those of a run of that length; what was given in steps stays
    #[arg(long, requires = "resume", help_heading = RUN)]
    pub extend: bool,
}

/// The record of a finished run.
#[derive(Debug, Serialize)]
struct DoneRecord {
    event: &'static str,
    /// Of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    test_loss: f64,
    /// Other measures, see [`crate::metrics`], with `test_` before their names.
    #[serde(flatten)]
    others: BTreeMap<String, f64>,
    train_loss: f64,
    nnz: usize,
    density: f64,
    train_flops_ratio: f64,
    inference_flops_ratio: f64,
    /// Operations of one sample's forward pass, and of its share of the training, mean over the run.
    inference_flops: f64,
    train_flops: f64,
    steps: u64,
    /// Samples trained on, with repetitions; of a text, symbols.
    samples: u64,
    train_seconds: f64,
    samples_per_second: f64,
    peak_rss_bytes: Option<u64>,
    /// Best time of a step between topology updates, and the same network's dense; null where the dense one would not
    /// fit.
    step_time_ns: Option<u64>,
    dense_step_time_ns: Option<u64>,
    run_dir: String,
    seed: u64,
    /// Training pictures that others took the place of, where data may have broken ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrupt_images: Option<usize>,
    /// Of several ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranks: Option<RanksRecord>,
    /// The epoch whose checkpoint is kept as the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    best: Option<BestRecord>,
    /// Whether the run ended for want of a better epoch, where it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_early: Option<bool>,
}

/// The ranks of a run in a record.
#[derive(Debug, Serialize)]
struct RanksRecord {
    count: usize,
    shards: usize,
    /// Bytes that rank 0 has sent to others in this process: gradients, growth, everything else.
    sent_value_bytes: u64,
    sent_growth_bytes: u64,
    sent_other_bytes: u64,
}

/// The best epoch in a record.
#[derive(Debug, Serialize)]
struct BestRecord {
    by: BestBy,
    #[serde(flatten)]
    epoch: BestEpoch,
}

/// The most time spent on measuring a step beside the dense step.
const STEP_BUDGET: Duration = Duration::from_millis(800);
/// Above this many weights, the dense network is not built for comparison.
const LARGEST_DENSE: usize = 1 << 26;

/// Runs the command.
///
/// # Errors
/// If the settings are impossible, the data is unavailable, the run diverges or is interrupted, or its folder cannot be
/// written.
pub fn run(args: &TrainArgs) -> crate::Result<()> {
    match launch::ranks(Duration::from_secs(args.rank_timeout))? {
        None => run_as(args, None),
        Some(ranks) => launch::together(&ranks, || run_as(args, Some(&ranks))),
    }
}

fn run_as(args: &TrainArgs, ranks: Option<&Ranks>) -> crate::Result<()> {
    let interrupt = Interrupt::install()?;
    let (config, data, architecture) = match ranks {
        None => prepare(args, None)?,
        Some(ranks) => {
            let agreement = Agreement::new(ranks)?;
            let prepared = agreement.all(prepare(args, Some(ranks)))?;
            let config = &prepared.0;
            agreement.same("settings", &format!("{} {:?}", config.fingerprint(), config.checkpoint_every))?;
            agreement.same("data", &prepared.1.sha256())?;
            prepared
        }
    };
    let order = config.model.sequence().map(SequenceFamily::order);
    let [batches_per_epoch, _] = data.train.epoch(config.batch_size, order);
    let total_steps = config.total_steps(batches_per_epoch as u64);
    let (config, data, architecture) = (&config, &data, &architecture);
    let work = Train { args, config, data, architecture, total_steps, interrupt, ranks };
    on_device(config.device, config.thread_count(), work)
}

/// Settings, data and network.
fn prepare(args: &TrainArgs, ranks: Option<&Ranks>) -> crate::Result<(TrainConfig, Dataset, Architecture)> {
    let data_dir = std::env::var_os("RIGL_DATA_DIR").map(Into::into);
    let mut config = match &args.resume {
        Some(run) if args.extend => TrainConfig::extend(&args.options, &RunDir::config_path(run)?, data_dir)?,
        Some(run) => TrainConfig::resume(&args.options, &RunDir::config_path(run)?, data_dir)?,
        None => TrainConfig::resolve(args.config.as_deref(), &args.options, data_dir)?,
    };
    if ranks.is_none() && config.reduction == Reduction::Fast && args.resume.is_none() {
        return Err(LaunchError::Alone.into());
    }
    if let Some(ranks) = ranks {
        let shards = *config.shards.get_or_insert(launch::default_shards(ranks.count(), config.reduction));
        config.check()?;
        if shards < ranks.count() {
            return Err(RanksError::FewShards { ranks: ranks.count(), shards }.into());
        }
    }
    let data = config.training_data(first_input(args, &config).as_ref())?;
    let architecture = fit::settle(&mut config, &data)?;
    check_fit(&architecture, &data)?;
    Ok((config, data, architecture))
}

/// What the inputs of the model are that the run goes on from or begins with, if there is one.
fn first_input(args: &TrainArgs, config: &TrainConfig) -> Option<ModelInput> {
    let path = [&args.resume, &config.init_from, &config.ticket].into_iter().flatten().next()?;
    // Whatever is wrong with it is said when it is needed.
    let checkpoint =
        if path.is_dir() { newest_checkpoint(path).ok()?.0?.checkpoint } else { Checkpoint::load(path).ok()? };
    StoredModel::from_checkpoint(&checkpoint).ok()?.input
}

/// A run, wherever it computes.
struct Train<'a> {
    args: &'a TrainArgs,
    config: &'a TrainConfig,
    data: &'a Dataset,
    architecture: &'a Architecture,
    total_steps: u64,
    interrupt: Interrupt,
    /// The ranks of the run, if it has several.
    ranks: Option<&'a Ranks>,
}

impl OnDevice for Train<'_> {
    type Output = ();

    fn run<B: ComputeDevice>(self, device: &B) -> crate::Result<()> {
        train(self, device)
    }
}

fn train<B: ComputeDevice>(work: Train<'_>, device: &B) -> crate::Result<()> {
    let Train { args, config, data, architecture, total_steps, interrupt, ranks } = work;
    let is_first = ranks.is_none_or(|ranks| ranks.rank() == 0);
    fit::check_recompute(args.options.recompute, architecture)?;
    let (method, window) = config.scheduled_method(total_steps)?;
    memory::check(device, architecture, config.held_at_a_time(data.train.len()), config.held())?;
    let place = device.place();
    let info = RunInfo::new(place.clone());
    let resumed = args.resume.as_ref().map(|folder| open(folder, &info, is_first)).transpose()?;
    let (opened, found) = match resumed {
        Some((run_dir, found)) => (Some(run_dir), found),
        None => (None, None),
    };
    if let Some(ranks) = ranks {
        let bytes = found.as_ref().map(|found| found.checkpoint.to_bytes()).transpose()?;
        let seen = bytes.map(|bytes| crc32c::crc32c(&bytes));
        Agreement::new(ranks)?.same("checkpoints", &format!("{seen:?}"))?;
    }
    if let Some(found) = found.as_ref().filter(|_| args.extend) {
        let done = steps_of(&found.checkpoint)?;
        if done >= total_steps {
            return Err(ConfigError::NotLonger { done, total_steps }.into());
        }
    }
    let prunes = config.method.info().prunes();
    if found.is_none() && (config.init_from.is_none() || prunes) && config.ticket.is_none() {
        let densities = config.sparsification().solve(architecture)?;
        let densities = match config.start_density() {
            Some(_) => first_densities(config, architecture, &densities)?,
            None => densities,
        };
        memory::check_weights(device, architecture, config, &densities, config.held_at_a_time(data.train.len()))?;
    }
    let first = FirstModel::of(config, architecture, found.as_ref())?;
    let updates = config.method.info().updates;
    if first.targets.iter().all(|d| d.nnz == d.size) && !config.method.is_dense() {
        tracing::warn!("every layer has all its weights: the method {} has nothing to change", config.method);
    } else if window.is_none() && updates == rigl::UpdateTimes::Scheduled {
        tracing::warn!("{total_steps} steps are too few for a topology update: the pattern will not change");
    }
    if let Some(last) = config.late_update(window, total_steps) {
        let left = total_steps - 1 - last;
        tracing::warn!(
            "the last topology update is at step {last} of {total_steps}: only {left} steps are left to train the weights that it grows"
        );
    }
    let network = first.network(device, config, config.computed_at_a_time(data.train.len()))?;
    let (optimizer, steps) = (config.optimizer_options(), config.step_options(total_steps));
    let mut trainer = Trainer::new(device, network, optimizer, method, steps)?;
    if let Some(ranks) = ranks {
        trainer.join(ranks.clone())?;
    }
    let run_dir = match opened {
        Some(run_dir) => run_dir,
        None if !is_first => RunDir::of_another(config.out.as_deref().unwrap_or("runs".as_ref())),
        None => RunDir::create(config, &info)?,
    };
    let mut run = Run::new(RunParts { device, config, data, trainer, run_dir, total_steps, interrupt });
    if args.resume.is_some() {
        let (checkpoint, changes) = (found.as_ref().map(|found| &found.checkpoint), args.options.precision.is_some());
        let resumed = run.resume(checkpoint, args.extend, changes);
        resumed.context(|| found.as_ref().map_or(String::new(), |found| found.path.display().to_string()))?;
        if args.extend {
            run.begin_extension()?;
        } else if let Some(folder) = args.resume.as_ref().filter(|_| changes && run.trainer().step() < total_steps) {
            // Whatever else the command line says is for this time.
            let saved = TrainConfig::of_run(&RunDir::config_path(folder)?)?;
            run.begin_precision(&TrainConfig { precision: config.precision, ..saved })?;
        }
    }
    if !config.json && is_first {
        // Progress is no reason to fail when nobody reads it.
        let _ = io::stderr().write_all(heading(&mut run, config, data, total_steps, &place).as_bytes());
    }
    if args.profile {
        device.start_profile()?;
    }
    let steps_before = run.trainer().batches();
    device.install(|| run.train())?;
    if args.profile && is_first {
        let steps = run.trainer().batches() - steps_before;
        eprint!("{}", profile_table(&device.take_profile()?, steps));
        if let Some((trace, totals)) = run.trainer().rank_times() {
            eprint!("{}", rank_times_text(&trace, totals));
        }
    }
    let (train_seconds, samples_per_second, train_loss) = (run.seconds(), run.samples_per_second(), run.epoch().loss());
    let test = device.install(|| run.evaluate(&data.test)).map_err(|error| match error.kind {
        Kind::Interrupted => run.interrupted().into(),
        _ => error,
    })?;
    if !is_first {
        return Ok(());
    }

    let densities = run.trainer().network.densities(device);
    let [sparse_flops, dense_flops] = architecture.forward_flops(&densities, config.flops_convention);
    let cost = run.trainer().network.cost(device);
    let training_flops = run.trainer().method.training_flops(run.mean_forward_flops(), dense_flops);
    let peak_rss_bytes = peak_rss_bytes();
    let batch_size = config.held_at_a_time(data.train.len());
    let measured = TrainConfig { batch_size, ..config.clone() };
    let step_times = match step_times(device, &measured, architecture, &densities, train_seconds) {
        // A card that has room for the run may have none for the dense network beside it.
        Err(error) if matches!(backend_error(&error), Some(BackendError::DeviceMemory { .. })) => None,
        result => result?,
    };
    let done = DoneRecord {
        event: "done",
        test_accuracy: test.accuracy(),
        test_loss: test.loss(),
        others: test.others().into_iter().map(|(name, value)| (format!("test_{name}"), value)).collect(),
        train_loss,
        nnz: cost.nnz,
        density: cost.density(),
        train_flops_ratio: training_flops / (3.0 * dense_flops),
        inference_flops_ratio: sparse_flops / dense_flops,
        inference_flops: sparse_flops,
        train_flops: training_flops,
        ranks: ranks.map(|ranks| {
            let sent = run.trainer().traffic();
            RanksRecord {
                count: ranks.count(),
                shards: config.shards.unwrap_or(1),
                sent_value_bytes: sent.values,
                sent_growth_bytes: sent.growth,
                sent_other_bytes: sent.other,
            }
        }),
        steps: run.trainer().step(),
        samples: run.samples(),
        train_seconds,
        samples_per_second,
        peak_rss_bytes,
        step_time_ns: step_times.map(|[sparse, _]| sparse),
        dense_step_time_ns: step_times.map(|[_, dense]| dense),
        run_dir: run.run_dir().path().display().to_string(),
        seed: config.seed,
        corrupt_images: run.corrupt_images(),
        best: run.best().best().map(|&epoch| BestRecord { by: config.best_by(), epoch }),
        stopped_early: config.early_stopping.map(|_| run.trainer().step() < total_steps),
    };
    run.append(&done)?;
    if config.json {
        print_record(&done)?;
    } else {
        let flops = [sparse_flops, dense_flops];
        let mut ending = ending(&done, config, run.epochs(), test.is_text());
        ending.extend(run.trainer().rank_times().map(|(_, totals)| sent_text(run.trainer().traffic(), totals)));
        print_tables(architecture, &densities, &done, &test, flops, &place, &ending)?;
    }
    Ok(())
}

/// What a run is of, before its first step.
fn heading<B: ComputeDevice>(
    run: &mut Run<'_, B>,
    config: &TrainConfig,
    data: &Dataset,
    total_steps: u64,
    place: &Place,
) -> String {
    let network = &run.trainer().network;
    let (size, step) = (network.architecture.size(), run.trainer().step());
    let (densities, parameters) = (network.densities(run.device()), network.architecture.parameters());
    let nnz: usize = densities.iter().map(|density| density.nnz).sum();
    let density = Significant(nnz as f64 / size as f64);
    let from = if step > 0 { format!("step {step} to {total_steps}") } else { format!("{total_steps} steps") };
    let samples = match (data.train.text(), &data.alphabet) {
        (Some(text), Some(alphabet)) => format!("{} {}s", text.tokens().len(), alphabet.symbols().singular()),
        _ => format!("{} samples", data.train.len()),
    };
    let folder = run.run_dir().path().display().to_string();
    let parts = [
        format!("{}, {}", config.model, config.method),
        format!("{nnz} of {size} weights (density {density}), {} other parameters", parameters - size),
        format!("{samples} of {}", data.name),
        format!("{from} on {place}"),
        format!("in {folder}"),
    ];
    wrapped(&parts) + "\n"
}

/// What `keep-best` and `early-stopping` did, a line each.
fn ending(done: &DoneRecord, config: &TrainConfig, epochs: u64, is_text: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let by = config.best_by();
    if done.stopped_early == Some(true) {
        let waited = config.early_stopping.unwrap_or_default();
        lines.push(format!("stopped after epoch {epochs}: no better validation {by} in {waited} epochs"));
    }
    if let Some(BestRecord { epoch: BestEpoch { epoch, step, value }, .. }) = done.best {
        let value = match by {
            BestBy::Loss => loss_text(value, is_text),
            BestBy::Accuracy => format!("accuracy {:.2}%", 100.0 * value),
        };
        let file = if config.keep_best.is_some() { format!(", in {BEST}") } else { String::new() };
        lines.push(format!("best validation {value} at epoch {epoch}, step {step}{file}"));
    }
    lines
}

/// What rank 0 has sent in this process.
fn sent_text(sent: Traffic, totals: Totals) -> String {
    let each = |bytes: u64, times: u32| bytes_text(bytes / u64::from(times.max(1)));
    let [values, other] = [sent.values, sent.other].map(|bytes| each(bytes, totals.steps));
    let growth = match totals.updates {
        0 => "nothing for growth".to_owned(),
        updates => format!("{} per update for growth", each(sent.growth, updates)),
    };
    format!("sent by rank 0: {values} per step for gradients, {growth}, {other} per step for the rest")
}

/// Steps of a checkpoint's training.
fn steps_of(checkpoint: &Checkpoint) -> Result<u64, CheckpointError> {
    let training: Value = checkpoint.section("training")?;
    training["step"].as_u64().ok_or_else(|| CheckpointError::mismatch("the step", &training["step"], "a number"))
}

/// The run in `folder` and its newest whole checkpoint. Those that are incomplete are set aside.
fn open(folder: &Path, info: &RunInfo, is_first: bool) -> crate::Result<(RunDir, Option<Found>)> {
    if !is_first {
        return Ok((RunDir::of_another(folder), newest_checkpoint(folder)?.0));
    }
    let run_dir = RunDir::open(folder, info)?;
    let (found, unusable) = newest_checkpoint(folder)?;
    for unusable in unusable {
        let error = &unusable.error;
        match &found {
            Some(found) => tracing::warn!("{error}; falling back to {}", found.path.display()),
            None => tracing::warn!("{error}; no checkpoint is intact: starting over"),
        }
        run_dir.set_aside(&unusable)?;
    }
    Ok((run_dir, found))
}

/// Best nanoseconds of `[a step of this network, a step of the same network dense]`, taken in turn for a quarter of the time
/// that the training took, within bounds; `None` if the dense network is too large to build beside it, or the activations of
/// both are.
fn step_times<B: ComputeDevice>(
    device: &B,
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    train_seconds: f64,
) -> crate::Result<Option<[u64; 2]>> {
    let budget = Duration::from_secs_f64(train_seconds / 4.0).clamp(STEP_BUDGET / 8, STEP_BUDGET);
    if architecture.size() > LARGEST_DENSE
        || !memory::has_room_for_two(device, architecture, config.batch_size, config.held())?
    {
        return Ok(None);
    }
    let dense: Vec<_> = densities.iter().map(|d| LayerDensity { density: 1.0, nnz: d.size, size: d.size }).collect();
    let mut sparse_bench = StepBench::new(device, architecture, config, densities)?;
    let mut dense_bench = StepBench::new(device, architecture, config, &dense)?;
    // Once each, so that an error is an error and not a panic in the timed loop.
    let start = Instant::now();
    let steps = device.install(|| sparse_bench.steps_per_turn().and_then(|_| dense_bench.steps_per_turn()))?;
    // Long steps vary little, and who has trained does not want to wait.
    let least_calls = if start.elapsed() < budget { 5 } else { 1 };
    let succeeded = "the same step succeeded before";
    let best = device.install(|| {
        alternate(
            budget,
            least_calls,
            || sparse_bench.steps(steps).expect(succeeded),
            || dense_bench.steps(steps).expect(succeeded),
        )
    });
    Ok(Some(best.map(|b| b.nanoseconds() / u64::from(steps))))
}

fn print_tables(
    architecture: &Architecture,
    densities: &[LayerDensity],
    done: &DoneRecord,
    test: &Evaluation,
    [sparse, dense]: [f64; 2],
    place: &Place,
    ending: &[String],
) -> io::Result<()> {
    let mut layers = Table::new(["layer", "shape", "density", "nnz"]);
    for (layer, solved) in architecture.layers.iter().zip(densities) {
        layers.row([
            layer.name.clone(),
            dimensions(&layer.dimensions()),
            Significant(solved.nnz as f64 / solved.size as f64).to_string(),
            solved.nnz.to_string(),
        ]);
    }
    print_text(format_args!("{layers}"))?;

    let ratio = |ratio: f64| format!("{ratio:.3}×");
    let mut totals = Table::new(["", "this run", "dense", "ratio"]);
    totals.row(["density".to_owned(), Significant(done.density).to_string(), "1.00".to_owned(), ratio(done.density)]);
    let size = architecture.size();
    totals.row(["nnz".to_owned(), done.nnz.to_string(), size.to_string(), ratio(done.nnz as f64 / size as f64)]);
    let of = if test.is_text() { "token" } else { "sample" };
    totals.row([
        format!("inference flops/{of}"),
        format!("{sparse:.0}"),
        format!("{dense:.0}"),
        ratio(done.inference_flops_ratio),
    ]);
    totals.row([
        format!("training flops/{of}"),
        format!("{:.0}", done.train_flops_ratio * 3.0 * dense),
        format!("{:.0}", 3.0 * dense),
        ratio(done.train_flops_ratio),
    ]);
    let time = |ns: u64| format!("{} ms", Significant(ns as f64 / 1e6));
    match (done.step_time_ns, done.dense_step_time_ns) {
        (Some(sparse), Some(dense)) => totals.row([
            "time per step, measured".to_owned(),
            time(sparse),
            time(dense),
            ratio(sparse as f64 / dense as f64),
        ]),
        _ => totals.row(["time per step", "–", "too large to build", "–"]),
    }
    print_text(format_args!("{totals}"))?;
    ending.iter().try_for_each(print_text)?;
    match test.accuracy().filter(|_| !test.is_text()) {
        Some(accuracy) => print_text(format_args!("test accuracy {:.2}%  loss {:.4}", 100.0 * accuracy, test.loss()))?,
        None => print_text(format_args!("test {}", test.text()))?,
    }
    let per_second = rate_text(done.samples_per_second, test.is_text());
    print_text(format_args!("trained in {:.1} s, {per_second} on {place}", done.train_seconds))?;
    print_text(format_args!("results: {}", Path::new(&done.run_dir).display()))
}
