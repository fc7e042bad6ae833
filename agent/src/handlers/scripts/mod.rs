//! Scripts: parts of the user-data, and executables in folders of the machine.
//!
//! - `boothooks`: parts that run at every boot before anything else.
//! - `frequency`: what runs at every boot, once an instance, or once in the life of a disk.
//! - `vendor`: what came with the vendor-data. This file: the user's own, which run last.
//! - `run`: how a script is put down, run and told of.

use std::time::Duration;

use kiln_schema::status::Stage;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Finds, Frequency, Handled, Handler};
use crate::context::Context;
use crate::userdata::{Script, When};

mod boothooks;
mod frequency;
mod run;
mod vendor;

pub use boothooks::Boothooks;
pub use frequency::{ScriptsPerBoot, ScriptsPerInstance, ScriptsPerOnce};
pub use vendor::ScriptsVendor;

/// They may install and build; the stage's own deadline is the bound.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Runs the user's scripts.
pub struct Scripts;

/// Scripts have no keys: they are parts of the user-data, or files.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NoKeys {}

impl Handler for Scripts {
    const NAME: &'static str = "scripts";
    const SUMMARY: &'static str = "Runs the user-data's scripts once, in the order of names";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|_, _, scripts| of(scripts, When::Last, false).next().is_some());
    const TIMEOUT: Duration = TIMEOUT;
    type Config = NoKeys;

    fn run(_: &NoKeys, context: &mut Context) -> Handled {
        let scripts: Vec<Script> = of(&context.scripts, When::Last, false).cloned().collect();
        if scripts.is_empty() {
            return run::nothing("the user-data has no scripts");
        }
        let programs = run::install(context, "scripts", &scripts)?;
        run::all(context, &programs, &[], Vec::new())
    }
}

/// The scripts of one turn.
fn of(scripts: &[Script], when: When, of_vendor: bool) -> impl Iterator<Item = &Script> {
    scripts.iter().filter(move |script| script.when == when && script.of_vendor == of_vendor)
}
