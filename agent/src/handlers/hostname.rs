//! The machine's name.

use kiln_schema::status::{Reason, Stage};
use serde_json::json;

use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;
use crate::names::{Keys, Names};
use crate::system::FileOptions;

/// The name that the next boot begins with.
const FILE: &str = "/etc/hostname";

/// Sets the host name from the user-data, or from what the datasource tells.
pub struct Hostname;

impl Handler for Hostname {
    const NAME: &'static str = "hostname";
    const SUMMARY: &'static str = "Sets the host name";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const ALWAYS: bool = true;
    type Config = Keys;

    fn run(config: &Keys, context: &mut Context) -> Handled {
        if config.preserve_hostname {
            return Ok(Outcome::Skipped(Reason::SwitchedOff, "preserve_hostname is set".to_owned()));
        }
        let Some(names) = Names::choose(config, context) else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no name is given".to_owned()));
        };
        names.check()?;
        let name = names.host_name();
        if config.create_hostname_file != Some(false) || context.system.is_there(FILE) {
            context.system.write(FILE, format!("{name}\n"), FileOptions::default())?;
        }
        if context.system.is_live() {
            nix::unistd::sethostname(name)
                .map_err(|e| Failure::new(Reason::Io, format!("the kernel refused the name `{name}`: {e}")))?;
        }
        Ok(Outcome::Ok(Some(json!({"hostname": name, "fqdn": names.full}))))
    }
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
    fn the_file_is_made_unless_the_user_data_says_no() {
        for (create, old, new) in
            [("false", None, None), ("false", Some("old\n"), Some("web\n")), ("true", None, Some("web\n"))]
        {
            let tree = tempfile::tempdir().unwrap();
            let mut context =
                Context::for_test(tree.path(), &format!("{{hostname: web, create_hostname_file: {create}}}"));
            if let Some(old) = old {
                context.system.write(FILE, old, FileOptions::default()).unwrap();
            }
            context.run_handler::<Hostname>().unwrap();
            assert_eq!(context.system.read_text(FILE).ok().as_deref(), new, "{create} {old:?}");
        }
    }

    #[test]
    fn a_name_that_no_resolver_takes_is_refused() {
        for bad in ["-web", "web_1", "we b", "é"] {
            assert!(name_after(&format!("hostname: {bad}")).unwrap_err().contains("is not a host name"), "{bad}");
        }
    }
}
