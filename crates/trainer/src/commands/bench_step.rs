//! `rigl bench step`: a whole training step of a model over densities, against the dense step.
//!
//! Each density runs in processes of its own, so that its peak memory is its own; they take turns with the dense
//! network's, and the best step of all turns counts.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ranks::local::local_ranks;
use ranks::{Interconnect, Ranks, on_interconnect};
use serde::{Deserialize, Serialize};

use super::machine::MachineArgs;
use super::network::PictureArgs;
use crate::bench::{Provenance, StepBench, TraceFile, TracedStep, peak_rss_bytes, rank_times_text};
use crate::device::{ComputeDevice, Device, OnDevice, Place};
use crate::error::Context;
use crate::method::Method;
use crate::models::{Architecture, Format, Sparsification, parse_density};
use crate::report::{Significant, Table, bytes_text, print_record, print_text};
use crate::settings::error::ConfigError;
use crate::settings::{
    BatchArgs, FormatArgs, ModelArgs, PrecisionArgs, SequenceArgs, SpreadArgs, TrainConfig, TrainOptions,
};
use crate::training::{Held as HeldActivations, Precision, Reduction};
use crate::{fit, launch, memory};

/// `rigl bench step`.
#[derive(Debug, Args)]
pub struct BenchStepArgs {
    /// The network.
    #[command(flatten)]
    pub network: ModelArgs,
    /// The network's input, where its name does not say.
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// What the name of a text model leaves open.
    #[command(flatten)]
    pub sequence: SequenceArgs,
    /// Samples in a batch.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// How activations are stored.
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// The network's densities, each in (0, 1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', default_value = "0.2,0.1,0.05", value_parser = parse_density)]
    pub density: Vec<f64>,
    /// How the density is distributed over the layers.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// How sparse layers are stored.
    #[command(flatten)]
    pub format: FormatArgs,
    /// Print each kernel's time, bytes and launches in a step of each density, measured one by one, on standard error
    #[arg(long)]
    pub profile: bool,
    /// Start each measurement with this command, such as "mpirun -n 2"; the ranks share the batch. Needs a program built with
    /// --features mpi
    #[arg(long, value_name = "COMMAND")]
    pub launcher: Option<String>,
    /// With --launcher, limit messages between ranks to this bandwidth and latency, such as 10Gbit/s,20us
    #[arg(long, value_name = "BANDWIDTH,LATENCY")]
    pub interconnect: Option<Interconnect>,
    /// Record when each gradient of a step becomes available in this file, for rigl plan --ranks --trace
    #[arg(long, value_name = "FILE", conflicts_with = "launcher")]
    pub trace: Option<PathBuf>,
    /// Measure in this process and print the raw numbers: how the command calls itself, once for each density
    #[arg(long, hide = true)]
    pub worker: bool,
    /// What every measurement takes.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// The record of one density.
#[derive(Debug, Serialize)]
struct StepRecord {
    event: &'static str,
    model: String,
    batch_size: usize,
    distribution: String,
    format: String,
    /// Of activations.
    precision: Precision,
    /// Whether some are computed again; never in the dense step.
    recompute: bool,
    density: f64,
    nnz: usize,
    /// Operations of a step against those of the dense step.
    flops_ratio: f64,
    device: String,
    isa: String,
    threads: usize,
    time_ns: u64,
    dense_time_ns: u64,
    /// Of the dense step: the faster of f32 and `precision`.
    dense_precision: Precision,
    time_ratio: f64,
    peak_rss_bytes: Option<u64>,
    /// Of the dense step in f32.
    dense_peak_rss_bytes: Option<u64>,
    /// Of several ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranks: Option<RankMeasurement>,
    #[serde(flatten)]
    provenance: Provenance,
}

/// How a measured step holds activations.
#[derive(Debug, Clone, Copy)]
struct Held {
    precision: Precision,
    recompute: bool,
}

/// What a worker process measures.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measurement {
    time_ns: u64,
    nnz: usize,
    /// Of each rank.
    threads: usize,
    peak_rss_bytes: Option<u64>,
    /// Of several ranks.
    ranks: Option<RankMeasurement>,
    /// Where it was asked for.
    trace: Option<TracedStep>,
}

