//! The commands, one file each.

use crate::args::Command;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::run_dir::RunDirError;

/// Runs a command.
///
/// # Errors
/// Whatever stops it; [`exit_code`] tells the kind.
pub fn run(command: Command) -> anyhow::Result<()> {
    let name = match command {
        Command::Train(_) => "train",
        Command::Plan(_) => "plan",
        Command::Bench(_) => "bench",
    };
    anyhow::bail!("{name} is not part of this build")
}

/// The process's exit code for an error: 2 if the command line, the configuration or the files it names must change,
/// 1 if the run failed.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
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
