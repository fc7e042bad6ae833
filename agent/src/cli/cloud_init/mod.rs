//! `cloud-init`, as which the program also answers when it is called so: the commands that scripts, packer
//! templates and other tools call, with cloud-init's words and exit codes, told from the agent's own state.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

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

/// An option of a command. As a table, since a type for each command would weigh as much as all they do.
struct Opt {
    name: &'static str,
    /// A blank for none; a dot for an argument that has no name.
    short: char,
    /// What its value is; empty for a flag, with dots for several.
    value: &'static str,
    /// The values that it may have; any if empty.
    values: &'static [&'static str],
    help: &'static str,
}

const fn flag(name: &'static str, short: char, help: &'static str) -> Opt {
    Opt { name, short, value: "", values: &[], help }
}

const fn value(name: &'static str, short: char, value: &'static str, help: &'static str) -> Opt {
    Opt { name, short, value, values: &[], help }
}

const fn choice(name: &'static str, short: char, values: &'static [&'static str], help: &'static str) -> Opt {
    Opt { name, short, value: "WORD", values, help }
}

/// A command of cloud-init.
struct Entry {
    name: &'static str,
    about: &'static str,
    after: &'static str,
    options: &'static [Opt],
    run: fn(&System, &ArgMatches) -> ExitCode,
}

/// All of them.
const COMMANDS: &[Entry] = &[
    stages::INIT,
    stages::MODULES,
    stages::SINGLE,
    query::COMMAND,
    Entry {
        name: "features",
        about: "List the features of cloud-init that tools ask for",
        after: "",
        options: &[],
        run: features,
    },
    analyze::COMMAND,
    logs::COMMAND,
    clean::COMMAND,
    status::COMMAND,
    schema::COMMAND,
];

/// What stands before the command.
const GLOBAL: &[Opt] = &[
    value("root", ' ', "DIR", "Work on the tree in this folder instead of the running machine"),
    flag("debug", 'd', "Taken as cloud-init takes it; the log is that of kiln-agent"),
    flag("force", 'f', "Taken as cloud-init takes it"),
];

/// Whether the program was called by one of cloud-init's names: then everything that follows is its own.
pub fn answer(program: Option<&OsStr>) -> Option<ExitCode> {
    let (parser, run): (Command, fn(&System, &ArgMatches) -> ExitCode) =
        match Path::new(program?).file_name()?.to_str()? {
            "cloud-init" => (parser(), run),
            "cloud-id" => (cloud_id::parser(), cloud_id::run),
            _ => return None,
        };
    Some(match parser.try_get_matches() {
        Ok(matches) => {
            crate::log::init();
            run(&System::new(text(&matches, "root").unwrap_or("/")), &matches)
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
        }
    })
}

fn parser() -> Command {
    let commands = COMMANDS.iter().map(|entry| {
        let command = Command::new(entry.name).about(entry.about).after_help(entry.after);
        command.args(entry.options.iter().map(arg))
    });
    let version = Arg::new("version").short('v').long("version").action(ArgAction::Version).help("Print the version");
    Command::new("cloud-init")
        .display_name("/usr/bin/cloud-init")
        .about("cloud-init's commands, answered by kiln-agent")
        .version(VERSION)
        .disable_version_flag(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100)
        .arg(version)
        .args(GLOBAL.iter().map(arg))
        .subcommands(commands)
}

fn arg(option: &Opt) -> Arg {
    let mut arg = Arg::new(option.name).help(option.help).hide(option.name == "root");
    if option.short != '.' {
        arg = arg.long(option.name);
    }
    if option.short.is_ascii_alphabetic() {
        arg = arg.short(option.short);
    }
    if option.value.is_empty() {
        return arg.action(ArgAction::SetTrue);
    }
    if !option.values.is_empty() {
        arg = arg.value_parser(PossibleValuesParser::new(option.values));
    }
    if option.value.ends_with("...") {
        arg = arg.action(ArgAction::Append).num_args(1..);
    }
    arg.value_name(option.value.trim_end_matches('.'))
}

/// The value of an option.
fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str)
}

fn run(system: &System, matches: &ArgMatches) -> ExitCode {
    let named = matches.subcommand();
    let entry = named.and_then(|(name, matches)| Some((COMMANDS.iter().find(|entry| entry.name == name)?, matches)));
    entry.map_or(ExitCode::from(USAGE), |(entry, matches)| (entry.run)(system, matches))
}

/// Tells on standard error why there is no answer.
fn fail(command: &str, why: &str) -> ExitCode {
    complain(&format!("{command}: {why}"));
    ExitCode::FAILURE
}

/// What a tool may rely on. A feature is listed when it is there: whoever reads network configuration is
/// asked by its handlers.
fn features(_: &System, _: &ArgMatches) -> ExitCode {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound_and_every_help_fits_a_terminal() {
        parser().debug_assert();
        cloud_id::parser().debug_assert();
        for entry in COMMANDS {
            let mut parser = parser();
            let command = parser.find_subcommand_mut(entry.name).unwrap();
            let help = command.render_help().to_string();
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
    }

    #[test]
    fn cloud_inits_own_ways_of_calling_are_understood() {
        for line in [
            "status --wait",
            "status -wl --format json",
            "init --local",
            "-d init",
            "modules --mode=final",
            "modules -m config",
            "single -n cc_runcmd --frequency always",
            "query --format {{v1.region}}",
            "query -l v1",
            "query ds.meta_data",
            "schema -c x.yaml --annotate",
            "schema --system",
            "clean -l -s --machine-id --configs network ssh_config",
            "clean --logs --reboot -c all",
            "analyze blame",
            "collect-logs -t x.tgz -u",
            "features",
        ] {
            let parsed = parser().try_get_matches_from(std::iter::once("cloud-init").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
        for line in
            ["nope", "status --nope", "modules --mode nope", "analyze all", "single --name", "status --format text"]
        {
            let parsed = parser().try_get_matches_from(std::iter::once("cloud-init").chain(line.split(' ')));
            assert!(parsed.is_err_and(|error| error.use_stderr()), "{line}");
        }
    }

    #[test]
    fn only_by_its_names_the_program_is_cloud_init() {
        assert!(answer(None).is_none());
        assert!(answer(Some(OsStr::new("/usr/bin/kiln-agent"))).is_none());
    }
}
