//! `rigl bench`: sparse code against dense code.

use clap::Subcommand;

use super::bench_compare::{self, BenchCompareArgs};
use super::bench_kernel::{self, BenchKernelArgs};
use super::bench_step::{self, BenchStepArgs};

/// What `rigl bench` times.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time one operation at one shape and several densities.
    Kernel(BenchKernelArgs),
    /// Time a whole training step of a model at several densities.
    Step(Box<BenchStepArgs>),
    /// Show two files of records side by side: of two machines, two commits or two instruction sets.
    Compare(BenchCompareArgs),
}

/// Runs the command.
///
/// # Errors
/// Those of the measurement.
pub fn run(command: &BenchCommand) -> crate::Result<()> {
    match command {
        BenchCommand::Kernel(args) => bench_kernel::run(args),
        BenchCommand::Step(args) => bench_step::run(args),
        BenchCommand::Compare(args) => bench_compare::run(args),
    }
}
