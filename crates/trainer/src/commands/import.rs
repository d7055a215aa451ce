//! `rigl import`: a model of other programs' files.

use std::path::PathBuf;

use clap::Args;

use super::summary;
use super::values::parse_count;
use crate::exchange::{NetworkOptions, check_out, leave_out_zeros, own_nnz, prune, read_model};
use crate::models::{MOST_WIDTH, ModelName, Stem};
use crate::settings::error::ConfigError;
use crate::settings::{DensityArgs, SpreadArgs, TrainConfig, TrainOptions};

const IMPORT_EXAMPLES: &str = "\
Examples:
  rigl import state_dict.safetensors --density 0.1 --out model.safetensors
      prunes the smallest weights of each layer of a dense PyTorch model; then
      rigl train --init-from model.safetensors trains it further, and
      rigl eval model.safetensors evaluates it
  rigl import pruned.safetensors --out model.safetensors
      a model pruned by another program: its zeros, or its weight_orig and
      weight_mask, are the pattern
  rigl import resnet18.safetensors --classes 10 --out model.safetensors
      a convolutional network with torchvision's names, with a new last layer
      for 10 classes
  rigl import fc1.npz fc2.npz fc3.npz --out model.safetensors
      a multi-layer perceptron from matrices [outputs, inputs], in this order,
      with zero biases
  rigl import matrices --out model.safetensors
      a folder written by rigl export, with biases";

/// Trained weights are hardly ever exactly zero: a layer in which so many are has been pruned.
const PATTERN_SHARE: f64 = 0.5;

/// `rigl import`.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES, mut_arg("density", |density| {
    density.help(
        "Prune each layer's smallest weights to reach this overall density, in (0, 1]. A model that is already this sparse \
         keeps its pattern. Zeros in dense layers are dropped, unless the density is 1 [default: no pruning; a dense layer \
         of which at least half is zero keeps only its nonzeros]",
    )
}))]
pub struct ImportArgs {
    /// One .safetensors file, one folder of matrix files, or matrix files (.npz, .mtx, .smtx, .npy) from input to output
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,
    /// The model file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Layer names from input to output, for a .safetensors file or a folder; needed if neither sizes nor numbers in the
    /// names determine the order
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', num_args = 1)]
    pub order: Option<Vec<String>>,
    /// The convolutional network that a .safetensors file holds [default: the one that its metadata describes, else the known
    /// one that has its layers]
    #[arg(long, value_name = "NAME")]
    pub model: Option<ModelName>,
    /// Factor on that network's channels
    #[arg(long, value_name = "FACTOR")]
    pub width: Option<f64>,
    /// First layers of a residual network [default: by its first convolution]
    #[arg(long, value_name = "STEM")]
    pub stem: Option<Stem>,
    /// Height and width of the network's input images [default: those of the file's metadata, else of the paper]
    #[arg(long, value_name = "PIXELS", value_parser = parse_count)]
    pub image_size: Option<usize>,
    /// Classes of a convolutional network; if the file has another number, its last layer is replaced by a new one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub classes: Option<usize>,
    /// What to prune to.
    #[command(flatten)]
    pub density: DensityArgs,
    /// How it is spread.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// Seed for the values of patterns that have none (.smtx) and of a new last layer, drawn as for a new network
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
    let (prunes, spreads) = (!given.given().is_empty(), !spread.given().is_empty());
    if let (false, Some(option)) = (prunes, spread.given().first()) {
        return Err(ConfigError::NoEffect { option, needs: "--density or --sparsity" }.into());
    }
    if let Some(width) = args.width.filter(|&width| !(width > 0.0 && width <= MOST_WIDTH)) {
        let rule = "above 0 and at most 16";
        return Err(ConfigError::Value { option: "width", value: width.to_string(), rule }.into());
    }
    let options = NetworkOptions {
        model: args.model.clone(),
        width: args.width,
        stem: args.stem,
        image_size: args.image_size,
        classes: args.classes,
        seed: args.seed,
    };
    let mut model = read_model(&args.sources, args.order.as_deref(), &options)?;
    if prunes {
        let config = TrainConfig::of(&TrainOptions { model: Some(model.name()), ..given.or(spread) })?;
        config.check()?;
        let densities = config.sparsification().solve(&model.architecture()?)?;
        let (own, allowed): (_, usize) = (own_nnz(&model), densities.iter().map(|density| density.nnz).sum());
        // Sparse enough already, but for a weight a layer that another program may have rounded up: another spread over the
        // layers would only replace the pattern.
        if config.density < 1.0 && !spreads && own <= allowed + densities.len() {
            if own < allowed {
                tracing::warn!(
                    "the model has {own} weights, fewer than the {allowed} that this density allows; its pattern is unchanged"
                );
            }
            leave_out_zeros(&mut model, 0.0)?;
        } else {
            prune(&mut model, &densities)?;
        }
    } else {
        leave_out_zeros(&mut model, PATTERN_SHARE)?;
    }
    model.save(&args.out)?;
    summary::print("import", &args.out, "safetensors", &model.layers, args.json)
}
