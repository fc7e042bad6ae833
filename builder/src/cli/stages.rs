//! `kiln promote` and `kiln rollback`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{finish, print, run_async};
use crate::bake::Error;
use crate::bake::progress::{Format, Progress};
use crate::bake::site::Site;
use crate::images;
use crate::stages::rules::Stage;
use crate::stages::{self, Moved, Promotion};

/// What a tag takes, less a little, in characters.
const LONGEST_REASON: usize = 200;

/// Arguments of `promote`.
#[derive(Debug, ClapArgs)]
pub struct PromoteArgs {
    /// The image: an id (ami-…), or its name in kiln.yaml for the newest that may be promoted
    image: String,
    /// The stage that it comes to: canary or production
    #[arg(long, value_name = "STAGE", value_parser = target_stage)]
    to: Stage,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Whatever stage it comes from; the gate must have passed all the same
    #[arg(long, requires = "reason")]
    force: bool,
    /// Where; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Arguments of `rollback`.
#[derive(Debug, ClapArgs)]
pub struct RollbackArgs {
    /// The image, by its name in kiln.yaml
    image: String,
    /// Go back to this image and not to the one before
    #[arg(long, value_name = "AMI")]
    to: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Where; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

fn target_stage(text: &str) -> Result<Stage, String> {
    [Stage::Canary, Stage::Production]
        .into_iter()
        .find(|stage| stage.name() == text)
        .ok_or_else(|| "images are promoted to canary or production".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("a reason without a word".to_owned()),
        count if count > LONGEST_REASON => Err(format!("{count} characters, and a tag takes {LONGEST_REASON}")),
        _ if text.chars().any(char::is_control) => Err("a reason is one line".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Promotes an image. Exit 0 when every region has it in the stage, else 1.
pub fn promote(file: &Path, args: PromoteArgs) -> ExitCode {
    let PromoteArgs { image, to, reason, force, target, format } = args;
    let progress = Progress::new(format);
    tell(
        format,
        run_async(async {
            let file = images::load(file)?;
            let site = Site::open(file.target(target.as_deref())?).await?;
            stages::promote(&file, &site, &Promotion { image, to, reason, force }, &progress).await
        }),
    )
}

/// Puts the image before back. Exit 0 when every region has it, else 1.
pub fn rollback(file: &Path, args: RollbackArgs) -> ExitCode {
    let RollbackArgs { image, to, reason, target, format } = args;
    let progress = Progress::new(format);
    tell(
        format,
        run_async(async {
            let file = images::load(file)?;
            let line = &file.image(&image)?.name;
            stages::line::has_stages(&file, line)?;
            let site = Site::open(file.target(target.as_deref())?).await?;
            stages::rollback(&site, line, to.as_deref(), reason.as_deref(), &progress).await
        }),
    )
}

fn tell(format: Format, moved: Result<Moved, Error>) -> ExitCode {
    let complete = moved.as_ref().is_ok_and(Moved::is_complete);
    let code = finish(moved.map(|moved| match format {
        Format::Text => print(&moved.text()),
        Format::Json => print(&format!("{}\n", moved.json())),
    }));
    if code == ExitCode::SUCCESS && !complete { ExitCode::FAILURE } else { code }
}
