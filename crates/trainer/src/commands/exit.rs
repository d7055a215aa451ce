//! How the process ends: its exit code, and the line that says why.

use super::bench_kernel::ReferenceError;
use crate::checkpoint::CheckpointError;
use crate::comparison::ComparisonError;
use crate::data::DataError;
use crate::data::fetch::FetchError;
use crate::exchange::ExchangeError;
use crate::interrupt;
use crate::landscape::LandscapeError;
use crate::run::RunError;
use crate::run_dir::RunDirError;
use crate::settings::error::ConfigError;

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
