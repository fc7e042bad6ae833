//! Handlers: each owns some keys of the user-data and does one thing with them.
//!
//! # Adding a handler
//! 1. Write `handlers/NAME.rs`: a `Config` struct whose fields are the top-level keys it reads (with
//!    `Deserialize`, `JsonSchema`, `Default`, and a doc comment on every field: that is its
//!    documentation), a unit struct, and `impl Handler` for it, with its tests at the foot. Use the
//!    field types of [`kiln_schema::yaml`] (`Each`, `Argv`, `Mode`), `Option` and plain types; never
//!    `#[serde(untagged)]` or `#[serde(flatten)]`, which lose spelling and place.
//! 2. Add its module and its line in [`HANDLERS`], at the place where it is to run.
//!
//! Everything else is derived from the slice: the list of known keys, `kiln-agent handlers` and `validate`.
//! The JSON schema and the page of all keys are written anew by `KILN_BLESS=1 cargo test --workspace theirs`.

use std::time::Duration;

use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Node};
use schemars::JsonSchema;
#[cfg(test)]
use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::context::Context;
use crate::system::{RunError, System};
use crate::userdata::Script;

mod ansible;
mod apt;
mod apt_pipelining;
mod azure_ready;
mod bootcmd;
mod byobu;
mod ca_certs;
pub mod check;
mod chef;
mod commands;
mod disable_ec2_metadata;
mod disks;
mod edit;
pub mod external;
mod final_message;
mod grub_dpkg;
mod hostname;
mod hosts;
mod keyboard;
mod keys_to_console;
mod locale;
pub mod network;
pub mod not_done;
mod ntp;
mod packages;
mod phone_home;
mod power_state;
pub mod puppet;
mod random_seed;
mod resolv_conf;
pub mod route53;
mod rsyslog;
mod runcmd;
mod salt_minion;
mod scripts;
mod section;
mod set_passwords;
mod ssh_authkey_fingerprints;
mod ssh_authorized_keys;
mod ssh_host_keys;
mod ssh_import_id;
mod ssh_rsa_host_key;
mod templates;
mod timezone;
mod tools;
mod users;
mod wireguard;
mod write_files;
mod yum_repos;
mod zypper;

pub use users::image_default_name;

/// Every built-in handler, in the order in which they run within their stage.
pub static HANDLERS: &[Entry] = &[
    Entry::of::<network::Network>(),
    Entry::of::<network::NetworkOfSource>(),
    Entry::of::<scripts::Boothooks>(),
    Entry::of::<random_seed::RandomSeed>(),
    Entry::of::<bootcmd::Bootcmd>(),
    Entry::of::<disks::Growpart>(),
    Entry::of::<disks::ResizeFs>(),
    Entry::of::<disks::DiskSetup>(),
    Entry::of::<disks::Mounts>(),
    Entry::of::<hostname::Hostname>(),
    Entry::of::<hosts::Hosts>(),
    Entry::of::<timezone::Timezone>(),
    Entry::of::<write_files::WriteFiles>(),
    Entry::of::<ca_certs::CaCerts>(),
    Entry::of::<rsyslog::Rsyslog>(),
    Entry::of::<resolv_conf::ResolvConf>(),
    Entry::of::<users::Users>(),
    Entry::of::<ssh_authorized_keys::SshAuthorizedKeys>(),
    Entry::of::<ssh_host_keys::SshHostKeys>(),
    Entry::of::<set_passwords::SetPasswords>(),
    Entry::of::<ssh_import_id::SshImportId>(),
    Entry::of::<templates::Templates>(),
    Entry::of::<azure_ready::AzureReady>(),
    Entry::of::<ssh_rsa_host_key::SshRsaHostKey>(),
    Entry::of::<locale::Locale>(),
    Entry::of::<keyboard::Keyboard>(),
    Entry::of::<grub_dpkg::GrubDpkg>(),
    Entry::of::<apt_pipelining::AptPipelining>(),
    Entry::of::<apt::Apt>(),
    Entry::of::<yum_repos::YumRepos>(),
    Entry::of::<zypper::Zypper>(),
    Entry::of::<wireguard::Wireguard>(),
    Entry::of::<packages::Install>(),
    Entry::of::<ntp::Ntp>(),
    Entry::of::<byobu::Byobu>(),
    Entry::of::<write_files::WriteFilesDeferred>(),
    Entry::of::<puppet::Handle>(),
    Entry::of::<chef::Chef>(),
    Entry::of::<ansible::Ansible>(),
    Entry::of::<salt_minion::SaltMinion>(),
    Entry::of::<scripts::ScriptsVendor>(),
    Entry::of::<scripts::ScriptsPerOnce>(),
    Entry::of::<scripts::ScriptsPerBoot>(),
    Entry::of::<scripts::ScriptsPerInstance>(),
    Entry::of::<runcmd::Runcmd>(),
    Entry::of::<scripts::Scripts>(),
    Entry::of::<ssh_authkey_fingerprints::SshAuthkeyFingerprints>(),
    Entry::of::<keys_to_console::KeysToConsole>(),
    Entry::of::<route53::Route53>(),
    Entry::of::<disable_ec2_metadata::DisableEc2Metadata>(),
    Entry::of::<phone_home::PhoneHome>(),
    Entry::of::<final_message::FinalMessage>(),
    Entry::of::<power_state::PowerState>(),
];

