//! What a person, a unit or a provisioner types.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::system::System;

mod analyze;
mod boot;
mod clean;
pub mod cloud_init;
mod gate;
mod handlers;
mod manual;
mod plan;
mod print;
#[cfg(test)]
mod reference;
mod run;
mod schema;
mod seal;
mod status;
mod validate;

/// Exit code of a command line that cannot be understood (EX_USAGE of sysexits.h).
pub const USAGE: u8 = 64;
/// Exit code when the document that a command line names cannot be read (EX_NOINPUT of sysexits.h).
pub const NO_INPUT: u8 = 66;

/// Configures an instance from its user-data at boot and writes a status that tells the truth.
#[derive(Debug, Parser)]
#[command(name = "kiln-agent", version, max_term_width = 100)]
pub struct Cli {
    /// Work on the tree in this folder instead of the running machine
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Configure the instance: find its user-data, run the handlers, write the status
    Boot(boot::Args),
    /// Do one piece of work outside a boot
    Run(run::Args),
    /// In a bake: wait for the agent, test the instance, and say whether it may become an image
    Gate(gate::Args),
    /// In a bake: remove what must not be in an image, such as keys, identities and logs
    Seal(seal::Args),
    /// Tell how this boot stands, or wait for its end
    Status(status::Args),
    /// Check user-data without running it
    Validate(validate::Args),
    /// Show what user-data would run, and where each value comes from
    Plan(plan::Args),
    /// List the handlers and the keys that they read
    Handlers(handlers::Args),
    /// Print the JSON schema of user-data, for editors
    Schema,
    /// Show where the time of this boot went
    Analyze(analyze::Args),
    /// Forget what ran, so that the next boot runs everything again
    Clean(clean::Args),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(manual::ManArgs),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions(manual::CompletionsArgs),
}

/// The one command of the units. They run it three times a boot, and to set up all the others each time
/// would be a good part of what a stage costs.
#[derive(Debug, Parser)]
struct OfUnit {
    #[command(subcommand)]
    command: OnlyBoot,
}

#[derive(Debug, Subcommand)]
enum OnlyBoot {
    Boot(boot::Args),
}

impl Cli {
    /// Reads the program's command line.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn read() -> Result<Self, clap::Error> {
        if std::env::args_os().nth(1).is_some_and(|command| command == "boot") {
            // Whatever else it may be, the whole reader tells.
            if let Ok(OfUnit { command: OnlyBoot::Boot(args) }) = OfUnit::try_parse() {
                return Ok(Cli { root: "/".into(), command: Command::Boot(args) });
            }
        }
        Self::try_parse()
    }
}

/// A stage on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Stage {
    /// Before the network
    Local,
    /// With the network, beside sshd
    Init,
    /// When services may start
    Final,
}

impl From<Stage> for kiln_schema::status::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Local => kiln_schema::status::Stage::Local,
            Stage::Init => kiln_schema::status::Stage::Init,
            Stage::Final => kiln_schema::status::Stage::Final,
        }
    }
}

/// Runs the command line to its exit code. Everything a person reads has been printed then.
pub fn run(cli: Cli) -> ExitCode {
    let system = System::new(&cli.root);
    match cli.command {
        Command::Boot(args) => boot::run(&system, &args),
        Command::Run(args) => run::run(&system, &args),
        Command::Gate(args) => gate::run(&system, &args),
        Command::Seal(args) => seal::run(&system, &args),
        Command::Status(args) => status::run(&system, &args),
        Command::Validate(args) => validate::run(&system, &args),
        Command::Plan(args) => plan::run(&system, &args),
        Command::Handlers(args) => handlers::run(&system, &args),
        Command::Schema => schema::run(&system),
        Command::Analyze(args) => analyze::run(&system, &args),
        Command::Clean(args) => clean::run(&system, &args),
        Command::Man(args) => manual::pages(&args),
        Command::Completions(args) => manual::completions(&args),
    }
}
