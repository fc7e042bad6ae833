//! `kiln pipeline`.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args as ClapArgs, Subcommand};

use super::bake::{Which, exit_code};
use super::{print, run_async};
use crate::bake::many::Wanted;
use crate::bake::progress::{Format, Progress};
use crate::bake::session::Session;
use crate::images;
use crate::pipeline;
use crate::stages::rules::Stage;

/// Pipelines.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bake what is out of date, then promote what is there; run again, it goes on from where it is
    Run(RunArgs),
}

/// Arguments of `pipeline run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// The stage that each image comes to which is there then
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    promote: Option<Stage>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What a pipeline may decide. That an image is good for production is found out by a canary.
fn stage(text: &str) -> Result<Stage, String> {
    let canary = (text == Stage::Canary.name()).then_some(Stage::Canary);
    canary.ok_or_else(|| "a pipeline promotes to canary; to production: kiln promote IMAGE --to production".to_owned())
}

/// Runs a pipeline. Exit 0 when every image is there and in the stage asked for, 1 when one is not, 64 when an
/// image or target is not in kiln.yaml.
pub fn run(file: &Path, Command::Run(args): Command) -> ExitCode {
    let RunArgs { which, promote, format } = args;
    let progress = Progress::new(format);
    let (wanted, request) = (which.wanted(), which.request(None));
    let report = run_async(async {
        let mut file = images::load(file)?;
        which.limit(&mut file);
        if let Wanted::Named(names) = &wanted {
            file.variants_at(names, file.target(request.target.as_deref())?)?;
        }
        let session = Session::open(&file, &request).await?;
        pipeline::run(&session, &wanted, which.parallel(), promote, &progress).await
    });
    match report {
        Ok(report) => {
            match format {
                Format::Text => print(&report.text()),
                Format::Json => print(&format!("{}\n", report.json())),
            }
            progress.summary(&report.summary);
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            progress.failed(&error);
            exit_code(&error)
        }
    }
}
