//! Tunnels of WireGuard.

use std::time::Duration;

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Each, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::tools::{Steps, put_secret, run_to_end, systemctl};
use super::{Failure, Frequency, Handled, Handler, Outcome, packages};
use crate::context::Context;

/// Sets tunnels of WireGuard up.
pub struct Wireguard;

/// Keys of the tunnels.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Tunnels of WireGuard.
    wireguard: Option<Keys>,
}

/// Tunnels of WireGuard.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// The interfaces, each of which is enabled and started.
    interfaces: Each<Interface>,
    /// Lines for the shell that must succeed once the interfaces are up, before packages are installed.
    readinessprobe: Each<String>,
}

/// An interface.
#[derive(Deserialize, JsonSchema)]
struct Interface {
    /// Its name, such as `wg0`.
    name: String,
    /// The file of its configuration; /etc/wireguard/NAME.conf without the key, where `wg-quick@` looks.
    #[serde(default)]
    config_path: Option<String>,
    /// Its configuration, as wg-quick(8) reads it. It holds the private key: only root may read the file.
    content: String,
}

impl Handler for Wireguard {
    const NAME: &'static str = "wireguard";
    const SUMMARY: &'static str = "Sets tunnels of WireGuard up";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(900);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let lacking = config.get("wireguard").filter(|keys| !keys.is_null() && keys.get("interfaces").is_none());
        let message = "the key `interfaces` is missing";
        lacking.map(|keys| keys.diagnostic(Severity::Warning, "wireguard", message)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let nothing = Keys::default();
        let keys = config.wireguard.as_ref().unwrap_or(&nothing);
        if keys.interfaces.is_empty() && keys.readinessprobe.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no interfaces are given".to_owned()));
        }
        let mut steps = Steps::of("wireguard");
        let written = keys
            .interfaces
            .iter()
            .enumerate()
            .filter(|(index, interface)| steps.add(&format!("interfaces[{index}]"), write(interface, context)));
        let written: Vec<&Interface> = written.map(|(_, interface)| interface).collect();
        let is_there = written.is_empty() || context.system.has_program("wg");
        if is_there || steps.add("", packages::ensure(context, &["wireguard-tools"])) {
            for interface in &written {
                steps.add("interfaces", start(interface, context));
            }
        }
        for (index, line) in keys.readinessprobe.iter().enumerate() {
            let command = context.command("/bin/sh").args(["-c", line]);
            steps.add(&format!("readinessprobe[{index}]"), run_to_end(context, "it", &command));
        }
        let names: Vec<&str> = written.iter().map(|interface| interface.name.as_str()).collect();
        steps.finish(json!({"interfaces": names, "probes": keys.readinessprobe.len()}))
    }
}

impl Interface {
    /// Where `wg-quick@` looks for it.
    fn usual_path(&self) -> String {
        format!("/etc/wireguard/{}.conf", self.name)
    }
}

fn write(interface: &Interface, context: &Context) -> Result<(), Failure> {
    let name = &interface.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '=' | '+' | '.' | '-');
    // The kernel's own bound.
    if name.is_empty() || name.len() > 15 || name.starts_with(['-', '.']) || !name.chars().all(plain) {
        let message = format!("`{}` is no name of an interface; write one such as wg0", name.escape_debug());
        return Err(Failure::new(Reason::Config, message));
    }
    let path = interface.config_path.clone().unwrap_or_else(|| interface.usual_path());
    if !path.starts_with('/') {
        return Err(Failure::new(Reason::Config, format!("config_path `{path}` is not absolute; begin it with /")));
    }
    context.system.make_dir("/etc/wireguard", 0o700, None)?;
    put_secret(&context.system, &path, &interface.content)
}

