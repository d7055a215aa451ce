//! `rigl plan --ranks`: what many ranks would send, and how much faster they would be.

use std::path::PathBuf;

use autograd::growth_tile_rows;
use clap::Args;
use ranks::Interconnect;
use ranks::simulate::{GrowthSize, Ready, Setting, Step};
use rigl::{FlopsConvention, GradientNeed, LayerDensity, UpdateGradient, UpdateTimes};
use serde::Serialize;
use sparse_kernels::ExploreRequest;
use sparse_kernels::cpu::Cpu;

use super::values::{parse_count, parse_time};
use crate::bench::TraceFile;
use crate::first_model::FirstModel;
use crate::launch;
use crate::models::{Architecture, Format, NormOver, WeightLayer};
use crate::report::{Significant, Table, bytes_text, print_record, print_text};
use crate::settings::TrainConfig;
use crate::training::UpdateWindow;

const HEADING: &str = "Ranks";

/// Options about ranks.
#[derive(Debug, Args)]
pub struct RanksArgs {
    /// Also print the traffic and the expected speed-up of this many ranks, each with its own batch
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = parse_count, help_heading = HEADING)]
    pub ranks: Vec<usize>,
    /// Interconnect of the ranks: bandwidth in each direction, latency, and the sender's time per message [default:
    /// 10Gbit/s,20us,1us]
    #[arg(long, value_name = "BANDWIDTH,LATENCY", requires = "ranks", help_heading = HEADING)]
    pub interconnect: Option<Interconnect>,
    /// Time of a step on one rank, such as 27ms; the backward pass is divided among layers by their operations
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "trace", requires = "ranks",
        help_heading = HEADING)]
    pub step_time: Option<f64>,
    /// A step of one rank, recorded by rigl bench step --trace
    #[arg(long, value_name = "FILE", requires = "ranks", help_heading = HEADING)]
    pub trace: Option<PathBuf>,
}

/// The record of so many ranks.
#[derive(Debug, Serialize)]
struct RanksRecord {
    event: &'static str,
    ranks: usize,
    shards: usize,
    interconnect: String,
    /// Numbers whose sums every rank needs in a step.
    sparse_values: usize,
    dense_values: usize,
    moments: usize,
    /// Bytes that the busiest rank sends.
    sum_bytes_per_step: f64,
    other_bytes_per_step: f64,
    growth_bytes_per_update: f64,
    /// Mean over the steps from one update to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    step_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for_sums: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for_growth: Option<f64>,
    /// Samples a second, to those of one rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
}

/// Numbers of each layer's gradients, in the order of the forward pass.
struct Numbers {
    layers: Vec<usize>,
    sparse: usize,
    dense: usize,
    moments: usize,
}

impl Numbers {
    fn of(architecture: &Architecture, densities: &[LayerDensity], needs_dense: bool) -> Self {
        let mut numbers = Self { layers: vec![], sparse: 0, dense: 0, moments: 0 };
        let mut norms = architecture.norms.iter();
        for (layer, solved) in architecture.layers.iter().zip(densities) {
            let is_sparse = solved.nnz < solved.size;
            let bias = if layer.bias { layer.rows() } else { 0 };
            // Most layers have a norm; whose it is does not matter here.
            let affine = norms.next().map_or(0, |norm| norm.affine_len());
            let all = solved.nnz + if is_sparse && needs_dense { solved.size } else { 0 };
            let (sparse, dense) = if is_sparse { (all, 0) } else { (0, all) };
            numbers.sparse += sparse;
            numbers.dense += dense + bias + affine;
            numbers.layers.push(all + bias + affine);
        }
        let rest: usize = norms.map(|norm| norm.affine_len()).sum();
        numbers.dense += rest;
        if let Some(last) = numbers.layers.last_mut() {
            *last += rest;
        }
        let batch_norms = architecture.norms.iter().filter(|norm| norm.over == NormOver::Batch);
        numbers.moments = batch_norms.map(|norm| 2 * norm.channels).sum();
        numbers
    }

    /// When they are there, in a step that takes so long: a third of it is the forward pass, and the rest goes by operations.
    fn ready(&self, architecture: &Architecture, densities: &[LayerDensity], seconds: f64) -> Vec<Ready> {
        let flops = |(layer, solved): (&WeightLayer, &LayerDensity)| {
            layer.geometry().forward_flops(solved.nnz as f64 / solved.size as f64, FlopsConvention::Mac2)
        };
        let flops: Vec<f64> = architecture.layers.iter().zip(densities).map(flops).collect();
        let (backward, all) = (seconds * 2.0 / 3.0, flops.iter().sum::<f64>().max(1.0));
        let mut ready = vec![];
        if self.moments > 0 {
            ready.push(Ready { before_end: backward, len: self.moments });
        }
        let mut left = all;
        for (flops, &len) in flops.iter().zip(&self.layers).rev() {
            left -= flops;
            ready.push(Ready { before_end: backward * (left / all).max(0.0), len });
        }
        ready
    }
}

