//! `cloud-id`: the name of the cloud, for scripts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kiln_schema::status::State;
use serde_json::{Value as Json, json};

use super::super::print::{say, say_json};
use crate::cloud_init::data;
use crate::report::current;
use crate::system::System;

/// Reports the name of the cloud that this instance runs on.
#[derive(Debug, Parser)]
#[command(
    name = "cloud-id",
    after_help = "Exit codes:
  0  told
  1  not known
  2  the agent was told to do nothing
  3  no stage has begun at this boot"
)]
pub struct Cli {
    /// Work on the tree in this folder instead of the running machine
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// All that is known of the cloud, as JSON
    #[arg(short, long)]
    json: bool,
    /// Name, region and the cloud that it is a part of
    #[arg(short, long)]
    long: bool,
    /// Read this file in the place of the instance's own data
    #[arg(short, long, value_name = "FILE", default_value = data::PUBLIC)]
    instance_data: String,
}

/// Tells the name.
pub fn run(cli: &Cli) -> ExitCode {
    let system = System::new(&cli.root);
    match current(&system).map(|status| status.state) {
        Ok(State::Disabled) => return ExitCode::from(2),
        Ok(State::NotStarted) => return ExitCode::from(3),
        _ => {}
    }
    let known = system.read(&cli.instance_data).map_err(|error| error.to_string());
    let known = known.and_then(|bytes| serde_json::from_slice::<Json>(&bytes).map_err(|error| error.to_string()));
    let v1 = match known {
        Ok(mut known) => known["v1"].take(),
        Err(why) => {
            super::complain(&format!("cloud-id: {}: {why}", cli.instance_data));
            return ExitCode::FAILURE;
        }
    };
    let id = v1["cloud_id"].as_str().unwrap_or("not-available").to_owned();
    if cli.json {
        say_json(
            &json!({"cloud_id": id, "cloud_name": v1["cloud_name"], "platform": v1["platform"], "region": v1["region"]}),
        );
    } else if cli.long {
        say(&format!("{id}\t{}\n", v1["region"].as_str().unwrap_or("not-available")));
    } else {
        say(&format!("{id}\n"));
    }
    ExitCode::SUCCESS
}
