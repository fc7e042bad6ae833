//! Keys of cloud-init that no handler owns. Each is told, with what to do instead: what a person asks
//! for and does not get must never pass in silence.
//!
//! A key that a handler owns falls out of the table by itself, so a new handler needs no change here.

use std::time::Duration;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::Reason;
use kiln_schema::yaml::{Entry as Pair, Node, Value, scalar};

use super::{Failure, HANDLERS, Prepared, Runnable};

/// A key that the agent knows and does not do.
pub struct NotDone {
    /// The top-level key.
    pub key: &'static str,
    /// What to do instead.
    pub instead: &'static str,
    /// It is about cloud-init itself, so the machine lacks nothing without it: a warning, and no failure.
    pub own: bool,
}

/// Something that the machine lacks without it.
const fn lacking(key: &'static str, instead: &'static str) -> NotDone {
    NotDone { key, instead, own: false }
}

/// Something about cloud-init itself.
const fn own(key: &'static str, instead: &'static str) -> NotDone {
    NotDone { key, instead, own: true }
}

const BAKE: &str = "install it in the image, or run its commands in `runcmd`";
const CONVERGE: &str = "install and run it in `runcmd`, or converge with `puppet`";
const REPOSITORIES: &str = "write the repository's file with `write_files`";
const SUBSCRIPTION: &str = "register in `runcmd`";
const LOG: &str = "`journalctl -t kiln-agent` has the agent's log and the output of commands";
const ORDER: &str = "the order of the handlers is fixed; `kiln-agent handlers` shows it";

/// The keys, by what they are about.
const TABLE: &[NotDone] = &[
    // Packages and their sources.
    lacking("snap", "run `snap install` in `runcmd`"),
    lacking("apk_repos", REPOSITORIES),
    lacking("rh_subscription", SUBSCRIPTION),
    lacking("spacewalk", SUBSCRIPTION),
    lacking("ubuntu_pro", "run `pro attach` in `runcmd`"),
    lacking("ubuntu_advantage", "run `pro attach` in `runcmd`"),
    lacking("drivers", "install the drivers in the image"),
    // Other tools that configure a machine.
    lacking("mcollective", CONVERGE),
    lacking("landscape", BAKE),
    lacking("lxd", BAKE),
    // The network.
    lacking("updates", "the image's own network service takes up a new interface"),
    lacking("fan", "run `fanctl` in `runcmd`"),
    // The system.
    lacking("rpi", "configure the board with `write_files`"),
    lacking("autoinstall", "it is for Ubuntu's installer and not for an installed machine"),
    // Logins.
    lacking("ssh_publish_hostkeys", "`phone_home` can post the host keys"),
    // cloud-init itself.
    own("cloud_init_modules", ORDER),
    own("cloud_config_modules", ORDER),
    own("cloud_final_modules", ORDER),
    own("unverified_modules", ORDER),
    own("output", LOG),
    own("log_cfgs", LOG),
    own("logcfg", LOG),
    own("def_log_file", LOG),
    own("syslog_fix_perms", LOG),
    own("debug", LOG),
    own("resize_rootfs_tmp", "the file system at / grows without a folder for it"),
    own("reporting", "`phone_home` tells a server, and /run/kiln/status.json everybody"),
    own("system_info", "`default_user` says what `default` means; the rest is the image's"),
    own("manual_cache_clean", "`kiln-agent clean` makes the next boot a first one"),
    own("vendor_data2", "there is one vendor-data"),
    own("allow_userdata", "user-data is always read"),
    own("preserve_sources_list", "the agent leaves it as it is"),
    own("disable_fallback_netcfg", "`network: {config: disabled}` in /etc/kiln/agent.yaml keeps the network as it is"),
];

/// The entry of a key that no handler owns, built-in or external.
pub fn find(key: &str) -> Option<&'static NotDone> {
    find_in(TABLE, key)
}

/// Every key that no built-in handler owns, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static NotDone> {
    TABLE.iter()
}

fn find_in<'a>(table: &'a [NotDone], key: &str) -> Option<&'a NotDone> {
    let owned = |key: &str| HANDLERS.iter().any(|handler| handler.keys().contains(&key));
    table.iter().find(|entry| entry.key == key).filter(|entry| !owned(entry.key))
}

/// Those keys of a configuration that ask for something that the machine then lacks.
pub fn lacking_in(config: &Node) -> Vec<&'static NotDone> {
    let asked = config.entries().iter().filter(|pair| !asks_for_nothing(&pair.value, false));
    asked.filter_map(|pair| find(&pair.key)).filter(|entry| !entry.own).collect()
}

