//! `/etc/hosts`, so that the machine finds its own name without a name server.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node, Value, scalar};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Failure, Frequency, Handled, Handler, Outcome, check};
use crate::context::Context;
use crate::names::Names;
use crate::system::FileOptions;
use crate::template;

/// The file.
const HOSTS: &str = "/etc/hosts";
/// The image's own template, in place of the built-in ones.
const TEMPLATE: &str = "/etc/kiln/templates/hosts.tmpl";
/// Marks the line that `localhost` adds, so that a new name replaces it.
const MARK: &str = "# kiln";

/// The name goes to an address of its own, which is the custom of Debian.
const DEBIAN: &str = "\
# Written by kiln-agent at every boot, as manage_etc_hosts asks: changes here do not last.
# The template is built in, unless the image has /etc/kiln/templates/hosts.tmpl.
127.0.1.1 {{ fqdn }}{{ '' if fqdn == hostname else ' ' ~ hostname }}
127.0.0.1 localhost

::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
";

/// The name goes to the loopback addresses, which is the custom of Red Hat.
const RED_HAT: &str = "\
# Written by kiln-agent at every boot, as manage_etc_hosts asks: changes here do not last.
# The template is built in, unless the image has /etc/kiln/templates/hosts.tmpl.
127.0.0.1 {{ fqdn }}{{ '' if fqdn == hostname else ' ' ~ hostname }}
127.0.0.1 localhost localhost.localdomain localhost4 localhost4.localdomain4

::1 {{ fqdn }}{{ '' if fqdn == hostname else ' ' ~ hostname }}
::1 localhost localhost.localdomain localhost6 localhost6.localdomain6
";

/// Writes `/etc/hosts`, or its one line for this machine.
pub struct Hosts;

/// Keys of the hosts file.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// `true` or `template`: write the whole file from a template. `localhost`: keep the file and add
    /// a line for this machine. `false`, as without the key: leave it alone.
    #[serde(deserialize_with = "yaml::tolerant")]
    #[schemars(extend("type" = ["boolean", "string", "null"]))]
    manage_etc_hosts: Option<String>,
}

impl Handler for Hosts {
    const NAME: &'static str = "hosts";
    const SUMMARY: &'static str = "Keeps this machine's names in /etc/hosts";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Boot;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let key = "manage_etc_hosts";
        let named = config.get(key).filter(|node| !matches!(node.to_json(), Json::Bool(_)));
        let told = named.and_then(|node| match &node.value {
            Value::Scalar(word) if scalar::boolean(&word.text).is_some() => {
                Some(node.diagnostic(Severity::Warning, key, yaml::QUOTED))
            }
            _ => check::word(node, key, &["true", "false", "template", "localhost"]),
        });
        told.into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let word = config.manage_etc_hosts.as_deref().unwrap_or("false");
        let names = Names::present(context);
        let system = &context.system;
        let old = match system.read_text(HOSTS) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let text = match (scalar::boolean(word), word) {
            (Some(false), _) => {
                return Ok(Outcome::Skipped(Reason::SwitchedOff, "manage_etc_hosts is false".to_owned()));
            }
            (Some(true), _) | (None, "template") => {
                names.check()?;
                whole(context)?
            }
            (None, "localhost") => {
                names.check()?;
                let address = if system.distro().is_red_hat() { "127.0.0.1" } else { "127.0.1.1" };
                with_line(&old, address, &names)
            }
            (None, _) => {
                let message = format!("manage_etc_hosts: `{word}` is none of true, false, template and localhost");
                return Err(Failure::new(Reason::Config, message));
            }
        };
        let changed = text != old;
        if changed {
            system.write(HOSTS, text, FileOptions::mode(0o644))?;
        }
        Ok(Outcome::Ok(Some(json!({"hostname": names.short, "fqdn": names.full, "changed": changed}))))
    }
}

fn whole(context: &Context) -> Result<String, Failure> {
    let built_in = if context.system.distro().is_red_hat() { RED_HAT } else { DEBIAN };
    let text = match context.system.read_text(TEMPLATE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => built_in.to_owned(),
        other => other?,
    };
    let variables = template::variables(context);
    template::render(TEMPLATE, &text, &variables).map_err(|why| Failure::new(Reason::Template, why))
}

