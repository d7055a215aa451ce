//! How the process ends: its exit code, and the line that says why.

use std::io;

use crate::error::{Error, Kind};
use crate::interrupt;
use crate::report::is_of_output;

/// The process's exit code for an error: 2 if the command line, the configuration or the files it names must change,
/// 130 if the run was interrupted, 1 if it failed.
pub fn exit_code(error: &Error) -> u8 {
    match error.kind {
        Kind::Usage => 2,
        Kind::Interrupted => interrupt::EXIT_CODE,
        Kind::Failure => 1,
    }
}

/// The line that a person reads: each cause once, also where an error says its cause itself.
pub fn message(error: &Error) -> String {
    if error.kind == Kind::Interrupted { error.to_string() } else { format!("error: {error}") }
}

/// Whether it is that nobody reads standard output any more, as when `head` has seen enough.
pub fn is_closed_output(error: &Error) -> bool {
    let of_output = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe && is_of_output(error);
    error.cause.chain().filter_map(|cause| cause.downcast_ref()).any(of_output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CheckpointError;
    use crate::error::Context;
    use crate::run::RunError;
    use crate::run_dir::RunDirError;
    use crate::settings::error::ConfigError;

    #[test]
    fn usage_is_told_from_failure() {
        let loading = crate::data::load("mnist", None).context(|| "loading");
        let broken = crate::data::idx::parse_labels("labels".as_ref(), [0u8; 8].as_slice(), 0, 10).unwrap_err();
        let conflict = ConfigError::Conflict { first: "epochs", second: "steps" };
        let occupied = RunDirError::Occupied { path: "runs/1".into(), file: "config.toml" };
        assert_eq!(exit_code(&loading.unwrap_err()), 2);
        assert_eq!(exit_code(&conflict.into()), 2);
        assert_eq!(exit_code(&occupied.into()), 2);
        assert_eq!(exit_code(&broken.into()), 1);
        let interrupted = RunError::Interrupted { step: 1, saved: "a".into(), run: "b".into() };
        assert_eq!(exit_code(&interrupted.into()), 130);
        assert_eq!(exit_code(&"loss is NaN".to_owned().into()), 1);
    }

    #[test]
    fn a_closed_output_is_told_from_other_pipes() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!is_closed_output(&pipe().into()));
        assert!(is_closed_output(&crate::report::output_error(pipe()).into()));
        assert!(!is_closed_output(&crate::report::output_error(io::ErrorKind::StorageFull.into()).into()));
        let error: Error = crate::report::output_error(pipe()).into();
        assert!(message(&error).starts_with("error: standard output: "), "{}", message(&error));
    }

    #[test]
    fn a_message_says_each_cause_once() {
        let missing = CheckpointError::Io { path: "a".into(), source: std::io::ErrorKind::NotFound.into() };
        let error = Err::<(), _>(missing).context(|| "loading");
        assert_eq!(message(&error.unwrap_err()), "error: loading: checkpoint a: entity not found");
    }
}
