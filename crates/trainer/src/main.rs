//! The command `rigl`.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use trainer::commands::Cli;
use trainer::{commands, interrupt};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Standard output is for results.
    let filter =
        EnvFilter::builder().with_env_var("RIGL_LOG").try_from_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().with_target(false).init();
    match interrupt::make_size_limits_errors().map_err(Into::into).and_then(|()| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", commands::message(&error));
            ExitCode::from(commands::exit_code(&error))
        }
    }
}