/// Sums over ranks in a step, mean over all steps but for the bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RankMeasurement {
    count: usize,
    shards: usize,
    /// Bytes that rank 0 sends in a step.
    sent_bytes: u64,
    /// From the first bucket to the last sum.
    under_way_ns: u64,
    /// Of these, after the backward pass.
    waited_ns: u64,
}

/// Turns that each density and the dense network take.
const ROUNDS: usize = 3;
/// Of one turn, however short its budget is.
const LEAST_STEPS: usize = 5;

/// Runs the command.
///
/// # Errors
/// If a density is impossible or a worker fails.
pub fn run(args: &BenchStepArgs) -> crate::Result<()> {
    if args.worker {
        let ranks = launch::ranks(Duration::from_secs(launch::PATIENCE))?
            .map(|ranks| on_interconnect(ranks, args.interconnect));
        return match &ranks {
            None => args.machine.on_device(Worker { args, ranks: None }),
            Some(together) => {
                launch::together(together, || args.machine.on_device(Worker { args, ranks: ranks.clone() }))
            }
        };
    }
    launch::launches("bench step")?;
    if args.interconnect.is_some() && args.launcher.is_none() {
        return Err(ConfigError::NoEffect { option: "interconnect", needs: "--launcher" }.into());
    }
    let architecture = fit::architecture(&args.pictures.spec(&args.network, &args.sequence)?)?;
    let config = config(args)?;
    fit::check_recompute(args.precision.recompute, &architecture)?;
    if config.reduction == Reduction::Fast && args.launcher.is_none() {
        return Err(ConfigError::NoEffect { option: "reduction", needs: "--launcher" }.into());
    }
    let place = args.machine.on_device(Check { architecture: &architecture, config: &config })?;
    config.check()?;
    // Impossible densities are refused before anything is measured.
    for &density in &args.density {
        sparsification(args, density)?.solve(&architecture)?;
    }
    // A GPU takes no threads; what a launcher starts has those that it may run on.
    let is_free = args.machine.device != Device::Cpu || args.launcher.is_some();
    let threads = args.machine.threads.or((!is_free).then_some(place.threads));
    // The dense step that is faster counts as such, the one in f32 for its memory.
    let mut precisions = vec![Precision::F32];
    precisions.extend((config.precision != Precision::F32).then_some(config.precision));
    let mut dense: Vec<Option<Measurement>> = vec![None; precisions.len()];
    let mut best: Vec<Option<Measurement>> = vec![None; args.density.len()];
    let held = Held { precision: config.precision, recompute: config.recompute };
    for round in 1..=ROUNDS {
        for (dense, &precision) in dense.iter_mut().zip(&precisions) {
            *dense =
                Some(better(dense.take(), measure(args, threads, 1.0, Held { precision, recompute: false }, false)?));
        }
        for (best, &density) in best.iter_mut().zip(&args.density) {
            let profile = args.profile && round == ROUNDS;
            *best = Some(better(best.take(), measure(args, threads, density, held, profile)?));
        }
    }
    let dense: Vec<Measurement> = dense.into_iter().flatten().collect();
    let dense_peak_rss_bytes = dense[0].peak_rss_bytes;
    let (dense, dense_precision) =
        dense.into_iter().zip(precisions).min_by_key(|(dense, _)| dense.time_ns).expect("one precision at least");
    if let Some(path) = &args.trace {
        let steps = best.iter().chain([&Some(dense.clone())]).flatten().filter_map(|best| best.trace.clone()).collect();
        TraceFile { model: config.model.to_string(), batch_size: config.batch_size, steps }.save(path)?;
    }
    let mut table = Table::new(["density", "nnz", "flops", "step", "dense step", "time", "peak memory", "dense"]);
    let mut of_ranks = Table::new(["density", "ranks", "sent per step", "reduction", "waiting", "waiting, dense"]);
    for (measurement, &density) in best.into_iter().flatten().zip(&args.density) {
        let record = StepRecord {
            event: "step",
            model: config.model.to_string(),
            batch_size: config.batch_size,
            distribution: config.distribution.to_string(),
            format: config.format.to_string(),
            precision: config.precision,
            recompute: config.recompute,
            density: measurement.nnz as f64 / architecture.size() as f64,
            nnz: measurement.nnz,
            flops_ratio: flops_ratio(args, &architecture, density)?,
            device: args.machine.name_of(&place),
            isa: place.isa.clone(),
            threads: measurement.threads,
            time_ns: measurement.time_ns,
            dense_time_ns: dense.time_ns,
            dense_precision,
            time_ratio: measurement.time_ns as f64 / dense.time_ns as f64,
            peak_rss_bytes: measurement.peak_rss_bytes,
            dense_peak_rss_bytes,
            ranks: measurement.ranks,
            provenance: Provenance::now(),
        };
        if args.machine.json {
            print_record(&record)?;
        } else {
            let milliseconds = |ns: u64| format!("{} ms", Significant(ns as f64 / 1e6));
            if let (Some(ranks), Some(dense)) = (record.ranks, dense.ranks) {
                of_ranks.row([
                    Significant(record.density).to_string(),
                    ranks.count.to_string(),
                    bytes_text(ranks.sent_bytes),
                    milliseconds(ranks.under_way_ns),
                    milliseconds(ranks.waited_ns),
                    milliseconds(dense.waited_ns),
                ]);
            }
            let size = |bytes: Option<u64>| bytes.map_or("–".to_owned(), bytes_text);
            table.row([
                Significant(record.density).to_string(),
                record.nnz.to_string(),
                format!("{:.3}×", record.flops_ratio),
                milliseconds(record.time_ns),
                milliseconds(record.dense_time_ns),
                format!("{:.3}×", record.time_ratio),
                size(record.peak_rss_bytes),
                size(record.dense_peak_rss_bytes),
            ]);
        }
    }
    if !args.machine.json {
        let format = if config.format == Format::Csr { String::new() } else { format!(" in {}", config.format) };
        let precision = match config.precision {
            Precision::F32 => String::new(),
            other => format!(" in {other} (dense in {dense_precision}, its memory in f32)"),
        };
        print_text(format_args!(
            "training step of {}{format}{precision} with batches of {}, {}",
            config.model,
            config.batch_size,
            place.with_isa()
        ))?;
        print_text(format_args!("{table}"))?;
        if args.launcher.is_some() {
            print_text(format_args!("{of_ranks}"))?;
        }
    }
    Ok(())
}

