//! `rigl plan`: what a network would be and cost, before anything runs.

use std::str::FromStr;

use autograd::optim::Optimizer;
use clap::Args;
use rigl::{LayerDensity, UpdateGradient, WeightStorage, nnz_for_density};
use serde::Serialize;
use sparse_kernels::Storage;
use sparse_kernels::cpu::Ledger;

use super::network::PictureArgs;
use super::plan_ranks::{self, RanksArgs};
use super::values::parse_positive;
use crate::first_model::FirstModel;
use crate::fit;
use crate::method::Method;
use crate::models::{Architecture, Definition, Format, MOST_WIDTH, width};
use crate::report::{Significant, Table, bytes_text, dimensions, print_record, print_text};
use crate::settings::error::ConfigError;
use crate::settings::{
    BatchArgs, CountArgs, DensityArgs, FormatArgs, MethodArgs, ModelArgs, PrecisionArgs, SequenceArgs, SpreadArgs,
    TrainConfig, TrainOptions, UpdateArgs,
};
use crate::training::{Held, activation_bytes, activation_bytes_of};

/// `rigl plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The network.
    #[command(flatten)]
    pub network: ModelArgs,
    /// Multiplier for the channel counts; or small-dense, the dense network as large as the sparse one at this density;
    /// or big-sparse, the sparse one of the size of the dense one. Ratios are to the dense network of width 1
    #[arg(long, value_name = "FACTOR|small-dense|big-sparse", default_value = "1")]
    pub width: Width,
    /// Give each layer the density it has at width 1, as the paper's notebook does for wide networks, not the one that
    /// the distribution gives it at this width
    #[arg(long)]
    pub densities_of_width_1: bool,
    /// The network's input, where its name does not say.
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// What the name of a text model leaves open.
    #[command(flatten)]
    pub sequence: SequenceArgs,
    /// The method, which decides the operations of training.
    #[command(flatten)]
    pub method: MethodArgs,
    /// How dense the layers are.
    #[command(flatten)]
    pub density: DensityArgs,
    /// How the density is distributed.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// How sparse layers are stored.
    #[command(flatten)]
    pub format: FormatArgs,
    /// When the topology changes.
    #[command(flatten)]
    pub updates: UpdateArgs,
    /// Steps of the training; together with the window of updates, they decide the operations of a method whose density falls
    #[arg(long, value_name = "STEPS", default_value_t = 32_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Factor on the number of training steps, as in the paper's "5x" rows; affects the operations of training
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_positive)]
    pub train_length: f64,
    /// Samples in a batch.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// How activations are stored.
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// How to count operations.
    #[command(flatten)]
    pub counting: CountArgs,
    /// What ranks would send.
    #[command(flatten)]
    pub ranks: RanksArgs,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
    /// Print only the network, as a file that --model accepts (docs/own-networks.md)
    #[arg(long, conflicts_with = "json")]
    pub as_toml: bool,
}

impl PlanArgs {
    /// The settings of a training of this network.
    pub(super) fn config(&self) -> Result<TrainConfig, ConfigError> {
        let given =
            TrainOptions::from(&self.network).or(&self.sequence).or(&self.method).or(&self.density).or(&self.spread);
        TrainConfig::of(
            &given.or(&self.format).or(&self.updates).or(&self.batch).or(&self.precision).or(&self.counting),
        )
    }
}

/// A factor on a network's channels, or the size it aims for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Width {
    /// The factor.
    Factor(f64),
    /// See [`crate::models::width::small_dense`].
    SmallDense,
    /// See [`crate::models::width::big_sparse`].
    BigSparse,
}

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "small-dense" => Ok(Self::SmallDense),
            "big-sparse" => Ok(Self::BigSparse),
            _ => match text.parse() {
                Ok(factor) if factor > 0.0 && factor <= MOST_WIDTH => Ok(Self::Factor(factor)),
                _ => Err("it must be a factor above 0 and at most 16, small-dense or big-sparse".to_owned()),
            },
        }
    }
}

/// The record of one layer.
#[derive(Debug, Serialize)]
struct LayerRecord {
    event: &'static str,
    name: String,
    shape: Vec<usize>,
    /// As stored: nnz / size.
    density: f64,
    /// Padding of blocks included.
    nnz: usize,
    /// Blocks of a layer in such.
    #[serde(skip_serializing_if = "Option::is_none")]
    nnz_blocks: Option<usize>,
    /// Of a forward pass of one sample.
    flops: f64,
}

