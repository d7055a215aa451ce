//! The command `rigl`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use trainer::commands::Cli;
use trainer::{commands, interrupt, report};

fn main() -> ExitCode {
    let Cli { command } = Cli::of_arguments(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let only_tells = command.only_tells();
    // Standard output is for results.
    let given = std::env::var("RIGL_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = given.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(report::log_writer).without_time().with_target(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    match interrupt::make_size_limits_errors().map_err(Into::into).and_then(|()| commands::run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if only_tells && commands::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            if !report::is_silent() {
                eprintln!("{}", commands::message(&error));
            }
            ExitCode::from(commands::exit_code(&error))
        }
    }
}