/// Refuses what has no room, and tells where it would run.
struct Check<'a> {
    architecture: &'a Architecture,
    config: &'a TrainConfig,
}

impl OnDevice for Check<'_> {
    type Output = Place;

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<Place> {
        // The dense step in f32 takes more than any other.
        memory::check(backend, self.architecture, self.config.batch_size, HeldActivations::default())?;
        Ok(backend.place())
    }
}

/// What the networks are trained with.
fn config(args: &BenchStepArgs) -> Result<TrainConfig, ConfigError> {
    TrainConfig::of(&TrainOptions { seed: Some(args.machine.seed), ..given(args) })
}

fn given(args: &BenchStepArgs) -> TrainOptions {
    let options = TrainOptions::from(&args.network).or(&args.sequence).or(&args.spread).or(&args.format);
    options.or(&args.batch).or(&args.precision)
}

fn better(best: Option<Measurement>, new: Measurement) -> Measurement {
    match best {
        Some(best) if best.time_ns <= new.time_ns => best,
        _ => new,
    }
}

fn sparsification(args: &BenchStepArgs, density: f64) -> Result<Sparsification, ConfigError> {
    let method = Method::named(if density == 1.0 { "dense" } else { "static" });
    Ok(TrainConfig { method, density, ..config(args)? }.sparsification())
}

fn flops_ratio(args: &BenchStepArgs, architecture: &Architecture, density: f64) -> crate::Result<f64> {
    let densities = sparsification(args, density)?.solve(architecture)?;
    let [sparse, dense] = architecture.forward_flops(&densities, rigl::FlopsConvention::Mac2);
    Ok(sparse / dense)
}