/// Whether a value says no more than that nothing is to be done: then nothing is missing. To be `exact`, it
/// says so without the quotes that make text of a boolean.
fn asks_for_nothing(value: &Node, exact: bool) -> bool {
    match &value.value {
        Value::Scalar(scalar) => {
            scalar.is_null() || (scalar.plain || !exact) && scalar::boolean(&scalar.text) == Some(false)
        }
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.iter().all(|pair| match pair.key.as_str() {
            // `fan: {mode: off}`, `snap: {enabled: false}`.
            "mode" | "enabled" => asks_for_nothing(&pair.value, exact),
            _ => false,
        }),
    }
}

impl NotDone {
    /// The sentence for a person.
    pub fn told(&self) -> String {
        format!("cloud-init's key, not done by kiln-agent; {}", self.instead)
    }

    /// What is wrong with the key where it stands; nothing if its value asks for nothing.
    pub fn finding(&self, pair: &Pair) -> Option<Diagnostic> {
        let message = self.told();
        (!asks_for_nothing(&pair.value, true)).then(|| pair.place.diagnostic(Severity::Warning, self.key, message))
    }

    /// The turn of the key in the boot: it fails, and says what to do instead.
    pub fn prepare(&self, config: &Node) -> Prepared {
        let place = config.entries().iter().find(|pair| pair.key == self.key).map(|pair| &pair.place);
        let place = match place {
            Some(place) if place.line > 0 => format!("{} line {}: ", place.source.name, place.line),
            Some(place) => format!("{}: ", place.source.name),
            None => String::new(),
        };
        let message = place + &self.told();
        let work = move |_: &mut crate::context::Context| Err(Failure::new(Reason::Unsupported, message));
        let run = Runnable { best_effort: false, timeout: Duration::from_secs(5), work: Box::new(work) };
        Prepared { diagnostics: Vec::new(), run: Some(run) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(user_data: &str) -> Node {
        kiln_schema::yaml::parse("user-data", user_data).unwrap().0
    }

    #[test]
    fn no_row_stands_for_a_key_that_a_handler_owns() {
        let owned: Vec<&str> = TABLE.iter().map(|entry| entry.key).filter(|key| find(key).is_none()).collect();
        assert_eq!(owned, Vec::<&str>::new());
    }

    #[test]
    fn a_key_stands_once_in_the_table_and_has_something_to_do_instead() {
        let mut keys: Vec<_> = TABLE.iter().map(|entry| entry.key).collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        assert!(TABLE.iter().all(|entry| !entry.instead.is_empty() && !entry.instead.ends_with('.')));
    }

    #[test]
    fn a_key_that_a_handler_owns_is_not_told() {
        let table = [lacking("chpasswd", "x"), lacking("snap", "x")];
        assert!(find_in(&table, "chpasswd").is_none() && find_in(&table, "snap").is_some());
        assert!(find_in(&table, "snapp").is_none());
    }

    #[test]
    fn what_asks_for_nothing_lacks_nothing() {
        for value in ["", "~", "false", "'off'", "[]", "{}", "{mode: off}", "{enabled: no, mode: false}"] {
            let config = parse(&format!("fan: {value}"));
            assert!(lacking_in(&config).is_empty(), "{value}");
            let entry = NotDone { key: "fan", instead: "x", own: false };
            // What the quotes make text of is told, and asks for nothing all the same.
            assert_eq!(entry.finding(&config.entries()[0]).is_some(), value.starts_with('\''), "{value}");
        }
    }

    #[test]
    fn a_key_of_cloud_init_itself_is_a_warning_and_no_failure() {
        let config = parse("output: {all: '| tee -a /var/log/x'}");
        assert!(lacking_in(&config).is_empty());
        let finding = find("output").unwrap().finding(&config.entries()[0]).unwrap();
        assert_eq!((finding.severity, finding.line, finding.path.as_str()), (Severity::Warning, Some(1), "output"));
    }

    #[test]
    fn a_lacking_key_fails_as_unsupported_with_its_place_and_never_its_value() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = crate::context::Context::for_test(tree.path(), "a: b\nsnap: {commands: [s3cret]}\n");
        let config = context.config.clone();
        let entry = lacking_in(&config)[0];
        let run = entry.prepare(&config).run.unwrap();
        let failure = (run.work)(&mut context).unwrap_err();
        assert_eq!(failure.reason, Reason::Unsupported);
        let message = "user-data line 2: cloud-init's key, not done by kiln-agent; run `snap install` in `runcmd`";
        assert_eq!(failure.message, message);
    }
}
