//! `kiln lab`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::driver;
use crate::error::{Error, Result};
use crate::lifecycle::{self, Down, UpOptions};
use crate::paths::Paths;
use crate::status::{Import, Status};
use crate::system::process;
use crate::{Access, client};

/// Exit code of `status` for a lab that is down.
const DOWN: u8 = 3;

/// Which lab.
#[derive(Debug, Args)]
pub struct Which {
    /// The lab's name
    #[arg(long, env = "KILN_LAB", default_value = "default")]
    name: String,
}

/// What to do with the lab.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the lab, or find it started
    Up {
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// The region it stands for
        #[arg(long, default_value = "us-east-1")]
        region: String,
    },
    /// Power all machines off and remove the lab with its images
    Down {
        /// Which lab
        #[command(flatten)]
        lab: Which,
    },
    /// Tell whether the lab is up, and its images and machines; exits 3 when it is down
    Status {
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// How to write it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Register a folder with a system's root tree as an image and print its id
    Import(ImportArgs),
    /// Run a command in the lab's network, pointed at its API
    Exec {
        // The name is an option before the command; what follows belongs to the command.
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Enter a machine as root, or run a command there
    Shell {
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// The instance's id
        instance: String,
        /// The command; a shell when there is none
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Print what a machine wrote to its console
    Console {
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// The instance's id
        instance: String,
    },
    /// The daemon that `up` starts
    #[command(hide = true)]
    Driver {
        /// Which lab
        #[command(flatten)]
        lab: Which,
        /// The region it stands for
        #[arg(long)]
        region: String,
        /// The python that has moto
        #[arg(long)]
        python: PathBuf,
    },
}

/// How to write a status.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// The tree and what to say about it. `--name` is the image's here, as everywhere in AWS.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The lab's name
    #[arg(long, env = "KILN_LAB", default_value = "default")]
    lab: String,
    /// The folder; it is used where it lies and has to stay unchanged
    #[arg(value_name = "DIR")]
    tree: PathBuf,
    /// The image's name
    #[arg(long)]
    name: String,
    /// The account that owns it
    #[arg(long, value_name = "ACCOUNT")]
    owner: String,
    /// What it is
    #[arg(long, default_value = "")]
    description: String,
    /// A tag; can be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Its architecture as EC2 names it; this machine's when not given
    #[arg(long, value_name = "ARCH")]
    architecture: Option<String>,
}

fn tag(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a tag is KEY=VALUE".to_owned()),
    }
}

/// Runs a command of the lab to its exit code.
pub fn run(command: Command) -> ExitCode {
    match obey(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kiln lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { lab, region } => up(lab.name, region),
        Command::Down { lab } => down(&lab.name),
        Command::Status { lab, format } => status(&lab.name, format),
        Command::Import(args) => import(args),
        Command::Exec { lab, command } => exec(&lab.name, command),
        Command::Shell { lab, instance, command } => shell(&lab.name, &instance, command),
        Command::Console { lab, instance } => {
            let console = load(&lab.name)?.machine(&instance).console()?;
            print(&console);
            Ok(ExitCode::SUCCESS)
        }
        Command::Driver { lab, region, python } => {
            let stderr =
                tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
            let _ = tracing_subscriber::registry().with(stderr.with_filter(LevelFilter::INFO)).try_init();
            driver::run(driver::Options { paths: Paths::new(&lab.name)?, region, python })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The lab, which has to be up.
fn load(name: &str) -> Result<Access> {
    Access::load(name)?.ok_or_else(|| Error::Down(name.to_owned()))
}

fn up(name: String, region: String) -> Result<ExitCode> {
    let options = UpOptions { region, tell: |line| eprintln!("{line}"), ..UpOptions::new(&name) };
    let (access, started) = lifecycle::up(&options)?;
    print(&greeting(&access, started));
    Ok(ExitCode::SUCCESS)
}

/// What `up` says: everything a person copies to use the lab.
fn greeting(access: &Access, started: bool) -> String {
    let (name, already) = (&access.name, if started { "" } else { " already" });
    let option = if name == "default" { String::new() } else { format!(" --name {name}") };
    let exports: String =
        access.host_environment().iter().map(|(name, value)| format!("export {name}={value}\n")).collect();
    format!(
        "# Lab {name} is up{already}, for region {region}.\n\
         # Inside its network the API is {inside} and an HTTP proxy is {proxy}.\n\
         # What logs in to machines, such as packer or kiln bake, runs there and finds the API by itself:\n\
         #   kiln lab exec{option} -- packer build template.json    (with custom_endpoint_ec2 {inside})\n\
         # On the host, aws and kiln need only the API:\n\
         {exports}",
        region = access.region,
        inside = access.endpoint,
        proxy = access.proxy,
    )
}

fn down(name: &str) -> Result<ExitCode> {
    let words = match lifecycle::down(name)? {
        Down::Ended => format!("Lab {name} is down."),
        Down::Nothing => format!("Lab {name} was not up."),
        Down::Cleaned(left) => format!(
            "Lab {name} had crashed; ended {} processes and {} machines, removed {} mounts and {} namespaces.",
            left.processes, left.machines, left.mounts, left.namespaces
        ),
    };
    print(&format!("{words}\n"));
    Ok(ExitCode::SUCCESS)
}

fn status(name: &str, format: Format) -> Result<ExitCode> {
    let status = client::status(name)?;
    match format {
        Format::Text => print(&describe(&status)),
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&status).unwrap_or_default())),
    }
    Ok(if status.up { ExitCode::SUCCESS } else { ExitCode::from(DOWN) })
}