/// The record of the network.
#[derive(Debug, Serialize)]
struct TotalRecord {
    event: &'static str,
    /// Factor on the channels.
    width: f64,
    /// Everything that is learned of the dense network of this width.
    params: usize,
    nnz: usize,
    density: f64,
    format: String,
    inference_flops: f64,
    inference_flops_ratio: f64,
    train_flops_ratio: f64,
    paper_size_bytes: f64,
    storage_bytes: usize,
    training_bytes: usize,
    /// Of these, weights with their patterns, plans and transposed copies; and biases, normalisations, statistics.
    parameter_bytes: usize,
    /// Of these, gradients of parameters.
    gradient_bytes: usize,
    /// Of these, the optimizer's.
    slot_bytes: usize,
    /// Of these, activations and their gradients.
    activation_bytes: usize,
    /// Of these, what updates hold beside a step: dense gradients of growth over several batches, the outputs' gradient of a network that
    /// reads lists.
    growth_bytes: usize,
    /// Of these, what the method holds itself, and the dense gradients that it asks for at every step.
    method_bytes: usize,
    dense_training_bytes: usize,
    /// About what a process takes at most that computes a step: these and itself.
    peak_bytes: usize,
    dense_peak_bytes: usize,
}

/// What a process takes that computes steps, beside what they need: its code, stacks and libraries. Measured on Linux.
const PROCESS_BYTES: usize = 20 << 20;

