//! `rigl import`: a model of other programs' files.

use std::path::PathBuf;

use clap::Args;

use super::network::{DensityArgs, SpreadArgs};
use super::summary;
use crate::exchange::{check_out, prune, read_model};
use crate::method::Method;
use crate::models::{Architecture, Format, LayerRule};
use crate::settings::TrainConfig;
use crate::settings::error::ConfigError;
use rigl::Distribution;

const IMPORT_EXAMPLES: &str = "\
Examples:
  rigl import state_dict.safetensors --density 0.1 --out model.safetensors
      a dense PyTorch model, the smallest weights of each layer pruned; then
      rigl train --init-from model.safetensors   trains it on, rigl eval model.safetensors evaluates it
  rigl import fc1.npz fc2.npz fc3.npz --out model.safetensors
      a multi-layer perceptron of matrices [outputs, inputs], in this order, with biases of 0
  rigl import matrices --out model.safetensors
      a folder that rigl export has written, with biases";

/// `rigl import`.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES, mut_arg("density", |density| {
    density.help("Prune each layer's smallest weights, down to this density of the whole, in (0, 1] [default: no pruning]")
}))]
pub struct ImportArgs {
    /// One .safetensors file, one folder of matrix files, or matrix files (.npz, .mtx, .smtx, .npy) from input to output
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,
    /// The model file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to prune to.
    #[command(flatten)]
    pub density: DensityArgs,
    /// How it is spread.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// Seed of the values of patterns without values (.smtx), which are drawn as a new network's are
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the sources cannot be read or make no model, a density is impossible, or the model cannot be written.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    check_out(&args.out, &args.sources)?;
    if args.density.given().is_none() {
        check_without_density(&args.spread)?;
    }
    let mut model = read_model(&args.sources, args.seed)?;
    if let Some(density) = args.density.given() {
        // The layer rule is for one model only.
        let layer_rule = args.spread.layer_rule;
        TrainConfig { model: model.name(), layer_rule, ..TrainConfig::default() }.check()?;
        let sparsification = args.spread.sparsification(Method::named("rigl"), density, Format::Csr);
        let densities = sparsification.solve(&Architecture::of(&model.name()))?;
        prune(&mut model, &densities)?;
    }
    model.save(&args.out)?;
    summary::print("import", &args.out, "safetensors", &model.layers, args.json)
}

/// How a density is spread means nothing without one.
fn check_without_density(spread: &SpreadArgs) -> Result<(), ConfigError> {
    let without = [
        (spread.distribution != Distribution::ErdosRenyiKernel, "distribution"),
        (spread.erk_power != 1.0, "erk-power"),
        (spread.layer_rule != LayerRule::Distribution, "layer-rule"),
        (!spread.density_override.is_empty(), "density-override"),
    ];
    match without.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(ConfigError::NoEffect { option, needs: "--density or --sparsity" }),
        None => Ok(()),
    }
}
