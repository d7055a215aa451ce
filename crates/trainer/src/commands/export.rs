//! `rigl export`: a model, or one of its matrices, for other programs.

use std::path::PathBuf;

use clap::Args;

use super::summary;
use crate::exchange::{ExchangeFormat, Target, check_not_read};
use crate::run_checkpoints::{Which, load_model_of};

const EXPORT_EXAMPLES: &str = "\
Examples:
  rigl export runs/1 --out model.safetensors
      the run's model with PyTorch's names: fc1.weight.crow_indices,
      .col_indices, .values, fc1.bias
  rigl export runs/1 --out state_dict.safetensors --dense
      the same with dense matrices, which a dense PyTorch module can load
  rigl export runs/1 --out model.onnx
      the whole network for onnxruntime: input pixels from 0 to 1, normalised inside; output logits
  rigl export runs/1 --layer fc1 --out fc1.npz
      one matrix for scipy.sparse.load_npz; .mtx, .smtx (pattern only) and
      .npy (dense) work the same way
  rigl export runs/1 --out matrices --format mtx
      every layer's weight and bias, as files in a folder";

/// `rigl export`.
#[derive(Debug, Args)]
#[command(after_long_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// A run folder, a checkpoint or an imported model
    pub model: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, default_value_t = Which::Newest)]
    pub which: Which,
    /// The file to write; a folder for a whole model as matrix files
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// The files' format [default: from the extension of --out]
    #[arg(long, value_enum)]
    pub format: Option<ExchangeFormat>,
    /// Write only this layer's weight matrix
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// Write dense matrices, including zeros (safetensors, mtx; npy and onnx are always dense)
    #[arg(long)]
    pub dense: bool,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read, or what is asked for cannot be written.
pub fn run(args: &ExportArgs) -> crate::Result<()> {
    let target = Target::new(&args.out, args.format, args.layer.as_deref(), args.dense)?;
    let (model, loaded) = load_model_of(&args.model, args.which)?;
    check_not_read(&args.out, &[loaded])?;
    let layers = target.layers(&model)?;
    target.write(&model)?;
    summary::print("export", &args.out, target.format(), layers, args.json)
}
