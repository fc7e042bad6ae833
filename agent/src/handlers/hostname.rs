//! The machine's name.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::system::FileOptions;

/// Sets the host name from the user-data, or from what the datasource tells.
pub struct Hostname;

/// Keys of the host name.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The name; a name with dots is taken as the full name.
    hostname: Option<String>,
    /// The full name, of which the first label is the host name.
    fqdn: Option<String>,
    /// Leave the name alone.
    preserve_hostname: bool,
    /// Set the full name where both are known.
    prefer_fqdn_over_hostname: bool,
}

impl Handler for Hostname {
    const NAME: &'static str = "hostname";
    const SUMMARY: &'static str = "Sets the host name";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const ALWAYS: bool = true;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        if config.preserve_hostname {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "preserve_hostname is set".to_owned()));
        }
        let told = config.fqdn.as_ref().or(config.hostname.as_ref()).or(context.instance.hostname.as_ref());
        let Some(full) = told else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no name is given".to_owned()));
        };
        let first = full.split('.').next().unwrap_or(full);
        let short = config.hostname.as_deref().map_or(first, |name| name.split('.').next().unwrap_or(name));
        let name = if config.prefer_fqdn_over_hostname { full.as_str() } else { short };
        check(name)?;
        context.system.write("/etc/hostname", format!("{name}\n"), FileOptions::default())?;
        if context.system.is_live() {
            nix::unistd::sethostname(name)
                .map_err(|e| Failure::new(Reason::Io, format!("the kernel refused the name `{name}`: {e}")))?;
        }
        Ok(Outcome::Ok(Some(json!({"hostname": name, "fqdn": full}))))
    }
}

/// RFC 1123: labels of letters, digits and hyphens, at most 63 each; the kernel takes 64 in all.
fn check(name: &str) -> Result<(), Failure> {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    let message = format!("`{name}` is not a host name: letters, digits and inner hyphens, at most 63 a label");
    Err(Failure::new(Reason::Config, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_after(user_data: &str) -> Result<String, String> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        context.run_handler::<Hostname>().map_err(|failure| failure.message)?;
        Ok(context.system.read_text("/etc/hostname").unwrap_or_default())
    }

    #[test]
    fn the_short_name_is_set_whatever_was_given() {
        for (user_data, name) in [
            ("hostname: web", "web\n"),
            ("fqdn: web.example.org", "web\n"),
            ("hostname: web.example.org", "web\n"),
            ("{hostname: web, fqdn: other.example.org}", "web\n"),
            ("{fqdn: web.example.org, prefer_fqdn_over_hostname: yes}", "web.example.org\n"),
            ("hostname: 123", "123\n"),
            ("{hostname: web, preserve_hostname: true}", ""),
            ("{}", ""),
        ] {
            assert_eq!(name_after(user_data).as_deref(), Ok(name), "{user_data}");
        }
    }

    #[test]
    fn a_name_that_no_resolver_takes_is_refused() {
        for bad in ["-web", "web_1", "we b", "é"] {
            assert!(name_after(&format!("hostname: {bad}")).unwrap_err().contains("is not a host name"), "{bad}");
        }
    }
}
