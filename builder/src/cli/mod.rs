//! What a person or a pipeline types.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod deb;
mod manual;

/// Exit code of a command line that cannot be understood (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;

/// Bakes machine images and lets none out that the agent's status and its tests do not vouch for.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100)]
pub struct Cli {
    /// The file that describes the images
    #[arg(short, long, global = true, value_name = "FILE", default_value = "kiln.yaml")]
    pub file: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build the .deb packages of the agent and of kiln itself from a checkout
    Deb(deb::Args),
    /// EC2 on this machine: bake and launch without an account
    #[command(subcommand)]
    Lab(kiln_lab::cli::Command),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(manual::ManArgs),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
}

/// Runs the command line to its exit code. Everything a person reads has been printed then.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Deb(args) => deb::run(&args),
        Command::Lab(command) => kiln_lab::cli::run(command),
        Command::Man(args) => manual::pages(&args),
        Command::Completions(args) => manual::completions(&args),
    }
}
