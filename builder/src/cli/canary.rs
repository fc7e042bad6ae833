//! `kiln canary`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;

use super::{finish, print, run_async};
use crate::bake::Error;
use crate::bake::progress::{Format, Progress};
use crate::bake::site::Site;
use crate::canary::watch::{self, Verdict, Watch};
use crate::canary::{self, Which};
use crate::images;
use crate::stages::line;

/// What to do with a canary.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have new instances take an image
    Start(StartArgs),
    /// Watch its instances: exit 0 when they are good until the end, 1 when they are not
    Watch(WatchArgs),
    /// Have new instances take what they took before
    Stop(StopArgs),
}

/// Whose instances.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// The auto scaling group, which launches by a launch template
    #[arg(long, value_name = "NAME")]
    asg: Option<String>,
    /// The launch template, by name or id; whoever launches by its default version takes the image
    #[arg(long, value_name = "NAME")]
    launch_template: Option<String>,
}

impl Whose {
    fn which(self) -> Which {
        match (self.asg, self.launch_template) {
            (Some(group), _) => Which::Group(group),
            (None, template) => Which::Template(template.unwrap_or_default()),
        }
    }
}

/// Arguments of `canary start`.
#[derive(Debug, ClapArgs)]
pub struct StartArgs {
    /// The image: its name in kiln.yaml for the newest that passed its gate, or an id (ami-…)
    image: String,
    #[command(flatten)]
    whose: Whose,
    /// Where; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

/// Arguments of `canary watch`.
#[derive(Debug, ClapArgs)]
pub struct WatchArgs {
    /// The image, by its name in kiln.yaml
    image: String,
    #[command(flatten)]
    whose: Whose,
    /// How long nothing bad may happen: 90s, 10m, 1h30m
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = time)]
    time: Duration,
    /// Hear phone_home messages here, and let each instance's own word count; an address as 0.0.0.0:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The file with the key that the messages are signed with (hmac_secret of phone_home)
    #[arg(long, value_name = "FILE", requires = "listen")]
    key_file: Option<PathBuf>,
    /// Stop a bad one, as `kiln canary stop` does
    #[arg(long)]
    rollback: bool,
    /// Where; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Arguments of `canary stop`.
#[derive(Debug, ClapArgs)]
pub struct StopArgs {
    #[command(flatten)]
    whose: Whose,
    /// Where; without it, at the default target of kiln.yaml
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    match kiln_schema::duration::parse(text)? {
        time if time.is_zero() => Err("no time at all".to_owned()),
        time => Ok(time),
    }
}

/// Runs a command on a canary.
pub fn run(file: &Path, command: Command) -> ExitCode {
    match command {
        Command::Start(args) => finish(run_async(start(file, args)).map(|told| print(&format!("{told}\n")))),
        Command::Stop(args) => finish(run_async(stop(file, args)).map(|told| print(&format!("{told}\n")))),
        Command::Watch(args) => {
            let format = args.format;
            let verdict = run_async(watch(file, args));
            let good = verdict.as_ref().is_ok_and(|verdict| verdict.good);
            let code = finish(verdict.map(|verdict| tell(format, &verdict)));
            if code == ExitCode::SUCCESS && !good { ExitCode::FAILURE } else { code }
        }
    }
}

async fn start(file: &Path, args: StartArgs) -> Result<String, Error> {
    let file = images::load(file)?;
    let site = Site::open(file.target(args.target.as_deref())?).await?;
    let (_, image) = line::find(&file, &site, &args.image).await?;
    canary::start(&site, &args.whose.which(), (&image.id, &image.name), &Progress::new(Format::Text)).await
}

async fn stop(file: &Path, args: StopArgs) -> Result<String, Error> {
    let file = images::load(file)?;
    let site = Site::open(file.target(args.target.as_deref())?).await?;
    canary::stop(&site, &args.whose.which(), &Progress::new(Format::Text)).await
}

async fn watch(file: &Path, args: WatchArgs) -> Result<Verdict, Error> {
    let WatchArgs { image, whose, time, listen, key_file, rollback, target, format } = args;
    let file = images::load(file)?;
    let line = &file.image(&image)?.name;
    let key = key_file.map(|path| key(&path)).transpose()?;
    let site = Site::open(file.target(target.as_deref())?).await?;
    let watch = Watch { time, listen, key, rollback };
    watch::watch(&site, line, &whose.which(), watch, &Progress::new(format)).await
}

/// The key of a file; its last newline is no part of it, as the agent has it.
fn key(path: &Path) -> Result<Vec<u8>, Error> {
    let key = std::fs::read(path).map_err(|error| Error::file(path.display(), error))?;
    match key.trim_ascii_end() {
        [] => Err(Error::Refused(format!("{}: the key is empty", path.display()))),
        key => Ok(key.to_vec()),
    }
}

fn tell(format: Format, verdict: &Verdict) {
    let Verdict { good, why, image, instances, stopped, parameter } = verdict;
    if let Format::Json = format {
        let event = json!({
            "event": "verdict", "good": good, "why": why, "image": image, "instances": instances, "stopped": stopped,
            "parameter": parameter,
        });
        return print(&format!("{event}\n"));
    }
    let mut text = format!("{image} is {}: {why}\n", if *good { "good" } else { "bad" });
    if let Some(stopped) = stopped {
        text += &format!("{stopped}\n");
    } else if let Some(parameter) = parameter {
        text += &format!(
            "its version stays; go on with `kiln promote`, and then `kiln canary stop` has new instances take what \
             {parameter} has, as before\n"
        );
    } else if *good {
        text += "its version stays; go on with `kiln promote`\n";
    } else {
        text += "new instances still take it: kiln canary stop\n";
    }
    if !*good && !instances.is_empty() {
        text += &format!("instances that have it: {}\n", instances.join(", "));
    }
    print(&text);
}
