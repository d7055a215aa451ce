//! The commands, one file each.

mod bench_kernel;
mod bench_step;
mod compare;
mod compress;
mod data;
mod devices;
mod eval;
mod export;
mod import;
mod landscape;
mod plan;
mod report;
mod summary;
mod train;

use self::bench_kernel::ReferenceError;
use crate::args::{BenchCommand, Command};
use crate::checkpoint::CheckpointError;
use crate::comparison::ComparisonError;
use crate::config::{ConfigError, Device};
use crate::data::fetch::FetchError;
use crate::data::{DataError, Dataset};
use crate::device::Place;
use crate::exchange::ExchangeError;
use crate::interrupt;
use crate::landscape::LandscapeError;
use crate::models::{Architecture, ModelSpec, WeightLayer};
use crate::run::RunError;
use crate::run_dir::RunDirError;

/// Runs a command.
///
/// # Errors
/// Whatever stops it; [`exit_code`] tells the kind.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Compress(args) => compress::run(&args),
        Command::Landscape(args) => landscape::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Data(command) => data::run(&command),
        Command::Bench(BenchCommand::Kernel(args)) => bench_kernel::run(&args),
        Command::Bench(BenchCommand::Step(args)) => bench_step::run(&args),
    }
}

/// A network must read what the data has, and know its classes.
pub(crate) fn check_fit(architecture: &Architecture, data: &Dataset) -> Result<(), ConfigError> {
    let model = architecture.name();
    let ModelSpec { channels, size: [height, width], classes, .. } = architecture.spec;
    let expected = [channels, height, width];
    if !architecture.is_mlp() && (expected != data.shape || classes != data.classes) {
        return Err(ConfigError::Pictures {
            model: model.to_string(),
            expected: pictures(expected),
            outputs: classes,
            data: data.name.clone(),
            got: pictures(data.shape),
            classes: data.classes,
        });
    }
    if architecture.is_mlp() && (architecture.inputs() != data.features() || architecture.classes() < data.classes) {
        return Err(ConfigError::Model {
            model: model.to_string(),
            inputs: architecture.inputs(),
            outputs: architecture.classes(),
            data: data.name.to_string(),
            features: data.features(),
            classes: data.classes,
        });
    }
    Ok(())
}

/// Channels, height and width for people: `3×32×32`.
fn pictures(shape: [usize; 3]) -> String {
    shape.map(|size| size.to_string()).join("×")
}

/// The network of a specification.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<Architecture, ConfigError> {
    Architecture::new(spec).map_err(|source| ConfigError::Architecture {
        model: spec.name.to_string(),
        pictures: pictures([spec.channels, spec.size[0], spec.size[1]]),
        source,
    })
}

/// A weight's dimensions for people: `300×784`.
fn dimensions(layer: &WeightLayer) -> String {
    layer.dimensions().iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// `cpu`, or the GPU's name.
fn device_name(device: Device, place: &Place) -> String {
    if device == Device::Cpu { device.to_string() } else { format!("{device} {}", place.device) }
}

/// The process's exit code for an error: 2 if the command line, the configuration or the files it names must change,
/// 130 if the run was interrupted, 1 if it failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(RunError::Interrupted { .. } | RunError::Evaluation)) {
        return interrupt::EXIT_CODE;
    }
    if matches!(error.downcast_ref(), Some(FetchError::Interrupted)) {
        return interrupt::EXIT_CODE;
    }
    if matches!(error.downcast_ref(), Some(ComparisonError::Interrupted { .. })) {
        return interrupt::EXIT_CODE;
    }
    if matches!(error.downcast_ref(), Some(LandscapeError::Interrupted { .. })) {
        return interrupt::EXIT_CODE;
    }
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.is::<rigl::DistributionError>()
            || cause.is::<rigl::ScheduleError>()
            || cause.is::<crate::bench::patterns::PatternError>()
            || matches!(cause.downcast_ref(), Some(sparse_kernels::BackendError::IsaUnavailable { .. }))
            || cause.downcast_ref::<ExchangeError>().is_some_and(ExchangeError::is_usage)
            || cause.downcast_ref::<DataError>().is_some_and(DataError::is_usage)
            || cause.downcast_ref::<FetchError>().is_some_and(FetchError::is_usage)
            || cause.downcast_ref::<LandscapeError>().is_some_and(LandscapeError::is_usage)
            || cause.downcast_ref::<CheckpointError>().is_some_and(CheckpointError::is_usage)
            || cause.downcast_ref::<RunDirError>().is_some_and(RunDirError::is_usage)
            || cause.downcast_ref::<ComparisonError>().is_some_and(ComparisonError::is_usage)
            || cause.downcast_ref::<ReferenceError>().is_some_and(ReferenceError::is_usage)
    });
    if usage { 2 } else { 1 }
}

/// The line that a person reads: each cause once, also where an error says its cause itself.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let separator = if text.is_empty() { "" } else { ": " };
            text += &format!("{separator}{cause}");
        }
    }
    if exit_code(error) == interrupt::EXIT_CODE { text } else { format!("error: {text}") }
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
        let interrupted = RunError::Interrupted { step: 1, saved: "a".into(), run: "b".into() };
        assert_eq!(exit_code(&interrupted.into()), 130);
        assert_eq!(exit_code(&anyhow::anyhow!("loss is NaN")), 1);
    }

    #[test]
    fn a_message_says_each_cause_once() {
        let missing = CheckpointError::Io { path: "a".into(), source: std::io::ErrorKind::NotFound.into() };
        let error = anyhow::Error::from(missing).context("loading");
        assert_eq!(message(&error), "error: loading: checkpoint a: entity not found");
    }
}
