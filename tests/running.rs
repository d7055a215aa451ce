//! The command under test, as a user runs it: `args` are split at white space, and no data folder is set.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn rigl(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    command.current_dir(folder).env_remove("RIGL_DATA_DIR").args(args.split_whitespace());
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // Without it, a Vulkan driver prints an error of its own.
        command.env("XDG_RUNTIME_DIR", folder);
    }
    command
}

pub fn output(folder: &Path, args: &str) -> Output {
    rigl(folder, args).output().expect("the command under test was built")
}

/// Exit code, standard output and messages of a command.
pub fn outcome(folder: &Path, args: &str) -> (i32, String, String) {
    let output = output(folder, args);
    let [printed, message] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!message.contains("panicked"), "{args}: {message}");
    (output.status.code().expect("no signal"), printed, message)
}

/// What a command that succeeds prints.
pub fn printed(folder: &Path, args: &str) -> String {
    let (code, printed, message) = outcome(folder, args);
    assert_eq!(code, 0, "{args}: {message}");
    printed
}

/// The records in lines of text.
pub fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// The records of a command that succeeds and prints nothing else.
pub fn records(folder: &Path, args: &str) -> Vec<Value> {
    parsed(&printed(folder, args))
}

/// Exit code and message of a command that fails.
pub fn failure(folder: &Path, args: &str) -> (i32, String) {
    let (code, _, message) = outcome(folder, args);
    assert_ne!(code, 0, "{args} succeeded");
    (code, message)
}

/// The message of a command that is refused as a usage error.
pub fn refused(folder: &Path, args: &str) -> String {
    let (code, message) = failure(folder, args);
    assert_eq!(code, 2, "{args}: {message}");
    message
}
