//! `kiln bake` and `kiln template`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::{USAGE, print, run_async, tell};
use crate::bake::plan::Plan;
use crate::bake::progress::{Format, Progress};
use crate::bake::site::Site;
use crate::bake::{self, Error, Request};
use crate::images;

/// Arguments of `bake`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The image, by its name in kiln.yaml
    image: String,
    /// Where to bake; without it, the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
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

/// Arguments of `template`.
#[derive(Debug, ClapArgs)]
pub struct TemplateArgs {
    /// The image, by its name in kiln.yaml
    image: String,
    /// Where it would be baked; without it, the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// The package of the agent; without it, the newest in target/deb
    #[arg(long, value_name = "FILE")]
    agent_deb: Option<PathBuf>,
}

/// Bakes. Exit 0 with an image, 1 without, 64 when the image or target is not in kiln.yaml.
pub fn run(file: &Path, args: Args) -> ExitCode {
    let Args { image, target, agent_deb, report, format } = args;
    let request = Request { image, target, agent_deb, report };
    let mut progress = Progress::new(format);
    let baked = run_async(async {
        let file = images::load(file)?;
        bake::bake(&file, &request, &mut progress).await
    });
    match baked {
        Ok(baked) => {
            progress.done(&baked.id, &baked.name, &baked.report.display().to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            if format == Format::Json {
                progress.failed(&error)
            } else {
                tell(&error)
            }
            exit_code(&error)
        }
    }
}

/// Prints the template that packer would get now. Exit codes as [`run`].
pub fn template(file: &Path, args: TemplateArgs) -> ExitCode {
    let TemplateArgs { image, target, agent_deb } = args;
    let request = Request { image, target, agent_deb, report: None };
    let plan = run_async(async {
        let file = images::load(file)?;
        let recipe = file.image(&request.image)?;
        let site = Site::open(file.target(request.target.as_deref())?).await?;
        Plan::make(&file, &request, recipe, &site).await
    });
    super::finish(plan.map(|plan: Plan| print(&plan.template_json())))
}

/// Maps an error to its exit code.
pub(super) fn exit_code(error: &Error) -> ExitCode {
    if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}
