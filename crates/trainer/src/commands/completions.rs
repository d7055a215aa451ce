//! `rigl completions`.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::report::print_text;

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  rigl completions bash > ~/.local/share/bash-completion/completions/rigl
  rigl completions zsh > ~/.zfunc/_rigl          # a folder of fpath
  rigl completions fish > ~/.config/fish/completions/rigl.fish";

/// `rigl completions`.
#[derive(Debug, Args)]
#[command(after_long_help = COMPLETIONS_EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// If standard output cannot be written.
pub fn run(args: &CompletionsArgs, command: clap::Command) -> crate::Result<()> {
    Ok(print_text(script(args.shell, command).trim_end())?)
}

/// The script by which a shell completes a command.
pub fn script(shell: Shell, mut command: clap::Command) -> String {
    let mut script = Vec::new();
    generate(shell, &mut command, "rigl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
