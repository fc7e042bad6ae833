//! Scripts of the vendor-data.

use std::time::Duration;

use kiln_schema::status::Stage;
use kiln_schema::yaml::{self, Argv};
use schemars::JsonSchema;
use serde::Deserialize;

use super::run;
use super::{TIMEOUT, When, of};
use crate::context::Context;
use crate::handlers::{Finds, Frequency, Handled, Handler};
use crate::userdata::Script;

/// Runs the vendor's scripts.
pub struct ScriptsVendor;

/// The key of the vendor-data.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// What becomes of the data that the vendor of the cloud gives every instance.
    vendor_data: VendorData,
}

/// How the vendor-data is used.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct VendorData {
    /// Whether it is used at all; it is unless this says no.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[allow(dead_code, reason = "the reader of the documents heeds it; here it is checked and documented")]
    enabled: bool,
    /// A program, and its arguments, that each script of the vendor is given to: text, or a list of words.
    prefix: Option<Argv>,
}

impl Default for VendorData {
    fn default() -> Self {
        VendorData { enabled: true, prefix: None }
    }
}

impl Handler for ScriptsVendor {
    const NAME: &'static str = "scripts_vendor";
    const SUMMARY: &'static str = "Runs the vendor-data's scripts once, before all others";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const FINDS: Option<Finds> = Some(|_, _, scripts| of(scripts, When::Last, true).next().is_some());
    const TIMEOUT: Duration = TIMEOUT;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let scripts: Vec<Script> = of(&context.scripts, When::Last, true).cloned().collect();
        if scripts.is_empty() {
            return run::nothing("the vendor-data has no scripts");
        }
        let prefix = match &config.vendor_data.prefix {
            None => Vec::new(),
            Some(Argv::Shell(line)) => line.split_whitespace().map(str::to_owned).collect(),
            Some(Argv::Words(words)) => words.clone(),
        };
        let programs = run::install(context, "scripts-vendor", &scripts)?;
        run::all(context, &programs, &prefix, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::Outcome;
    use crate::testing::{executable, machine};

    fn run(user_data: &str) -> Option<(Handled, String)> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = machine(tree.path(), &["/bin/sh"], user_data)?;
        let wrapper = "#!/bin/sh\necho \"wrapped $1\" >> /log\nshift\nexec \"$@\"\n";
        executable(&context.system, "/bin/wrapper", wrapper);
        let script = |name: &str, of_vendor| Script {
            name: name.into(),
            body: format!("#!/bin/sh\necho {name} >> /log\n").into(),
            when: When::Last,
            of_vendor,
        };
        context.scripts = [script("vendor", true), script("user", false)].into();
        let handled = context.run_handler::<ScriptsVendor>();
        Some((handled, context.system.read_text("/log").unwrap_or_default()))
    }

    #[test]
    fn the_vendor_s_scripts_run_alone_and_behind_the_prefix() {
        for (user_data, log) in [
            ("{}", "vendor\n"),
            ("vendor_data: {enabled: true, prefix: [/bin/wrapper, 'a b']}", "wrapped a b\nvendor\n"),
            ("vendor_data: {prefix: /bin/wrapper x}", "wrapped x\nvendor\n"),
        ] {
            let Some((handled, told)) = run(user_data) else { return };
            assert!(matches!(handled, Ok(Outcome::Ok(_))), "{handled:?}");
            assert_eq!(told, log);
        }
    }

    #[test]
    fn a_prefix_that_is_not_there_is_told() {
        let Some((handled, log)) = run("vendor_data: {prefix: /no/such}") else { return };
        assert!(handled.unwrap_err().message.contains("script `vendor` did not run"));
        assert_eq!(log, "");
    }
}
