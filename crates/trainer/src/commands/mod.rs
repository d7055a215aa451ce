//! The commands, one file each.

mod bench_kernel;
mod bench_step;
mod plan;
mod train;

use rigl::LayerDensity;

use crate::args::{BenchCommand, Command};
use crate::config::{ConfigError, FlopsConvention};
use crate::data::DataError;
use crate::models::Architecture;
use crate::run_dir::RunDirError;

/// Runs a command.
///
/// # Errors
/// Whatever stops it; [`exit_code`] tells the kind.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Bench(BenchCommand::Kernel(args)) => bench_kernel::run(&args),
        Command::Bench(BenchCommand::Step(args)) => bench_step::run(&args),
    }
}

/// The counting rule of a setting.
fn convention(convention: FlopsConvention) -> rigl::FlopsConvention {
    match convention {
        FlopsConvention::Mac2 => rigl::FlopsConvention::Mac2,
        FlopsConvention::Paper => rigl::FlopsConvention::Paper,
        FlopsConvention::Micronet => rigl::FlopsConvention::Micronet,
    }
}

/// Operations of one sample's forward pass: `[at these densities, dense]`.
fn forward_flops(architecture: &Architecture, densities: &[LayerDensity], rule: FlopsConvention) -> [f64; 2] {
    let mut flops = [0.0; 2];
    for (layer, solved) in architecture.layers.iter().zip(densities) {
        for (total, density) in flops.iter_mut().zip([solved.nnz as f64 / solved.size as f64, 1.0]) {
            *total += layer.geometry().forward_flops(density, convention(rule));
        }
    }
    flops
}

/// The process's exit code for an error: 2 if the command line, the configuration or the files it names must change,
/// 1 if the run failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<rigl::DistributionError>()
            || cause.is::<rigl::ScheduleError>()
            || cause.is::<crate::bench::patterns::PatternError>()
            || matches!(cause.downcast_ref(), Some(sparse_kernels::BackendError::IsaUnavailable { .. }))
            || cause.downcast_ref::<DataError>().is_some_and(DataError::is_usage)
            || matches!(cause.downcast_ref(), Some(RunDirError::Occupied { .. } | RunDirError::Config(_)))
    });
    if usage { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_told_from_failure() {
        let missing = crate::data::load("mnist", None).unwrap_err();
        let broken = crate::data::idx::parse_labels("labels".as_ref(), [0u8; 8].as_slice(), 10).unwrap_err();
        let conflict = ConfigError::Conflict { first: "epochs", second: "steps" };
        let occupied = RunDirError::Occupied { path: "runs/1".into(), file: "config.toml" };
        assert_eq!(exit_code(&anyhow::Error::from(missing).context("loading")), 2);
        assert_eq!(exit_code(&conflict.into()), 2);
        assert_eq!(exit_code(&occupied.into()), 2);
        assert_eq!(exit_code(&broken.into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("loss is NaN")), 1);
    }
}