/// Runs the command.
///
/// # Errors
/// If a density is impossible or the network does not fit into memory.
pub fn run(args: &PlanArgs) -> crate::Result<()> {
    let mut config = args.config()?;
    let asked = config.sparsification();
    let spec = args.pictures.spec(&args.network, &args.sequence)?;
    let by_size = !matches!(args.width, Width::Factor(_));
    let has_width = config.model.family().is_some() || config.model.sequence().is_some();
    if !has_width && args.width != Width::Factor(1.0) {
        return Err(ConfigError::NoEffect { option: "width", needs: "a convolutional network by name" }.into());
    }
    if by_size && config.method.is_dense() {
        let needs = "the sparse method to compare with, not dense";
        return Err(ConfigError::NoEffect { option: "width", needs }.into());
    }
    let width = match args.width {
        Width::Factor(width) => width,
        Width::SmallDense => {
            (config.method, config.density) = (Method::named("dense"), 1.0);
            width::small_dense(&spec, &asked)?
        }
        Width::BigSparse => width::big_sparse(&spec, &asked)?,
    };
    let sparsification = config.sparsification();
    let architecture = fit::architecture(&spec.clone().with_width(width))?;
    fit::check_recompute(args.precision.recompute, &architecture)?;
    config.check()?;
    if args.as_toml {
        if architecture.reads_tokens() || architecture.reads_lists() {
            let needs = "a network of features or images: those that read tokens or lists have names only";
            return Err(ConfigError::NoEffect { option: "as-toml", needs }.into());
        }
        print_text(Definition::of(&architecture).to_toml().trim_end())?;
        return Ok(());
    }
    // What all is compared with: the dense network of width 1.
    let dense_architecture = fit::architecture(&spec)?;
    let mut densities = sparsification.solve(&architecture)?;
    if args.densities_of_width_1 {
        for (wide, narrow) in densities.iter_mut().zip(sparsification.solve(&dense_architecture)?) {
            let nnz = nnz_for_density(wide.size, narrow.density);
            *wide = LayerDensity { density: narrow.density, nnz, size: wide.size };
        }
    }
    let convention = config.flops_convention;
    let [sparse_flops, wide_flops] = architecture.forward_flops(&densities, convention);
    let dense_flops = dense_architecture.dense_flops(convention);
    let (built, _) = config.scheduled_method(args.steps)?;
    let step_flops = built.training_flops(built.mean_forward_flops(sparse_flops, wide_flops), wide_flops);
    let train_flops_ratio = rigl::flops::training_flops_ratio(step_flops, dense_flops, args.train_length);

    let sample = if architecture.reads_tokens() { "token" } else { "sample" };
    let of_sample = if sample == "token" { "flops/token" } else { "flops/sample" };
    let mut table = Table::new(["layer", "shape", "density", "nnz", "stored", of_sample]);
    let paper_size = |density: f64, layer: &crate::models::WeightLayer| layer.geometry().paper_size_bytes(density);
    let mut paper_size_bytes = 0.0;
    for (layer, solved) in architecture.layers.iter().zip(&densities) {
        let density = solved.nnz as f64 / solved.size as f64;
        let flops = layer.geometry().forward_flops(density, convention);
        paper_size_bytes += paper_size(density, layer);
        let nnz_blocks = match config.format {
            Format::Bsr([r, c]) if solved.nnz < solved.size => Some(solved.nnz / (r * c)),
            _ => None,
        };
        let record = LayerRecord {
            event: "layer",
            name: layer.name.clone(),
            shape: layer.dimensions(),
            density,
            nnz: solved.nnz,
            nnz_blocks,
            flops,
        };
        if args.json {
            print_record(&record)?;
        }
        let stored = match nnz_blocks {
            _ if solved.nnz == solved.size => "dense".to_owned(),
            Some(blocks) => format!("{blocks} blocks"),
            None => config.format.to_string(),
        };
        table.row([
            record.name,
            dimensions(&layer.dimensions()),
            Significant(density).to_string(),
            solved.nnz.to_string(),
            stored,
            Significant(flops).to_string(),
        ]);
    }

    let nnz: usize = densities.iter().map(|d| d.nnz).sum();
    let bytes = bytes(&config, &architecture, &densities, built.as_ref())?;
    let dense_training_bytes = dense_training_bytes(&dense_architecture, config.held_at_a_time(usize::MAX))?;
    let total = TotalRecord {
        event: "total",
        width,
        params: architecture.parameters(),
        nnz,
        density: nnz as f64 / architecture.size() as f64,
        format: config.format.to_string(),
        inference_flops: sparse_flops,
        inference_flops_ratio: sparse_flops / dense_flops,
        train_flops_ratio,
        paper_size_bytes,
        storage_bytes: bytes.storage,
        training_bytes: bytes.training,
        parameter_bytes: bytes.parameters,
        gradient_bytes: bytes.gradients,
        slot_bytes: bytes.slots,
        activation_bytes: bytes.activations,
        growth_bytes: bytes.growth,
        method_bytes: bytes.method,
        dense_training_bytes,
        peak_bytes: bytes.training + PROCESS_BYTES,
        dense_peak_bytes: dense_training_bytes + PROCESS_BYTES,
    };
    if args.json {
        print_record(&total)?;
        return plan_ranks::print(&args.ranks, &config, &architecture, &densities, args.steps, true);
    }
    print_text(format_args!("{table}"))?;
    let dense_paper_size: f64 = dense_architecture.layers.iter().map(|l| paper_size(1.0, l)).sum();
    let dense_storage = 4 * dense_architecture.parameters();
    let mut totals = Table::new(["", "this network", "dense", "ratio"]);
    let ratio = |a: f64, b: f64| if b > 0.0 { format!("{:.4}×", a / b) } else { "–".to_owned() };
    let mut row = |name: &str, this: f64, dense: f64, show: &dyn Fn(f64) -> String| {
        totals.row([name.to_owned(), show(this), show(dense), ratio(this, dense)]);
    };
    let count = |value: f64| format!("{value:.0}");
    let size = |bytes: f64| bytes_text(bytes as u64);
    row("weights", nnz as f64, dense_architecture.size() as f64, &count);
    row(&format!("inference flops/{sample}"), sparse_flops, dense_flops, &count);
    row(&format!("training flops/{sample}"), train_flops_ratio * 3.0 * dense_flops, 3.0 * dense_flops, &count);
    row("size, bitmask format", paper_size_bytes, dense_paper_size, &size);
    row(
        &format!("size, {}", config.format.to_string().to_uppercase().replace('X', "x")),
        bytes.storage as f64,
        dense_storage as f64,
        &size,
    );
    row("training memory", bytes.training as f64, total.dense_training_bytes as f64, &size);
    let learned = 4 * dense_architecture.parameters();
    row("  weights, patterns", bytes.parameters as f64, learned as f64, &size);
    row("  their gradients", bytes.gradients as f64, learned as f64, &size);
    row(&format!("  slots of {}", config.optimizer), bytes.slots as f64, learned as f64, &size);
    let dense_activations = total.dense_training_bytes - 3 * learned;
    row("  activations", bytes.activations as f64, dense_activations as f64, &size);
    if bytes.growth > 0 {
        row("  gradients for growth", bytes.growth as f64, 0.0, &size);
    }
    if bytes.method > 0 {
        row(&format!("  held for {}", config.method), bytes.method as f64, 0.0, &size);
    }
    row("peak process memory", total.peak_bytes as f64, total.dense_peak_bytes as f64, &size);
    print_text(format_args!("{totals}"))?;
    print_text(format_args!(
        "flops are counted as {convention}; training with {} and batches of {}",
        config.method, config.batch_size
    ))?;
    if width != 1.0 {
        print_text(format_args!(
            "the network has {width} times the channels; the dense network in the table has width 1"
        ))?;
    }
    plan_ranks::print(&args.ranks, &config, &architecture, &densities, args.steps, false)
}