/// Prints what is expected of ranks.
///
/// # Errors
/// If there are more ranks than shards, or the trace is of another network.
pub fn print(
    args: &RanksArgs,
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    steps: u64,
    json: bool,
) -> crate::Result<()> {
    if args.ranks.is_empty() {
        return Ok(());
    }
    let numbers = Numbers::of(architecture, densities, needs_dense(config, architecture, densities, steps)?);
    let model = config.model.to_string();
    let recorded = args.trace.as_ref().map(|path| TraceFile::step_of(path, &model, config.batch_size, config.density));
    let step = match (recorded.transpose()?, args.step_time) {
        (Some(recorded), _) => Some(recorded.step()),
        (None, Some(seconds)) => Some(Step { seconds, gradients: numbers.ready(architecture, densities, seconds) }),
        (None, None) => None,
    };
    let interconnect = args.interconnect.unwrap_or_default();
    let growths = growths(config, architecture, densities, steps)?;
    let interval = if growths.is_empty() { 1.0 } else { config.update_interval as f64 };
    let columns = ["ranks", "sums/step", "growth/update", "step", "waiting, sums", "growth", "speed-up", "efficiency"];
    let mut table = Table::new(columns);
    for &ranks in &args.ranks {
        let shards = config.shards.unwrap_or_else(|| launch::default_shards(ranks, config.reduction));
        if shards < ranks {
            return Err(ranks::RanksError::FewShards { ranks, shards }.into());
        }
        let setting = Setting { ranks, shards, reduction: config.reduction.into(), interconnect };
        // Without times, what is sent does not depend on them.
        let untimed = || Step { seconds: 0.0, gradients: numbers.ready(architecture, densities, 0.0) };
        let of_step = setting.step(&step.clone().unwrap_or_else(untimed));
        let growth = setting.growth(&growths);
        let per_step = growth.seconds / interval;
        let timed = step.as_ref().map(|step| {
            let seconds = of_step.seconds + per_step;
            (seconds, ranks as f64 * step.seconds / seconds)
        });
        let record = RanksRecord {
            event: "ranks",
            ranks,
            shards,
            interconnect: interconnect.to_string(),
            sparse_values: numbers.sparse,
            dense_values: numbers.dense,
            moments: numbers.moments,
            sum_bytes_per_step: of_step.sum_bytes,
            other_bytes_per_step: of_step.other_bytes,
            growth_bytes_per_update: growth.bytes,
            step_seconds: timed.map(|(seconds, _)| seconds),
            waiting_for_sums: timed.map(|_| of_step.waiting),
            waiting_for_growth: timed.map(|_| per_step),
            speed_up: timed.map(|(_, speed_up)| speed_up),
        };
        if json {
            print_record(&record)?;
            continue;
        }
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let time = |seconds: f64| format!("{} ms", Significant(1e3 * seconds));
        table.row([
            ranks.to_string(),
            bytes_text(record.sum_bytes_per_step as u64),
            bytes_text(record.growth_bytes_per_update as u64),
            or_none(record.step_seconds.map(time)),
            or_none(record.waiting_for_sums.map(time)),
            or_none(record.waiting_for_growth.map(time)),
            or_none(record.speed_up.map(|speed_up| format!("{}×", Significant(speed_up)))),
            or_none(record.speed_up.map(|speed_up| format!("{:.0}%", 100.0 * speed_up / ranks as f64))),
        ]);
    }
    if json {
        return Ok(());
    }
    let Numbers { sparse, dense, moments, .. } = numbers;
    print_text(format_args!(
        "a step sums {sparse} stored values of sparse layers, {dense} other parameters and {moments} batch moments"
    ))?;
    print_text(format_args!("{table}"))?;
    print_text(format_args!("interconnect {interconnect}; waiting for growth is averaged over all steps"))?;
    Ok(())
}

/// Whether the method asks for dense gradients at every step.
fn needs_dense(
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    steps: u64,
) -> crate::Result<bool> {
    Ok(needs(config, architecture, densities, steps, |_| 1)?.contains(&GradientNeed::Dense))
}

/// What the method asks for at one step, as a new run would.
fn needs(
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    steps: u64,
    step: impl FnOnce(Option<UpdateWindow>) -> u64,
) -> crate::Result<Vec<GradientNeed>> {
    let cpu = Cpu::new(1, None)?;
    let network = FirstModel::random(config, architecture, densities.to_vec())?.network(&cpu, config, 1)?;
    let (mut method, window) = config.scheduled_method(steps)?;
    let layers = network.sparse_layers(&cpu);
    method.start(&layers)?;
    Ok(method.before_gradient(step(window), &layers)?.needs)
}

/// What an update looks for.
fn growths(
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    steps: u64,
) -> crate::Result<Vec<GrowthSize>> {
    let info = config.method.info();
    if !info.update_gradient.grows() || info.updates != UpdateTimes::Scheduled {
        return Ok(vec![]);
    }
    if info.update_gradient == UpdateGradient::Sample {
        let first = |window: Option<UpdateWindow>| window.map_or(0, |window| window.begin);
        let sample = |need| match need {
            GradientNeed::Explore(ExploreRequest { exclude, samples, .. }) => {
                Some(GrowthSize::Sample { activities: exclude.nrows() + exclude.ncols(), samples })
            }
            _ => None,
        };
        return Ok(needs(config, architecture, densities, steps, first)?.into_iter().filter_map(sample).collect());
    }
    let block_rows = if let Format::Bsr([rows, _]) = config.format { rows } else { 1 };
    let sparse = architecture.layers.iter().zip(densities).filter(|(_, solved)| solved.nnz < solved.size);
    let growth = |(layer, solved): (&WeightLayer, &LayerDensity)| {
        let rows = layer.rows();
        let of_tile = growth_tile_rows([rows, layer.columns()], block_rows).min(rows);
        let candidates = (config.drop_fraction * solved.nnz as f64) as usize;
        GrowthSize::Tiles { tiles: rows.div_ceil(of_tile), positions: of_tile * layer.columns(), candidates }
    };
    Ok(sparse.map(growth).collect())
}
