//! `kiln lab`.

use std::process::ExitCode;

use clap::Subcommand;

/// What to do with the lab.
#[derive(Debug, Subcommand)]
pub enum Command {}

/// Runs a command of the lab to its exit code.
pub fn run(command: Command) -> ExitCode {
    match command {}
}
