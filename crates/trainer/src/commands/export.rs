//! `rigl export`: a model, or one of its matrices, for other programs.

use super::summary;
use crate::args::ExportArgs;
use crate::exchange::{Target, check_not_read};
use crate::run_dir::load_model;

/// Runs the command.
///
/// # Errors
/// If the model cannot be read, or what is asked for cannot be written.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let target = Target::new(&args.out, args.format, args.layer.as_deref(), args.dense)?;
    let (model, loaded) = load_model(&args.model)?;
    check_not_read(&args.out, &[loaded])?;
    let layers = target.layers(&model)?;
    target.write(&model)?;
    summary::print("export", &args.out, target.format(), layers, args.json)
}