/// How often a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frequency {
    /// Once in the life of an instance.
    Instance,
    /// At every boot.
    Boot,
    /// Once in the life of a disk, whatever instances it becomes.
    Once,
}

impl Frequency {
    /// The word in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Frequency::Instance => "instance",
            Frequency::Boot => "boot",
            Frequency::Once => "once",
        }
    }
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It did its work; what it tells of it.
    Ok(Option<Json>),
    /// It had nothing to do.
    Skipped(Reason, String),
    /// It did not do its work.
    Failed(Failure),
}

/// A failure: a code for programs and a sentence for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The stable code.
    pub reason: Reason,
    /// What failed, on which input, what to do next. No full stop, no secret.
    pub message: String,
    /// What else is worth keeping; no secret either.
    pub detail: Option<Json>,
}

impl Failure {
    /// A failure without detail.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), detail: None }
    }

    /// The same, with detail.
    #[must_use]
    pub fn with_detail(self, detail: Json) -> Self {
        Failure { detail: Some(detail), ..self }
    }

    /// The same of one part of the work, whose name goes before the message.
    #[must_use]
    pub fn under(self, part: &str) -> Self {
        Failure { message: format!("{part}: {}", self.message), ..self }
    }

    /// One failure for several, of the first's reason; none for none.
    pub fn all(failures: Vec<Failure>) -> Option<Self> {
        let reason = failures.first()?.reason;
        let messages: Vec<_> = failures.into_iter().map(|failure| failure.message).collect();
        Some(Failure::new(reason, messages.join("; ")))
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Outcome::Failed(failure)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Reason::DiskFull,
            _ => Reason::Io,
        };
        Failure::new(reason, error.to_string())
    }
}

/// The code for a command that has no result.
fn reason_of(error: &RunError) -> Reason {
    match error {
        RunError::Missing(_) => Reason::MissingProgram,
        RunError::Start(..) => Reason::CommandFailed,
        RunError::Timeout(..) => Reason::Timeout,
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Failure::new(reason_of(&error), error.to_string())
    }
}

/// What `run` of a handler may end with: `?` works on files, commands and failures.
pub type Handled = Result<Outcome, Failure>;

/// Looks for work of a handler on the machine, in the configuration or among the scripts.
pub type Finds = fn(&System, &Node, &[Script]) -> bool;

/// One thing that the agent does with the user-data.
pub trait Handler: 'static {
    /// The name in the status, in `/var/lib/kiln/data` and on the command line.
    const NAME: &'static str;
    /// One line of documentation.
    const SUMMARY: &'static str;
    /// When it runs.
    const STAGE: Stage;
    /// How often it runs.
    const FREQUENCY: Frequency;
    /// It is ended after this; most handlers need a fraction of a second.
    const TIMEOUT: Duration = Duration::from_secs(300);
    /// It runs also when none of its keys is in the user-data.
    const ALWAYS: bool = false;
    /// What says whether there is work for it, where it is not the presence of its keys.
    const FINDS: Option<Finds> = None;
    /// It tells how the boot went, so it runs after everything else, external handlers too.
    const TELLS: bool = false;

    /// The top-level keys that it reads, as the fields of a struct. Two handlers may read one key.
    type Config: DeserializeOwned + JsonSchema + Default;

    /// Whether a failure degrades the boot and does not fail it.
    fn best_effort(_config: &Self::Config) -> bool {
        false
    }

    /// What is wrong with its part of the configuration beyond the types of the keys.
    fn check(_config: &Node) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Its own timeout, where the user-data sets one.
    fn timeout(_config: &Self::Config) -> Duration {
        Self::TIMEOUT
    }

    /// Does the work. Everything it needs comes with the context; it must end within its deadline,
    /// which commands and requests made through the context do by themselves.
    ///
    /// # Errors
    /// The failure that the status tells.
    fn run(config: &Self::Config, context: &mut Context) -> Handled;
}

