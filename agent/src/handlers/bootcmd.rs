//! Commands of the user-data that run early at every boot.

use std::time::Duration;

use kiln_schema::status::Stage;
use kiln_schema::yaml::{Argv, Each};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Frequency, Handled, Handler, items, runcmd};
use crate::context::Context;

/// Runs `bootcmd`.
pub struct Bootcmd;

/// Commands.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Commands that run at every boot, before users and files, in order, in one shell. Written as in `runcmd`.
    bootcmd: Each<Option<Argv>>,
}

impl Handler for Bootcmd {
    const NAME: &'static str = "bootcmd";
    const SUMMARY: &'static str = "Runs commands early at every boot, tells how each ended";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    /// The stage holds up the boot.
    const TIMEOUT: Duration = Duration::from_secs(120);
    type Config = Config;

    fn run(_: &Config, context: &mut Context) -> Handled {
        runcmd::run_list(context, "bootcmd", items(&context.config, "bootcmd"))
    }
}
