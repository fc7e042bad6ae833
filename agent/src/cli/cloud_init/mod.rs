//! `cloud-init`, as which the program also answers when it is called so: the commands that scripts, packer
//! templates and other tools call, with cloud-init's words and exit codes, told from the agent's own state.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::print::say;
use crate::cloud_init::VERSION;
use crate::system::System;

mod analyze;
mod clean;
mod cloud_id;
mod logs;
mod query;
mod schema;
mod stages;
mod status;
mod yaml;

/// Exit code of a command line that cannot be understood, as cloud-init's own parser gives it.
const USAGE: u8 = 2;

/// cloud-init's commands, answered by kiln-agent.
#[derive(Debug, Parser)]
#[command(name = "cloud-init", display_name = "/usr/bin/cloud-init", version = VERSION, max_term_width = 100)]
#[command(disable_version_flag = true)]
pub struct Cli {
    /// Work on the tree in this folder instead of the running machine
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// Taken as cloud-init takes it; the log is that of kiln-agent
    #[arg(short, long, global = true)]
    debug: bool,
    /// Taken as cloud-init takes it
    #[arg(short, long)]
    force: bool,
    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: (),
    /// What to do
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the stages that find the instance and set up users, keys and files
    Init(stages::InitArgs),
    /// Run the stage that installs, converges and runs the user's scripts
    Modules(stages::ModulesArgs),
    /// Run one handler, by its own name or by that of cloud-init's module
    Single(stages::SingleArgs),
    /// Print what is known of the instance
    Query(query::Args),
    /// List the features of cloud-init that tools ask for
    Features,
    /// Show where the time of this boot went
    Analyze(analyze::Args),
    /// Put what tells of this boot into an archive
    CollectLogs(logs::Args),
    /// Forget what ran, so that the next boot runs everything again
    Clean(clean::Args),
    /// Tell how this boot stands, or wait for its end
    Status(status::Args),
    /// Check a cloud-config, or that of this instance
    Schema(schema::Args),
}

/// Whether the program was called by one of cloud-init's names: then everything that follows is its own.
pub fn answer(program: Option<&OsStr>) -> Option<ExitCode> {
    match Path::new(program?).file_name()?.to_str()? {
        "cloud-init" => Some(parsed(Cli::try_parse(), run)),
        "cloud-id" => Some(parsed(cloud_id::Cli::try_parse(), |cli| cloud_id::run(&cli))),
        _ => None,
    }
}

fn parsed<C>(cli: Result<C, clap::Error>, run: fn(C) -> ExitCode) -> ExitCode {
    match cli {
        Ok(cli) => {
            crate::log::init();
            run(cli)
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
        }
    }
}

fn run(cli: Cli) -> ExitCode {
    let system = System::new(&cli.root);
    match cli.command {
        Command::Init(args) => stages::init(&system, &args),
        Command::Modules(args) => stages::modules(&system, &args),
        Command::Single(args) => stages::single(&system, &args),
        Command::Query(args) => query::run(&system, &args),
        Command::Features => features(),
        Command::Analyze(args) => analyze::run(&system, &args),
        Command::CollectLogs(args) => logs::run(&system, &args),
        Command::Clean(args) => clean::run(&system, &args),
        Command::Status(args) => status::run(&system, &args),
        Command::Schema(args) => schema::run(&system, &args),
    }
}

/// What a tool may rely on. A feature is listed when it is there: whoever reads network configuration is
/// asked by its handlers.
fn features() -> ExitCode {
    let network = crate::handlers::HANDLERS.iter().any(|handler| handler.name == "network");
    if network {
        say("NETWORK_CONFIG_V1\nNETWORK_CONFIG_V2\n");
    }
    ExitCode::SUCCESS
}

/// Prints a sentence to standard error, as from cloud-init.
fn complain(sentence: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "cloud-init: {sentence}");
}
