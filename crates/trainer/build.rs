//! Tells the program which commit it is built from, for the records of its benchmarks.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RIGL_COMMIT");
    // Whoever builds outside git may say it.
    if std::env::var_os("RIGL_COMMIT").is_some() {
        return;
    }
    let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) else { return };
    // Each commit, and whatever may make a clean tree dirty.
    for path in [&log, "..", "../../Cargo.lock", "../../Cargo.toml", "../../shaders"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if let Some(commit) = git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]) {
        println!("cargo::rustc-env=RIGL_COMMIT={commit}");
    }
}

/// What git prints, without the end of its line; nothing without git, or outside a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
}
