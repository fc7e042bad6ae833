//! `cloud-id`: the name of the cloud, for scripts.

use std::process::ExitCode;

use clap::{ArgMatches, Command};
use kiln_schema::status::State;
use serde_json::{Value as Json, json};

use super::super::print::{say, say_json};
use super::{Opt, arg, fail, flag, text, value};
use crate::cloud_init::data;
use crate::report::current;
use crate::system::System;

const OPTIONS: [Opt; 4] = [
    value("root", ' ', "DIR", "Work on the tree in this folder instead of the running machine"),
    flag("json", 'j', "All that is known of the cloud, as JSON"),
    flag("long", 'l', "Name and region"),
    value("instance-data", 'i', "FILE", "Read this file in the place of the instance's own data"),
];

/// Its command line.
pub fn parser() -> Command {
    let after = "Exit codes:
  0  told
  1  not known
  2  the agent was told to do nothing
  3  no stage has begun at this boot";
    Command::new("cloud-id")
        .about("Tells the name of the cloud that this instance runs on")
        .after_help(after)
        .args(OPTIONS.iter().map(arg))
}

/// Tells the name.
pub fn run(system: &System, args: &ArgMatches) -> ExitCode {
    let file = text(args, "instance-data").unwrap_or(data::PUBLIC);
    match current(system).map(|status| status.state) {
        Ok(State::Disabled) => return ExitCode::from(2),
        Ok(State::NotStarted) => return ExitCode::from(3),
        _ => {}
    }
    let known = system.read(file).map_err(|error| error.to_string());
    let known = known.and_then(|bytes| serde_json::from_slice::<Json>(&bytes).map_err(|error| error.to_string()));
    let v1 = match known {
        Ok(mut known) => known["v1"].take(),
        Err(why) => return fail("cloud-id", &format!("{file}: {why}")),
    };
    let id = v1["cloud_id"].as_str().unwrap_or("not-available").to_owned();
    if args.get_flag("json") {
        say_json(
            &json!({"cloud_id": id, "cloud_name": v1["cloud_name"], "platform": v1["platform"], "region": v1["region"]}),
        );
    } else if args.get_flag("long") {
        say(&format!("{id}\t{}\n", v1["region"].as_str().unwrap_or("not-available")));
    } else {
        say(&format!("{id}\n"));
    }
    ExitCode::SUCCESS
}
