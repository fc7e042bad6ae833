//! Takes the route to EC2's metadata away.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::must;
use super::{Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// Takes the route to EC2's metadata away. It runs late, as handlers before it need the metadata.
pub struct DisableEc2Metadata;

/// Keys of the metadata's route.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Prohibit the route to 169.254.169.254 at every boot, when the agent itself needs it no more.
    disable_ec2_metadata: bool,
}

impl Handler for DisableEc2Metadata {
    const NAME: &'static str = "disable_ec2_metadata";
    const SUMMARY: &'static str = "Takes the route to EC2's metadata away";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        if !config.disable_ec2_metadata {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "disable_ec2_metadata is false".to_owned()));
        }
        // Under a tree, `ip` would change the routes of the machine that holds the tree.
        if !context.system.is_live() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "only a running machine has routes".to_owned()));
        }
        // `replace`, where `add` fails at the second run.
        let command = context.command("ip").args(["route", "replace", "prohibit", "169.254.169.254"]);
        must(context, &command, "install the package iproute2 (iproute on Red Hat) into the image")?;
        Ok(Outcome::Ok(Some(json!({"prohibited": "169.254.169.254"}))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_tree_keeps_the_routes_of_its_host_and_false_does_nothing() {
        for (word, reason) in [("true", Reason::NothingToDo), ("false", Reason::SwitchedOff)] {
            let tree = tempfile::tempdir().unwrap();
            let user_data = format!("disable_ec2_metadata: {word}");
            let Some(mut context) = testing::machine(tree.path(), &["/usr/bin/dash"], &user_data) else { return };
            testing::executable(&context.system, "/usr/sbin/ip", "#!/usr/bin/dash\n: > /ran\n");
            let outcome = context.run_handler::<DisableEc2Metadata>().unwrap();
            assert!(matches!(outcome, Outcome::Skipped(why, _) if why == reason), "{word}");
            assert!(!context.system.exists("/ran"));
        }
    }
}
