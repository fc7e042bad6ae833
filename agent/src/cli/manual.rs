//! Manual pages and shell completions, for whoever packages the program. They come from the same
//! definitions as the command line, so they cannot fall behind it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::print::say;

/// Arguments of `man`.
#[derive(Debug, ClapArgs)]
pub struct ManArgs {
    /// The folder that gets a page for each command; it must be there
    folder: PathBuf,
}

/// Arguments of `completions`.
#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// The shell that will read them
    #[arg(value_enum)]
    shell: Shell,
}

/// Writes the manual pages. Exit 0, or 1 when the folder cannot be written.
pub fn pages(args: &ManArgs) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), &args.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write manual pages to {}: {error}", args.folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Prints the completions of one shell.
pub fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    say(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