/// Memory of a network.
struct Bytes {
    /// Patterns, weights and biases.
    storage: usize,
    /// All parameters with gradients, slots and plans, and the activations of a step.
    training: usize,
    parameters: usize,
    gradients: usize,
    slots: usize,
    activations: usize,
    /// Of these, what updates hold beside a step: dense gradients of growth over several batches, the outputs' gradient of a network that
    /// reads lists.
    growth: usize,
    /// Of these, what the method holds itself, and the dense gradients that it asks for at every step.
    method: usize,
}

/// Counted on the network itself, built and planned as for training, so that nothing is left out. Of a network that begins
/// dense, the beginning, when it is largest; but `storage` is that of the network with the densities asked for.
fn bytes(
    config: &TrainConfig,
    architecture: &Architecture,
    densities: &[LayerDensity],
    method: &dyn rigl::Method,
) -> crate::Result<Bytes> {
    let network = |ledger: &Ledger, config: &TrainConfig| {
        FirstModel::random(config, architecture, densities.to_vec())?.network(ledger, config, config.batch_size)
    };
    // Stored at its final density, if the method does not store it so from the first step on.
    let of_end = match config.method.info().storage {
        WeightStorage::Sparse if config.start_density().is_none() => None,
        WeightStorage::Dense if densities.iter().all(|solved| solved.nnz == solved.size) => None,
        _ => {
            let ledger = Ledger::new()?;
            let network = network(&ledger, &TrainConfig { method: Method::named("static"), ..config.clone() })?;
            Some(network.parameters.total_bytes(&ledger))
        }
    };
    let ledger = Ledger::new()?;
    let mut network = network(&ledger, config)?;
    Optimizer::new(config.optimizer_options(), &ledger, &mut network.parameters)?;
    let held = network.parameters.total_bytes(&ledger);
    let of_end = of_end.unwrap_or(held);
    let learned = network.parameters.iter().filter(|(_, p)| p.value().is_learned());
    let gradients: usize = learned.map(|(_, p)| 4 * ledger.len(p.value().values())).sum();
    let samples = config.held_at_a_time(usize::MAX);
    let activations = activation_bytes_of(&ledger, &mut network, samples, config.held())?;
    let sparse = architecture.layers.iter().zip(densities).filter(|(_, solved)| solved.nnz < solved.size);
    let positions: usize = sparse.map(|(layer, _)| layer.size()).sum();
    let is_summed = config.growth_batches > 1 && config.method.info().update_gradient == UpdateGradient::Dense;
    let update_gradient = config.method.info().update_gradient;
    let growth = match is_summed {
        true => 4 * positions,
        // At an update, the gradient of all outputs of a network that reads lists is held whole; a sample of positions also needs
        // its inputs so, on the host and on the device.
        false if architecture.reads_lists() && update_gradient.grows() => {
            let inputs = if update_gradient == UpdateGradient::Dense { 0 } else { 2 * architecture.inputs() };
            4 * samples * (architecture.classes() + inputs)
        }
        false => 0,
    };
    let method = method.held_bytes(&network.sparse_layers(&ledger));
    let training = held.total() + gradients + activations + growth + method;
    let (storage, slots) = (of_end.pattern + of_end.values, held.slots);
    let (parameters, gradients) = (held.total() - slots - held.gradient, gradients + held.gradient);
    Ok(Bytes { storage, training, parameters, gradients, slots, activations, growth, method })
}

/// Weight, gradient and momentum of a dense network, and its activations in f32.
fn dense_training_bytes(architecture: &Architecture, batch_size: usize) -> crate::Result<usize> {
    Ok(12 * architecture.parameters() + activation_bytes(architecture, false, batch_size, Held::default())?)
}
