//! A minion of Salt.

use std::time::Duration;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::edit::put;
use super::tools::{Steps, mode_of, not_text, put_secret, run_to_end, systemctl};
use super::{Failure, Frequency, Handled, Handler, packages};
use crate::context::Context;

mod document;

/// Sets a minion of Salt up.
pub struct SaltMinion;

/// Keys of the minion.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// A minion of Salt.
    salt_minion: Option<Keys>,
}

/// A minion of Salt.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// Its package; salt-minion without the key.
    pkg_name: Option<String>,
    /// Its service; salt-minion without the key.
    service_name: Option<String>,
    /// The folder of its files; /etc/salt without the key.
    config_dir: Option<String>,
    /// Its settings, for the file `minion` of that folder. With `file_client: local` the states are applied at once
    /// and no service runs.
    conf: Option<Map<String, Json>>,
    /// What it tells of itself, for the file `grains` of that folder.
    grains: Option<Map<String, Json>>,
    /// Its public key; with the private one only.
    public_key: Option<String>,
    /// Its private key; with the public one only.
    private_key: Option<String>,
    /// The folder of its keys; pki/minion in the folder of its files without the key, or pki where that lacks.
    pki_dir: Option<String>,
}

impl Handler for SaltMinion {
    const NAME: &'static str = "salt_minion";
    const SUMMARY: &'static str = "Sets a minion of Salt up";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let known = yaml::fields_of::<Keys>();
        let is_text = |key: &str| known.contains(&key) && !matches!(key, "conf" | "grains");
        config.get("salt_minion").map_or_else(Vec::new, |node| not_text(node, "salt_minion", is_text))
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        // A key with nothing behind it asks for the defaults.
        let nothing = Keys::default();
        let keys = config.salt_minion.as_ref().unwrap_or(&nothing);
        let mut steps = Steps::of("salt_minion");
        let package = keys.pkg_name.as_deref().unwrap_or("salt-minion");
        // Where the program is there, an image without a package manager needs none.
        let installed =
            context.system.has_program("salt-minion") || steps.add("pkg_name", packages::ensure(context, &[package]));
        let folder = keys.config_dir.as_deref().unwrap_or("/etc/salt").trim_end_matches('/');
        let mut changed = Vec::new();
        for (name, value) in [("minion", &keys.conf), ("grains", &keys.grains)] {
            let Some(value) = value else { continue };
            let text = document::of(&Json::Object(value.clone()));
            let path = format!("{folder}/{name}");
            let outcome = put(&context.system, &path, &text, mode_of(&text)).map_err(Failure::from);
            if matches!(outcome, Ok(true)) {
                changed.push(path);
            }
            steps.add(if name == "minion" { "conf" } else { name }, outcome.map(drop));
        }
        steps.add("private_key", put_keys(keys, folder, context));
        let local = keys.conf.as_ref().and_then(|conf| conf.get("file_client")).is_some_and(|kind| kind == "local");
        let detail = json!({"package": package, "changed": changed, "masterless": local});
        if !installed {
            return steps.finish(detail);
        }
        let unit = format!("{}.service", keys.service_name.as_deref().unwrap_or("salt-minion"));
        for verb in if local { ["disable", "stop"] } else { ["enable", "restart"] } {
            steps.add("service_name", systemctl(context, verb, &unit));
        }
        if local {
            // Without the option a state that failed is no failure.
            let words = ["--local", "--retcode-passthrough", "--no-color", "state.apply"];
            let command = context.command("salt-call").env("HOME", "/root").args(words).capture();
            steps.add("", run_to_end(context, "salt-call --local state.apply", &command));
        }
        steps.finish(detail)
    }
}

