//! `rigl compress`: what is left of a sparse perceptron without its dead units.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exchange::check_not_read;
use crate::models::{Compressed, StoredModel};
use crate::report::{Significant, Table, print_record, print_text};
use crate::run_checkpoints::load_model;

/// Options of `rigl compress`.
#[derive(Debug, Args)]
pub struct CompressArgs {
    /// A run folder, a checkpoint or an imported model: a multi-layer perceptron
    pub model: PathBuf,
    /// Write the smaller network to this file, which all commands can read
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// The record of a compression.
#[derive(Debug, Serialize)]
struct CompressRecord {
    event: &'static str,
    /// Connected inputs, living hidden units, outputs.
    sizes: Vec<usize>,
    nnz: usize,
    /// nnz over the positions between living units.
    density: f64,
    /// Of one sample's forward pass, a multiply-add being two.
    inference_flops: usize,
    /// A bit for each position, 4 bytes for each weight and bias.
    bitmask_bytes: f64,
    /// The same of the network as it was.
    bitmask_bytes_before: f64,
    checkpoint: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read, is no perceptron, or cannot be written.
pub fn run(args: &CompressArgs) -> crate::Result<()> {
    let (model, checkpoint) = load_model(&args.model)?;
    let compressed = Compressed::of(&model)?;
    if let Some(out) = &args.out {
        check_not_read(out, std::slice::from_ref(&checkpoint))?;
        compressed.model.save(out)?;
    }
    let sizes = compressed.sizes();
    let nnz = compressed.model.nnz();
    let record = CompressRecord {
        event: "compress",
        nnz,
        density: nnz as f64 / compressed.size().max(1) as f64,
        inference_flops: 2 * nnz,
        bitmask_bytes: compressed.bitmask_bytes(),
        bitmask_bytes_before: bitmask_bytes(&model),
        checkpoint,
        out: args.out.clone(),
        sizes,
    };
    if args.json {
        return Ok(print_record(&record)?);
    }
    let join = |sizes: &[usize]| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
    let before: Vec<_> =
        std::iter::once(model.layers[0].weight.shape()[1]).chain(model.layers.iter().map(|l| l.bias.len())).collect();
    let mut table = Table::new(["", "before", "without dead units"]);
    table.row(["units".to_owned(), join(&before), join(&record.sizes)]);
    table.row(["weights".to_owned(), model.nnz().to_string(), nnz.to_string()]);
    let density = [model.density(), record.density].map(|density| Significant(density).to_string());
    table.row(["density".to_owned(), density[0].clone(), density[1].clone()]);
    table.row(["flops/sample".to_owned(), (2 * model.nnz()).to_string(), record.inference_flops.to_string()]);
    let [was, is] = [record.bitmask_bytes_before, record.bitmask_bytes].map(|bytes| format!("{bytes:.0} B"));
    table.row(["size, bitmask format".to_owned(), was, is]);
    print_text(format_args!("{table}"))?;
    match &record.out {
        Some(out) => Ok(print_text(format_args!("written to {}; rigl eval can read it", out.display()))?),
        None => Ok(()),
    }
}

/// Bytes of a model in the paper's format, a mask for each layer included.
fn bitmask_bytes(model: &StoredModel) -> f64 {
    let biases: usize = model.layers.iter().map(|layer| layer.bias.len()).sum();
    model.size() as f64 / 8.0 + 4.0 * (model.nnz() + biases) as f64
}
