//! `kiln gate`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::run_async;
use crate::bake::progress::{Format, Progress};
use crate::gate::local::{self, Request, Start};
use crate::images;

/// Arguments of `gate`.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "The machine gets the files, tests and checks as they are now, and the scripts as well unless it is
of an image of this name, which has been through them. It is removed at the end.

Exit codes:
  0  passed
  1  failed, or there is no lab to do it in
 64  the command line cannot be understood"
)]
pub struct Args {
    /// The image, by its name in kiln.yaml
    image: String,
    /// In the lab of this machine (KILN_LAB); a bake has its gate wherever it bakes
    #[arg(long, required = true)]
    local: bool,
    /// The AMI of the lab to launch; without it, the newest one of the image
    #[arg(long, value_name = "AMI", conflicts_with = "base")]
    ami: Option<String>,
    /// Launch what the image is built on, as a bake does
    #[arg(long)]
    base: bool,
    /// The package of the agent; without it, the newest in target/deb
    #[arg(long, value_name = "FILE")]
    agent_deb: Option<PathBuf>,
    /// The folder for the gate's report; without it, one below ./kiln-reports
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the gate and removes the machine. Exit 0 when it passed, 1 when not.
pub fn run(file: &Path, args: Args) -> ExitCode {
    let Args { image, local: _, ami, base, agent_deb, report, format } = args;
    let progress = Progress::new(format);
    let start = match ami {
        Some(id) => Start::Ami(id),
        None if base => Start::Base,
        None => Start::Newest,
    };
    let outcome = run_async(async {
        let file = images::load(file)?;
        let recipe = file.image(&image)?;
        local::run(&file, recipe, Request { start, agent_deb, report }, &progress).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.failed(&error);
            super::bake::exit_code(&error)
        }
    }
}