fn describe(status: &Status) -> String {
    let Some((inside, outside)) = status.endpoint.as_ref().zip(status.host_endpoint.as_ref()) else {
        return format!("Lab {} is down.\n", status.name);
    };
    let mut text = format!("Lab {} is up: API {inside} inside, {outside} on the host.\n", status.name);
    text += &format!("Images: {}\n", status.images.len());
    for (id, image) in &status.images {
        let name = image.name.as_deref().unwrap_or("-");
        text += &format!("  {id}  {:9}  {}  {name}\n", image.state, image.owner);
    }
    text += &format!("Machines: {}\n", status.machines.len());
    for (id, machine) in &status.machines {
        let (state, power) = (word(machine.state), word(machine.power));
        text += &format!("  {id}  {state:13}  {power:8}  {:15}  {}\n", machine.address.to_string(), machine.image);
    }
    text
}

/// A state in the word that JSON has for it.
fn word(state: impl serde::Serialize) -> String {
    serde_json::to_value(state).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn import(args: ImportArgs) -> Result<ExitCode> {
    let plain = Import::new(args.tree, &args.name);
    let architecture = args.architecture.unwrap_or_else(|| plain.architecture.clone());
    let tags: BTreeMap<String, String> = args.tags.into_iter().collect();
    let import = Import { owner: args.owner, description: args.description, tags, architecture, ..plain };
    print(&format!("{}\n", client::import(&args.lab, import)?));
    Ok(ExitCode::SUCCESS)
}

fn exec(name: &str, command: Vec<OsString>) -> Result<ExitCode> {
    let access = load(name)?;
    let mut environment = access.environment();
    environment.push(("KILN_LAB".to_owned(), access.name.clone()));
    if let Some(folder) = access.python.parent() {
        let old = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        environment.push(("PATH".to_owned(), format!("{}:{old}", folder.display())));
    }
    let line = access.enter().into_iter().map(OsString::from).chain(command);
    turn_into(&line.collect::<Vec<_>>(), &environment)
}

fn shell(name: &str, instance: &str, command: Vec<OsString>) -> Result<ExitCode> {
    let plain = || vec!["/bin/bash".into(), "-l".into()];
    let command = if command.is_empty() { plain() } else { command };
    let line = load(name)?.machine(instance).command(command)?;
    turn_into(&line, &[])
}

/// Becomes this command, so that its exit code, terminal and signals are the command's own.
fn turn_into(line: &[OsString], environment: &[(String, String)]) -> Result<ExitCode> {
    let source = process::become_program(line, environment);
    Err(Error::Step { doing: "cannot run nsenter".to_owned(), source })
}

/// Prints for a person or a pipe. A reader that went away is none to complain to.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(name: &str) -> Access {
        Access {
            name: name.to_owned(),
            netns: "/run/netns/kiln-lab-x".into(),
            endpoint: "http://10.0.0.1:5000".to_owned(),
            host_endpoint: "http://127.0.0.1:4711".to_owned(),
            proxy: "http://10.0.0.1:3128".to_owned(),
            region: "eu-west-1".to_owned(),
            python: "/venv/bin/python".into(),
        }
    }

    #[test]
    fn what_up_prints_can_be_evaluated_by_a_shell() {
        let text = greeting(&access("x"), true);
        assert!(text.lines().all(|line| line.starts_with('#') || line.starts_with("export ")), "{text}");
        assert!(text.contains("export AWS_ENDPOINT_URL=http://127.0.0.1:4711\n"));
        assert!(text.contains("export AWS_REGION=eu-west-1\n"));
        assert!(text.contains("kiln lab exec --name x -- packer"));
        assert!(greeting(&access("default"), false).contains("is up already"));
    }

    #[test]
    fn a_tag_needs_a_key() {
        assert_eq!(tag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(tag("a="), Ok(("a".to_owned(), String::new())));
        assert!(tag("a").is_err() && tag("=b").is_err());
    }

    #[test]
    fn a_lab_that_is_down_is_told_in_a_sentence() {
        let (endpoint, host_endpoint, images, machines) = Default::default();
        let status = Status { name: "x".to_owned(), up: false, endpoint, host_endpoint, images, machines };
        assert_eq!(describe(&status), "Lab x is down.\n");
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(subcommand)]
            command: Command,
        }
        for line in [&["lab", "exec", "--", "ls", "--name", "-l"][..], &["lab", "exec", "ls", "--name", "-l"]] {
            let Command::Exec { lab, command } = <Cli as clap::Parser>::parse_from(line).command else {
                panic!("not exec")
            };
            assert_eq!((lab.name.as_str(), command.len()), ("default", 3), "{line:?}");
        }
    }
}