fn start(interface: &Interface, context: &Context) -> Result<(), Failure> {
    let unit = format!("wg-quick@{}.service", interface.name);
    systemctl(context, "enable", &unit).and_then(|()| systemctl(context, "restart", &unit)).map_err(|failure| {
        let usual = interface.usual_path();
        if context.system.exists(&usual) {
            return failure;
        }
        Failure { message: format!("{}; it reads {usual}: let config_path be that", failure.message), ..failure }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::handlers::read_keys;
    use crate::testing;

    fn machine(tree: &std::path::Path, user_data: &str) -> Option<Context> {
        let context = testing::machine(tree, &["/usr/bin/dash"], user_data)?;
        context.system.link("/bin/sh", "/usr/bin/dash").unwrap();
        let script =
            "#!/usr/bin/dash\necho \"$@\" >> /said\ncase $* in *restart*bad*) echo no such >&2; exit 1;; esac\n";
        testing::executable(&context.system, "/usr/bin/systemctl", script);
        testing::executable(&context.system, "/usr/bin/wg", "");
        context.system.make_dir("/run/systemd/system", 0o755, None).unwrap();
        Some(context)
    }

    #[test]
    fn interfaces_are_written_for_root_alone_and_started_and_then_probed() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "wireguard:\n  interfaces:\n  - name: wg0\n    config_path: /etc/wireguard/wg0.conf\n    \
            content: |\n      [Interface]\n      PrivateKey = hunter2\n  - {name: wg1, content: x}\n  \
            readinessprobe: ['echo probed >> /said', 'echo unreachable >&2; exit 7', 'echo last >> /said']\n";
        let Some(mut context) = machine(tree.path(), user_data) else { return };
        let failure = context.run_handler::<Wireguard>().unwrap_err();
        assert_eq!(failure.message, "wireguard.readinessprobe[1]: it exited 7: unreachable");
        assert!(!format!("{failure:?}").contains("hunter2"));
        let text = context.system.read_text("/etc/wireguard/wg0.conf").unwrap();
        assert_eq!(text, "[Interface]\nPrivateKey = hunter2\n");
        for (path, mode) in
            [("/etc/wireguard/wg0.conf", 0o600), ("/etc/wireguard/wg1.conf", 0o600), ("/etc/wireguard", 0o700)]
        {
            assert_eq!(context.system.metadata(path).unwrap().mode() & 0o777, mode, "{path}");
        }
        let unit = |name: &str| format!("enable wg-quick@{name}.service\nrestart wg-quick@{name}.service\n");
        let expected = format!("{}{}probed\nlast\n", unit("wg0"), unit("wg1"));
        assert_eq!(context.system.read_text("/said").unwrap(), expected);
    }

    #[test]
    fn a_bad_interface_hides_no_other() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "wireguard: {interfaces: [{name: ../x, content: a}, {name: wg0, content: b}, {name: wg1}, \
            {name: bad, config_path: /srv/bad.conf, content: c}, {name: wg2, config_path: y, content: d}]}";
        let Some(mut context) = machine(tree.path(), user_data) else { return };
        let failure = context.run_handler::<Wireguard>().unwrap_err();
        for part in [
            "wireguard.interfaces[0]: `../x` is no name of an interface",
            "wireguard.interfaces[3]: config_path `y` is not absolute",
            "restart wg-quick@bad.service: systemctl exited 1: no such",
            "it reads /etc/wireguard/bad.conf: let config_path be that",
        ] {
            assert!(failure.message.contains(part), "{part}: {}", failure.message);
        }
        assert_eq!(failure.detail.unwrap()["interfaces"], json!(["wg0", "bad"]));
        let told = read_keys::<Config>(&context.config).diagnostics;
        assert!(told[0].message.contains("the key `content` is missing"));
        assert_eq!((told.len(), told[0].path.as_str()), (1, "wireguard.interfaces[2]"));
    }

    #[test]
    fn without_the_program_it_is_installed_or_the_package_named() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), "wireguard: {interfaces: [{name: wg0, content: b}]}");
        let failure = context.run_handler::<Wireguard>().unwrap_err();
        assert!(failure.message.contains("put wireguard-tools into the image"), "{}", failure.message);
        assert!(context.system.exists("/etc/wireguard/wg0.conf"));
        let mut context = Context::for_test(tree.path(), "wireguard:");
        assert!(matches!(context.run_handler::<Wireguard>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }
}