/// Runs one turn of one density in a process of its own.
fn measure(
    args: &BenchStepArgs,
    threads: Option<usize>,
    density: f64,
    held: Held,
    profile: bool,
) -> crate::Result<Measurement> {
    let output = launch::this_program(args.launcher.as_deref())?
        .args(["bench", "step", "--worker", "--density", &density.to_string()])
        .args(
            TrainOptions { precision: Some(held.precision), recompute: held.recompute.then_some(true), ..given(args) }
                .arguments()?,
        )
        .args(args.pictures.image_size.iter().flat_map(|side| ["--image-size".to_owned(), side.to_string()]))
        .args(args.pictures.inputs.iter().flat_map(|inputs| ["--inputs".to_owned(), inputs.to_string()]))
        .args(args.pictures.classes.iter().flat_map(|classes| ["--classes".to_owned(), classes.to_string()]))
        .args(["--seed", &args.machine.seed.to_string(), "--isa", &args.machine.isa.to_string()])
        .args(["--budget", &args.machine.budget.as_secs_f64().to_string()])
        .args(["--device", &args.machine.device.to_string()])
        .args(profile.then_some("--profile"))
        .args(args.interconnect.map(|interconnect| format!("--interconnect={interconnect}")))
        .args(args.trace.as_ref().map(|path| format!("--trace={}", path.display())))
        .args(threads.map(|threads| format!("--threads={threads}")))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(|| "cannot run a worker process")?;
    if !output.status.success() {
        return Err(format!("the worker process for density {density} failed: {}", output.status).into());
    }
    serde_json::from_slice(&output.stdout).context(|| "a worker process printed no measurement")
}

/// The worker's side: measures one density and prints a [`Measurement`].
struct Worker<'a> {
    args: &'a BenchStepArgs,
    ranks: Option<Ranks>,
}

impl OnDevice for Worker<'_> {
    type Output = ();

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<()> {
        let Self { args, ranks } = self;
        let &[density] = &args.density[..] else { return Err("a worker measures one density".to_owned().into()) };
        let mut config = config(args)?;
        if let Some(ranks) = &ranks {
            config.shards.get_or_insert(launch::default_shards(ranks.count(), config.reduction));
            config.check()?;
        }
        let architecture = fit::architecture(&args.pictures.spec(&args.network, &args.sequence)?)?;
        let densities = sparsification(args, density)?.solve(&architecture)?;
        let mut bench = StepBench::new(backend, &architecture, &config, &densities)?;
        let is_first = ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0);
        // Alone, a rank sends its sums to itself: that tells when they are there.
        let alone = args.trace.is_some().then(|| local_ranks(1).remove(0));
        let of_steps = ranks.clone().or_else(|| Some(Arc::new(alone?) as Ranks));
        if let Some(ranks) = of_steps.clone() {
            bench.join(ranks)?;
        }
        let best = backend.install(|| -> crate::Result<Duration> {
            let steps = bench.steps_per_turn()?;
            let (start, mut best, mut turns) = (Instant::now(), Duration::MAX, 0);
            while turns < LEAST_STEPS || bench.agree(start.elapsed() < args.machine.budget)? {
                let turn = Instant::now();
                bench.steps(steps)?;
                best = best.min(turn.elapsed() / steps);
                turns += 1;
            }
            Ok(best)
        })?;
        let time_ns = u64::try_from(best.as_nanos())?;
        let times = bench.rank_times();
        let measured = |ranks: Ranks| -> crate::Result<Option<RankMeasurement>> {
            let Some((_, totals)) = &times else { return Ok(None) };
            let mean = |time: Duration| u64::try_from((time / totals.steps.max(1)).as_nanos());
            Ok(Some(RankMeasurement {
                count: ranks.count(),
                shards: config.shards.unwrap_or(1),
                sent_bytes: bench.sent_bytes(),
                under_way_ns: mean(totals.under_way)?,
                waited_ns: mean(totals.waited)?,
            }))
        };
        let rank_measurement = ranks.map(measured).transpose()?.flatten();
        let trace = times.as_ref().filter(|_| args.trace.is_some());
        let trace = trace.map(|(trace, _)| TracedStep::new(density, &trace.step(best.as_secs_f64())));
        let (nnz, peak_rss_bytes) = (bench.nnz(), peak_rss_bytes());
        if is_first {
            let threads = backend.place().threads;
            print_record(&Measurement { time_ns, nnz, threads, peak_rss_bytes, ranks: rank_measurement, trace })?;
        }
        if args.profile {
            let profile = bench.profile()?;
            if is_first {
                eprint!("density {density}\n{}\n", crate::bench::profile_table(&profile, 1));
                if let Some((trace, totals)) = bench.rank_times() {
                    eprint!("{}", rank_times_text(&trace, totals));
                }
            }
        }
        Ok(())
    }
}
