//! `kiln copy`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::run_async;
use crate::bake::Error;
use crate::bake::progress::{Format, Progress};
use crate::bake::site::Site;
use crate::images;
use crate::journal::Journal;
use crate::regions::{self, Outcome};
use crate::stages::line;

/// Arguments of `copy`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The image: its name in kiln.yaml for the newest that passed its gate, or an id (ami-…)
    image: String,
    /// Which target's regions; without it, those of the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Copies, tags and shares whatever is lacking. Exit 0 when the image is complete in every region, else 1.
pub fn run(file: &Path, args: Args) -> ExitCode {
    let progress = Progress::new(args.format);
    let outcome = run_async(async {
        let file = images::load(file)?;
        if !args.image.starts_with("ami-") {
            file.image(&args.image)?;
        }
        let site = Site::open(file.target(args.target.as_deref())?).await?;
        if site.distribution.is_nothing() {
            return Err(Error::Refused(format!(
                "target {} says nothing of other regions or accounts: set `regions: [{}, …]` or `share_with` there",
                site.name, site.region
            )));
        }
        let (name, image) = line::find(&file, &site, &args.image).await?;
        let progress = progress.of(&name, 0);
        regions::spread(&site, &Journal::open()?, &name, (&image.id, &image.name), &progress).await
    });
    match outcome {
        Ok(outcomes) if outcomes.iter().all(|Outcome { done, .. }| done.is_ok()) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            progress.failed(&error);
            super::bake::exit_code(&error)
        }
    }
}
