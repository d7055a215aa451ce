//! `rigl import`: a model of other programs' files.

use std::path::PathBuf;

use clap::Args;

use super::summary;
use crate::exchange::{check_out, prune, read_model};
use crate::models::Architecture;
use crate::settings::error::ConfigError;
use crate::settings::{DensityArgs, SpreadArgs, TrainConfig, TrainOptions};

const IMPORT_EXAMPLES: &str = "\
Examples:
  rigl import state_dict.safetensors --density 0.1 --out model.safetensors
      prunes the smallest weights of each layer of a dense PyTorch model; then
      rigl train --init-from model.safetensors   trains it further, and rigl eval model.safetensors evaluates it
  rigl import fc1.npz fc2.npz fc3.npz --out model.safetensors
      a multi-layer perceptron from matrices [outputs, inputs], in this order, with zero biases
  rigl import matrices --out model.safetensors
      a folder written by rigl export, with biases";

/// `rigl import`.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES, mut_arg("density", |density| {
    density.help("Prune each layer's smallest weights to reach this overall density, in (0, 1] [default: no pruning]")
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
    /// Seed for the values of patterns that have none (.smtx), drawn as for a new network
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the sources cannot be read or make no model, a density is impossible, or the model cannot be written.
pub fn run(args: &ImportArgs) -> crate::Result<()> {
    check_out(&args.out, &args.sources)?;
    let (given, spread) = (TrainOptions::from(&args.density), TrainOptions::from(&args.spread));
    let prunes = !given.given().is_empty();
    if let (false, Some(option)) = (prunes, spread.given().first()) {
        return Err(ConfigError::NoEffect { option, needs: "--density or --sparsity" }.into());
    }
    let mut model = read_model(&args.sources, args.seed)?;
    if prunes {
        let config = TrainConfig::of(&TrainOptions { model: Some(model.name()), ..given.or(spread) })?;
        config.check()?;
        let densities = config.sparsification().solve(&Architecture::of(&config.model))?;
        prune(&mut model, &densities)?;
    }
    model.save(&args.out)?;
    summary::print("import", &args.out, "safetensors", &model.layers, args.json)
}
