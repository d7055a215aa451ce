//! `rigl plan`: what a network would be and cost, before anything runs.

use serde::Serialize;
use sparse_kernels::Storage;
use sparse_kernels::cpu::Cpu;

use crate::args::PlanArgs;
use crate::config::{Format, Init, Method, TrainConfig};
use crate::models::{Architecture, Initialization, Network, Sparsification};
use crate::report::{Significant, Table, print_record, print_text};
use crate::training;

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
    /// Weights and biases of the dense network.
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
    dense_training_bytes: usize,
}

/// Runs the command.
///
/// # Errors
/// If a density is impossible or the network does not fit into memory.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let architecture = Architecture::of(&args.model);
    let density = args.density.given().unwrap_or(TrainConfig::default().density);
    let density = if args.method == crate::config::Method::Dense { 1.0 } else { density };
    let sparsification = args.spread.sparsification(args.method, density, args.format);
    let config = TrainConfig {
        model: args.model.clone(),
        method: args.method,
        update_interval: args.update_interval,
        batch_size: args.batch_size,
        layer_rule: args.spread.layer_rule,
        format: args.format,
        ..TrainConfig::default()
    };
    config.check()?;
    let densities = sparsification.solve(&architecture)?;
    let convention = args.flops_convention;
    let [sparse_flops, dense_flops] = super::forward_flops(&architecture, &densities, convention);
    let (method, _) = training::method(&config, u64::MAX / 8)?;
    let train_flops_ratio = method.training_flops(sparse_flops, dense_flops) / (3.0 * dense_flops);

    let mut table = Table::new(["layer", "shape", "density", "nnz", "stored", "flops/sample"]);
    let paper_size = |density: f64, layer: &crate::models::WeightLayer| layer.geometry().paper_size_bytes(density);
    let mut paper_size_bytes = 0.0;
    for (layer, solved) in architecture.layers.iter().zip(&densities) {
        let density = solved.nnz as f64 / solved.size as f64;
        let flops = layer.geometry().forward_flops(density, super::convention(convention));
        paper_size_bytes += paper_size(density, layer);
        let nnz_blocks = match args.format {
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
            None => args.format.to_string(),
        };
        table.row([
            record.name,
            super::dimensions(layer),
            Significant(density).to_string(),
            solved.nnz.to_string(),
            stored,
            Significant(flops).to_string(),
        ]);
    }

    let nnz: usize = densities.iter().map(|d| d.nnz).sum();
    let bytes = bytes(&config, &architecture, &densities)?;
    let dense = dense_bytes(&config, &architecture)?;
    let total = TotalRecord {
        event: "total",
        params: architecture.parameters(),
        nnz,
        density: nnz as f64 / architecture.size() as f64,
        format: args.format.to_string(),
        inference_flops: sparse_flops,
        inference_flops_ratio: sparse_flops / dense_flops,
        train_flops_ratio,
        paper_size_bytes,
        storage_bytes: bytes.storage,
        training_bytes: bytes.training,
        dense_training_bytes: dense.training,
    };
    if args.json {
        print_record(&total)?;
        return Ok(());
    }
    print_text(format_args!("{table}"))?;
    let dense_paper_size: f64 = architecture.layers.iter().map(|l| paper_size(1.0, l)).sum();
    let dense_storage = 4 * architecture.parameters();
    let mut totals = Table::new(["", "this network", "dense", "ratio"]);
    let ratio = |a: f64, b: f64| format!("{:.4}×", a / b);
    let mut row = |name: &str, this: f64, dense: f64, show: &dyn Fn(f64) -> String| {
        totals.row([name.to_owned(), show(this), show(dense), ratio(this, dense)]);
    };
    let count = |value: f64| format!("{value:.0}");
    let kilobytes = |value: f64| format!("{} kB", Significant(value / 1e3));
    row("weights", nnz as f64, architecture.size() as f64, &count);
    row("inference flops/sample", sparse_flops, dense_flops, &count);
    row("training flops/sample", train_flops_ratio * 3.0 * dense_flops, 3.0 * dense_flops, &count);
    row("size, bitmask format", paper_size_bytes, dense_paper_size, &kilobytes);
    row(
        &format!("size, {}", args.format.to_string().to_uppercase().replace('X', "x")),
        bytes.storage as f64,
        dense_storage as f64,
        &kilobytes,
    );
    row("training memory", bytes.training as f64, total.dense_training_bytes as f64, &kilobytes);
    print_text(format_args!("{totals}"))?;
    print_text(format_args!(
        "flops are counted as {convention}; training with {} and batches of {}",
        args.method, args.batch_size
    ))?;
    Ok(())
}

/// Memory of a network.
struct Bytes {
    /// Patterns, weights and biases.
    storage: usize,
    /// All parameters with gradients, slots and plans, and the activations of a step.
    training: usize,
}

/// Counted on the network itself, built and planned as for training, so that nothing is left out.
fn bytes(config: &TrainConfig, architecture: &Architecture, densities: &[rigl::LayerDensity]) -> anyhow::Result<Bytes> {
    let cpu = Cpu::new(1, None)?;
    let initialization = Initialization { format: config.format, init: Init::DenseFanIn, seed: 0 };
    let mut network = Network::new(&cpu, architecture, densities, initialization, config.batch_size)?;
    let storage = network.parameters.total_bytes(&cpu);
    training::optimizer(config, &cpu, &mut network)?;
    let held = network.parameters.total_bytes(&cpu);
    let gradients: usize = network.parameters.iter().map(|(_, p)| 4 * cpu.len(p.value().values())).sum();
    let activations = network.body.activation_bytes(architecture, config.batch_size);
    Ok(Bytes { storage: storage.pattern + storage.values, training: held.total() + gradients + activations })
}

/// The same of the dense network.
fn dense_bytes(config: &TrainConfig, architecture: &Architecture) -> anyhow::Result<Bytes> {
    let densities = Sparsification { method: Method::Dense, ..Sparsification::of(config) }.solve(architecture)?;
    bytes(config, architecture, &densities)
}