/// A handler in the slice, its types erased.
pub struct Entry {
    /// See [`Handler::NAME`].
    pub name: &'static str,
    /// See [`Handler::SUMMARY`].
    pub summary: &'static str,
    /// See [`Handler::STAGE`].
    pub stage: Stage,
    /// See [`Handler::FREQUENCY`].
    pub frequency: Frequency,
    /// See [`Handler::ALWAYS`].
    pub always: bool,
    /// See [`Handler::FINDS`].
    pub finds: Option<Finds>,
    /// See [`Handler::TELLS`].
    pub tells: bool,
    keys: fn() -> &'static [&'static str],
    prepare: fn(&Node) -> Prepared,
    /// Its keys for the schema of user-data, which a test makes.
    #[cfg(test)]
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

/// A handler with its configuration read.
pub struct Prepared {
    /// What is wrong with the configuration.
    pub diagnostics: Vec<Diagnostic>,
    /// The run itself; none if the configuration cannot be used at all.
    pub run: Option<Runnable>,
}

/// A handler that is ready to run.
pub struct Runnable {
    /// A failure degrades the boot and does not fail it.
    pub best_effort: bool,
    /// It is ended after this.
    pub timeout: Duration,
    /// Does the work.
    pub work: Box<dyn FnOnce(&mut Context) -> Handled + Send>,
}

impl Entry {
    /// The entry of a handler.
    pub const fn of<H: Handler>() -> Self
    where
        H::Config: Send,
    {
        Entry {
            name: H::NAME,
            summary: H::SUMMARY,
            stage: H::STAGE,
            frequency: H::FREQUENCY,
            always: H::ALWAYS,
            finds: H::FINDS,
            tells: H::TELLS,
            keys: yaml::fields_of::<H::Config>,
            prepare: prepare::<H>,
            #[cfg(test)]
            schema: |generator| H::Config::json_schema(generator),
        }
    }

    /// The top-level keys that it reads.
    pub fn keys(&self) -> &'static [&'static str] {
        (self.keys)()
    }

    /// Whether the configuration gives it something to do. A key with nothing behind it still counts (`ntp:`).
    pub fn is_configured(&self, config: &Node) -> bool {
        let keys = self.keys();
        config.entries().iter().any(|entry| keys.contains(&entry.key.as_str()))
    }

    /// Reads its part of the configuration.
    pub fn prepare(&self, config: &Node) -> Prepared {
        (self.prepare)(config)
    }
}

fn prepare<H: Handler>(config: &Node) -> Prepared
where
    H::Config: Send,
{
    let yaml::Checked { value, mut diagnostics } = read_keys::<H::Config>(config);
    diagnostics.extend(H::check(config));
    let run = value.map(|config| Runnable {
        best_effort: H::best_effort(&config),
        timeout: H::timeout(&config),
        work: Box::new(move |context: &mut Context| H::run(&config, context)),
    });
    Prepared { diagnostics, run }
}

/// Reads the fields of a type from the top-level keys of their names.
pub fn read_keys<T: DeserializeOwned>(config: &Node) -> yaml::Checked<T> {
    let keys = yaml::fields_of::<T>();
    let mut own = Node::empty_map(config.place.clone());
    if let yaml::Value::Map(entries) = &mut own.value {
        entries.extend(config.entries().iter().filter(|e| keys.contains(&e.key.as_str())).cloned());
    }
    yaml::read_portable::<T>(&own, "")
}

/// The items of a list in the configuration, with their places; a lone value stands for a list of one.
fn items<'a>(config: &'a Node, key: &str) -> &'a [Node] {
    match config.get(key) {
        Some(Node { value: yaml::Value::List(items), .. }) => items,
        Some(node) if !node.is_null() => std::slice::from_ref(node),
        _ => &[],
    }
}

/// Every key that a built-in handler reads.
pub fn known_keys() -> Vec<&'static str> {
    HANDLERS.iter().flat_map(|handler| handler.keys().iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_handler_has_a_reason_to_run() {
        let mut names: Vec<_> = HANDLERS.iter().map(|h| h.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), HANDLERS.len());
        for handler in HANDLERS {
            let reason = handler.always || handler.finds.is_some() || !handler.keys().is_empty();
            assert!(reason, "{} can never run", handler.name);
        }
    }
}
