//! Takes the route to EC2's metadata away.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::edit::must;
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// Where the metadata service answers.
const ADDRESS: &str = "169.254.169.254";
/// The same, where the instance has IPv6 and its metadata is asked for by it.
const ADDRESS_V6: &str = "fd00:ec2::254";

/// Takes the route to EC2's metadata away. It runs late, as handlers before it need the metadata.
pub struct DisableEc2Metadata;

/// Keys of the metadata's route.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Prohibit the routes to 169.254.169.254 and fd00:ec2::254 at every boot, when the agent itself needs it no more.
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
        Ok(Outcome::Ok(Some(json!({"prohibited": prohibit(context)?}))))
    }
}

/// Takes the routes away and gives the addresses that nobody reaches any more.
fn prohibit(context: &Context) -> Result<Vec<&'static str>, Failure> {
    // A kernel without IPv6 has no such routes, and `ip` fails there.
    let has_v6 = context.system.read_text("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty());
    let families: [(&[&str], _); 2] = [(&[], ADDRESS), (&["-6"], ADDRESS_V6)];
    let mut prohibited = Vec::new();
    for (family, address) in families.into_iter().take(1 + usize::from(has_v6)) {
        // `replace`, where `add` fails at the second run.
        let command =
            context.command("ip").args(family.iter().copied()).args(["route", "replace", "prohibit", address]);
        must(context, &command, "install the package iproute2 (iproute on Red Hat) into the image")?;
        prohibited.push(address);
    }
    Ok(prohibited)
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

    #[test]
    fn both_addresses_of_the_service_are_prohibited_where_the_kernel_has_them() {
        let tree = tempfile::tempdir().unwrap();
        let Some(context) = testing::machine(tree.path(), &["/usr/bin/dash"], "{}") else { return };
        let script = "#!/usr/bin/dash\necho \"$*\" >> /ran\ncase $* in -6*) exit 2;; esac\n";
        testing::executable(&context.system, "/usr/sbin/ip", script);
        assert_eq!(prohibit(&context).unwrap(), ["169.254.169.254"]);
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        context.system.write("/proc/net/if_inet6", lo, Default::default()).unwrap();
        assert!(prohibit(&context).is_err(), "a way that stays open is no success");
        let (v4, v6) = ("route replace prohibit 169.254.169.254\n", "-6 route replace prohibit fd00:ec2::254\n");
        assert_eq!(context.system.read_text("/ran").unwrap(), format!("{v4}{v4}{v6}"));
    }
}