/// The file with a line for this machine; unchanged where a line of another hand has both names.
fn with_line(old: &str, address: &str, names: &Names) -> String {
    let has_both = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let here = words.next() == Some(address);
        let told: Vec<&str> = words.collect();
        here && told.first() == Some(&names.full.as_str()) && told.contains(&names.short.as_str())
    };
    // An image without the file does not know its loopback address either.
    let old = if old.trim().is_empty() { "127.0.0.1 localhost\n::1 localhost\n" } else { old };
    let mut lines: Vec<&str> = old.lines().filter(|line| !line.ends_with(MARK)).collect();
    let alias = if names.full == names.short { String::new() } else { format!(" {}", names.short) };
    let own = format!("{address} {}{alias} {MARK}", names.full);
    if !lines.iter().any(|line| has_both(line)) {
        lines.push(&own);
    }
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(user_data: &str, files: &[(&str, &str)], runs: usize) -> Result<String, Failure> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        for (path, text) in files {
            context.system.write(path, text, FileOptions::default()).unwrap();
        }
        for run in 0..runs {
            let handled = context.run_handler::<Hosts>()?;
            if let (Outcome::Ok(Some(detail)), true) = (handled, run > 0) {
                assert_eq!(detail["changed"], false, "a second run changes nothing");
            }
        }
        Ok(context.system.read_text(HOSTS).unwrap_or_default())
    }

    #[test]
    fn the_whole_file_follows_the_custom_of_the_family() {
        let keys = "{manage_etc_hosts: true, fqdn: web.example.org}";
        let debian = hosts(keys, &[("/etc/os-release", "ID=debian"), (HOSTS, "1.2.3.4 old\n")], 2).unwrap();
        assert!(debian.contains("\n127.0.1.1 web.example.org web\n127.0.0.1 localhost\n\n::1 localhost "), "{debian}");
        assert!(!debian.contains("old") && debian.ends_with("ip6-allrouters\n"), "{debian}");
        let red_hat = hosts(keys, &[("/etc/os-release", "ID=amzn\nID_LIKE=fedora")], 2).unwrap();
        assert!(red_hat.contains("\n127.0.0.1 web.example.org web\n127.0.0.1 localhost "), "{red_hat}");
        assert!(red_hat.contains("\n::1 web.example.org web\n"), "{red_hat}");
        let short = hosts("{manage_etc_hosts: template, hostname: web}", &[], 2).unwrap();
        assert!(short.contains("\n127.0.1.1 web\n"), "{short}");
    }

    #[test]
    fn the_images_template_wins_and_its_errors_are_told() {
        let own = "127.0.1.1 {{ fqdn }} {{ instance_id }}\n";
        let keys = "{manage_etc_hosts: yes, hostname: web}";
        assert_eq!(hosts(keys, &[(TEMPLATE, own)], 2).unwrap(), "127.0.1.1 web i-test\n");
        let failure = hosts(keys, &[(TEMPLATE, "\n{{ nam }}")], 1).unwrap_err();
        assert_eq!(failure.reason, Reason::Template);
        assert!(failure.message.starts_with("/etc/kiln/templates/hosts.tmpl line 2: `nam`"), "{}", failure.message);
    }

    #[test]
    fn a_line_for_this_machine_is_added_once_and_follows_its_name() {
        let keys = "{manage_etc_hosts: localhost, fqdn: web.example.org}";
        let line = "127.0.1.1 web.example.org web # kiln\n";
        for (old, expected) in [
            ("", format!("127.0.0.1 localhost\n::1 localhost\n{line}")),
            ("127.0.0.1 localhost\n", format!("127.0.0.1 localhost\n{line}")),
            ("127.0.0.1 localhost", format!("127.0.0.1 localhost\n{line}")),
            ("127.0.1.1 old.example.org old # kiln\n# mine\n", format!("# mine\n{line}")),
            ("127.0.1.1 web.example.org box web\n", "127.0.1.1 web.example.org box web\n".to_owned()),
            ("#127.0.1.1 web.example.org web\n", format!("#127.0.1.1 web.example.org web\n{line}")),
            ("127.0.1.1 web\n", format!("127.0.1.1 web\n{line}")),
        ] {
            assert_eq!(hosts(keys, &[(HOSTS, old)], 2).unwrap(), expected, "{old:?}");
        }
        let red_hat = hosts(keys, &[("/etc/os-release", "ID=rocky\nID_LIKE=rhel")], 2).unwrap();
        assert!(red_hat.ends_with("\n127.0.0.1 web.example.org web # kiln\n"), "{red_hat}");
    }

    #[test]
    fn off_leaves_the_file_alone_and_other_words_are_refused() {
        for word in ["false", "no", "'off'"] {
            assert_eq!(hosts(&format!("manage_etc_hosts: {word}"), &[(HOSTS, "mine\n")], 1).unwrap(), "mine\n");
        }
        let failure = hosts("manage_etc_hosts: local", &[(HOSTS, "mine\n")], 1).unwrap_err();
        assert_eq!(failure.reason, Reason::Config);
        let failure = hosts("{manage_etc_hosts: true, fqdn: \"web\\n1.2.3.4 x\"}", &[], 1).unwrap_err();
        assert!(failure.message.contains("is not a host name"), "{}", failure.message);
    }
}
