//! What a person or a pipeline types.
//!
//! Exit codes of every command: 0 ok; 1 failed, with one sentence that says why; 64 for a command
//! line that cannot be understood, or that names an image or target which kiln.yaml does not have.
//! `outdated` exits 2 when something is out of date, so that a pipeline can tell that from a failure.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bake::Error;

mod bake;
mod canary;
mod copy;
mod deb;
mod gate;
mod graph;
mod images;
mod lock;
mod manual;
mod outdated;
mod pipeline;
mod stages;

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
    /// Make images: launch the base, provision it, gate it, seal it, prove what came of it
    Bake(bake::Args),
    /// Bake and promote in one go, for whatever runs at night or on a commit
    #[command(subcommand)]
    Pipeline(pipeline::Command),
    /// Let the gate judge an image in a machine of the lab, without a bake
    Gate(gate::Args),
    /// Show which image is built on which
    Graph(graph::Args),
    /// Print the template that packer would get
    Template(bake::TemplateArgs),
    /// List the images that kiln made
    Images(images::Args),
    /// Print the id of an image's newest one that passed its gate
    Latest(images::LatestArgs),
    /// Move an image on: from candidate to canary, from canary to production
    Promote(stages::PromoteArgs),
    /// Let some machines try an image before the others get it
    #[command(subcommand)]
    Canary(canary::Command),
    /// Put the image back into production that was there before
    Rollback(stages::RollbackArgs),
    /// Complete an image in every region of the target
    Copy(copy::Args),
    /// Keep the bases of images from moving, or take newer ones, in kiln.lock
    Lock(lock::Args),
    /// Tell which locked bases there are newer ones of, and which images are built on an older one
    Outdated(outdated::Args),
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
        Command::Bake(args) => bake::run(&cli.file, args),
        Command::Pipeline(command) => pipeline::run(&cli.file, command),
        Command::Gate(args) => gate::run(&cli.file, args),
        Command::Graph(args) => graph::run(&cli.file, args),
        Command::Template(args) => bake::template(&cli.file, args),
        Command::Images(args) => images::run(&cli.file, &args),
        Command::Latest(args) => images::latest(&cli.file, &args),
        Command::Promote(args) => stages::promote(&cli.file, args),
        Command::Canary(command) => canary::run(&cli.file, command),
        Command::Rollback(args) => stages::rollback(&cli.file, args),
        Command::Copy(args) => copy::run(&cli.file, args),
        Command::Lock(args) => lock::run(&cli.file, &args),
        Command::Outdated(args) => outdated::run(&cli.file, &args),
        Command::Deb(args) => deb::run(&args),
        Command::Lab(command) => kiln_lab::cli::run(command),
        Command::Man(args) => manual::pages(&args),
        Command::Completions(args) => manual::completions(&args),
    }
}

/// Runs what waits for the network or for packer.
fn run_async<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::File { what: "cannot start".to_owned(), error })?;
    runtime.block_on(work)
}

/// Maps the outcome of a command that has printed its answer.
fn finish(outcome: Result<(), Error>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            bake::exit_code(&error)
        }
    }
}

/// Prints an answer. A reader that went away, as `head` does, is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints why there is no answer.
fn tell(error: &dyn Display) {
    let _ = writeln!(io::stderr(), "kiln: {error}");
}