fn put_keys(keys: &Keys, folder: &str, context: &Context) -> Result<(), Failure> {
    let (public, private) = match (&keys.public_key, &keys.private_key) {
        (Some(public), Some(private)) => (public, private),
        (None, None) => return Ok(()),
        _ => {
            let message = "public_key and private_key belong together; give both";
            return Err(Failure::new(Reason::Config, message));
        }
    };
    let system = &context.system;
    let usual = format!("{folder}/pki/minion");
    let usual = if system.exists(&usual) { usual } else { format!("{folder}/pki") };
    let folder = keys.pki_dir.as_deref().unwrap_or(&usual).trim_end_matches('/');
    system.make_dir(folder, 0o700, None)?;
    put(system, &format!("{folder}/minion.pub"), public, 0o644)?;
    put_secret(system, &format!("{folder}/minion.pem"), private)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::handlers::Outcome;
    use crate::system::FileOptions;
    use crate::testing;

    /// A machine on which the package is there.
    fn machine(tree: &std::path::Path, user_data: &str) -> Option<Context> {
        let context = testing::machine(tree, &["/usr/bin/dash"], user_data)?;
        context.system.make_dir("/run/systemd/system", 0o755, None).unwrap();
        for (name, script) in [
            ("apt-get", "echo apt >> /said; exit 100"),
            ("dpkg-query", "case $* in *nothing) exit 1;; esac; echo installed 1"),
            ("systemctl", "echo \"$@\" >> /said"),
            ("salt-call", "echo \"$@\" >> /said; echo 'Failed:     1'; exit 2"),
        ] {
            let script = format!("#!/usr/bin/dash\n{script}\n");
            testing::executable(&context.system, format!("/usr/bin/{name}"), script);
        }
        Some(context)
    }

    #[test]
    fn files_and_keys_are_where_cloud_init_puts_them_and_the_private_key_is_for_root() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "salt_minion:\n  conf: {master: salt.example.com}\n  grains: {role: [web]}\n  \
            public_key: pub\n  private_key: hunter2\n";
        let Some(mut context) = machine(tree.path(), user_data) else { return };
        context.system.write("/etc/salt/pki/minion/minion.pem", "old", FileOptions::mode(0o644)).unwrap();
        for changed in [json!(["/etc/salt/minion", "/etc/salt/grains"]), json!([])] {
            let outcome = context.run_handler::<SaltMinion>().unwrap();
            let Outcome::Ok(Some(detail)) = outcome else { panic!("{outcome:?}") };
            assert_eq!(detail, json!({"package": "salt-minion", "changed": changed, "masterless": false}));
        }
        for (path, text, mode) in [
            ("/etc/salt/minion", "---\nmaster: salt.example.com\n...\n", 0o644),
            ("/etc/salt/grains", "---\nrole:\n- web\n...\n", 0o644),
            ("/etc/salt/pki/minion/minion.pub", "pub", 0o644),
            ("/etc/salt/pki/minion/minion.pem", "hunter2", 0o600),
        ] {
            assert_eq!(context.system.read_text(path).unwrap(), text);
            assert_eq!(context.system.metadata(path).unwrap().mode() & 0o777, mode, "{path}");
        }
        let said = context.system.read_text("/said").unwrap();
        assert_eq!(said, "enable salt-minion.service\nrestart salt-minion.service\n".repeat(2));
    }

    #[test]
    fn without_a_master_the_states_are_applied_and_one_that_fails_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "salt_minion: {conf: {file_client: local, gitfs_password: hunter2}, config_dir: /srv/salt/, \
            service_name: other, public_key: x}";
        let Some(mut context) = machine(tree.path(), user_data) else { return };
        // The image has the program, and nothing that installs one.
        testing::executable(&context.system, "/usr/bin/salt-minion", "");
        context.system.remove("/usr/bin/apt-get").unwrap();
        let failure = context.run_handler::<SaltMinion>().unwrap_err();
        assert_eq!(
            failure.message,
            "salt_minion.private_key: public_key and private_key belong together; give both; \
             salt_minion: salt-call --local state.apply exited 2: Failed:     1"
        );
        assert!(!format!("{failure:?}").contains("hunter2"));
        assert_eq!(context.system.metadata("/srv/salt/minion").unwrap().mode() & 0o777, 0o600);
        let said = context.system.read_text("/said").unwrap();
        let call = "--local --retcode-passthrough --no-color state.apply\n";
        assert_eq!(said, format!("disable other.service\nstop other.service\n{call}"));
        assert!(!context.system.exists("/srv/salt/pki"));
    }

    #[test]
    fn a_package_that_is_not_to_be_had_leaves_the_files_and_no_service() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "salt_minion: {pkg_name: nothing, conf: {master: x}, public_key: a, private_key: b}";
        let Some(mut context) = machine(tree.path(), user_data) else { return };
        let failure = context.run_handler::<SaltMinion>().unwrap_err();
        assert!(failure.message.starts_with("salt_minion.pkg_name: package nothing: "), "{}", failure.message);
        assert!(context.system.exists("/etc/salt/minion") && context.system.exists("/etc/salt/pki/minion.pem"));
        assert_eq!(context.system.metadata("/etc/salt/pki").unwrap().mode() & 0o777, 0o700);
        assert!(!context.system.read_text("/said").unwrap().contains("salt-minion"));
    }
}
