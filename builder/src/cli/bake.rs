//! `kiln bake` and `kiln template`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::{USAGE, print, run_async};
use crate::bake::many::{self, Wanted};
use crate::bake::plan::{Given, Plan};
use crate::bake::progress::{Format, Progress};
use crate::bake::session::Session;
use crate::bake::site::Site;
use crate::bake::{Error, Request};
use crate::images::names::RunId;
use crate::images::{self, Kilnfile};
use crate::packer::version;

/// Which images to bake, where and how: the same for every command that bakes.
#[derive(Debug, ClapArgs)]
pub(super) struct Which {
    /// The images, by their names in kiln.yaml, each on its locked or else the newest base; `NAME:arm64` is one
    /// variant of an image, and `NAME` all of them
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "stale"])]
    images: Vec<String>,
    /// Every image of kiln.yaml, parents first
    #[arg(long, conflicts_with_all = ["images", "stale"])]
    all: bool,
    /// Every image of kiln.yaml that was baked before, parents first
    #[arg(long, conflicts_with = "images")]
    stale: bool,
    /// How many images to bake at once
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Bake even if an image with the same inputs is there
    #[arg(long)]
    rebuild: bool,
    /// How long one image may take, such as 2h; without it, its `bake_timeout` in kiln.yaml, if it has one
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Where to bake; without it, the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// The package of the agent; without it, the newest in target/deb
    #[arg(long, value_name = "FILE")]
    agent_deb: Option<PathBuf>,
}

impl Which {
    /// The images.
    pub fn wanted(&self) -> Wanted {
        if self.all {
            Wanted::All
        } else if self.stale {
            Wanted::Stale
        } else {
            Wanted::Named(self.images.clone())
        }
    }

    /// How many at once.
    pub fn parallel(&self) -> usize {
        self.parallel.into()
    }

    /// Sets how long each may take, where that was asked for.
    pub fn limit(&self, file: &mut Kilnfile) {
        if let Some(limit) = self.timeout {
            file.limit_bakes(limit);
        }
    }

    /// How each is to be baked.
    pub fn request(&self, report: Option<PathBuf>) -> Request {
        let Which { target, agent_deb, rebuild, .. } = self;
        Request { target: target.clone(), agent_deb: agent_deb.clone(), report, rebuild: *rebuild }
    }
}

/// Arguments of `bake`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// The folder for the gate's report of one image; without it, one below ./kiln-reports
    #[arg(long, value_name = "DIR", conflicts_with_all = ["all", "stale"])]
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

/// Bakes what is out of date. Exit 0 when every image that was asked for is there, 1 when one is not, 64 when
/// an image or target is not in kiln.yaml.
pub fn run(file: &Path, args: Args) -> ExitCode {
    let Args { which, report, format } = args;
    let progress = Progress::new(format);
    let (wanted, request) = (which.wanted(), which.request(report));
    let outcome = run_async(async {
        let mut file = images::load(file)?;
        which.limit(&mut file);
        if let Wanted::Named(names) = &wanted {
            let chosen = file.variants_at(names, file.target(request.target.as_deref())?)?;
            if chosen.len() > 1 && request.report.is_some() {
                return Err(Error::OneReport);
            }
        }
        let session = Session::open(&file, &request).await?;
        many::bake(&session, &wanted, which.parallel(), &progress).await
    });
    match outcome {
        Ok(summary) => {
            if !matches!(wanted, Wanted::Named(_)) || summary.all() != 1 {
                progress.summary(&summary);
            }
            if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            progress.failed(&error);
            exit_code(&error)
        }
    }
}

/// Prints the template that packer would get now. Exit codes as [`run`].
pub fn template(file: &Path, args: TemplateArgs) -> ExitCode {
    let TemplateArgs { image, target, agent_deb } = args;
    let request = Request { target, agent_deb, ..Request::default() };
    let plan = run_async(async {
        let file = images::load(file)?;
        let recipe = file.image(&image)?;
        let target = file.target(request.target.as_deref())?;
        let site = Site::open(target).await?;
        let packer = version::probe(target.plugin_path.as_deref())?;

        let given = Given { file: &file, request: &request, site: &site, packer: &packer };
        let plan = Plan::make(given, recipe, None, RunId::new(recipe).map_err(Error::Name)?).await?;
        Ok((plan, packer.left_out()))
    });
    super::finish(plan.map(|(plan, left_out): (Plan, Vec<String>)| {
        print(&plan.template_json());
        left_out.iter().for_each(|sentence| super::tell(sentence));
    }))
}

/// A length of time that is one.
fn timeout(text: &str) -> Result<Duration, String> {
    match kiln_schema::duration::parse(text)? {
        Duration::ZERO => Err("no time at all".to_owned()),
        span => Ok(span),
    }
}

/// Maps an error to its exit code.
pub(super) fn exit_code(error: &Error) -> ExitCode {
    if error.is_usage() { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}
