//! The keys of `puppet`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kiln_schema::duration;
use kiln_schema::status::Reason;
use kiln_schema::yaml::{self, Each};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::Failure;
use crate::context::Context;

/// Keys of the handler.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// How puppet converges the machine.
    pub puppet: Settings,
}

/// Everything below `puppet`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    /// Run puppet at every boot. Without the key: what `exec` says, and else true.
    run_on_boot: Option<bool>,
    /// Take the machine out of service when puppet fails; true without the key. Off in a bake.
    shutdown_on_error: Option<bool>,
    /// Minutes between the failure and the shutdown, for a look at the machine; 5 without the key.
    pub shutdown_timer: Option<u32>,
    /// How the machine is taken out of service.
    pub on_error: OnError,
    /// Whether a server compiles the catalogue or the machine itself.
    pub mode: Mode,
    /// The manifest, or the folder of manifests, that `mode: apply` applies.
    pub manifest: Option<String>,
    /// Folders of modules.
    pub module_path: Each<String>,
    /// The environment.
    pub environment: Option<String>,
    /// Sections and settings that are put into puppet.conf, and the server's certificate as `ca_cert`.
    pub conf: Conf,
    /// How often puppet is run until a run is good; 1 without the key.
    tries: Option<u32>,
    /// How long one run may take, such as 30m, which holds without the key; a bare number is seconds.
    timeout: Option<Span>,
    /// cloud-init's name for `run_on_boot`.
    exec: Option<bool>,
    /// Arguments in place of the agent's own `--onetime --no-daemonize …`, or more of them for `mode: apply`.
    pub exec_args: Each<String>,
    /// Enable and start puppet's daemon after the run; without the key it is left as the image has it.
    pub start_service: Option<bool>,
    /// Attributes of the certificate request, by section (`custom_attributes`, `extension_requests`).
    pub csr_attributes: BTreeMap<String, BTreeMap<String, String>>,
    /// Path of the file of these attributes, where it is not puppet's own.
    pub csr_attributes_path: Option<String>,
    /// Path of puppet.conf, where it is not puppet's own.
    pub conf_file: Option<String>,
    /// Folder of certificates, where it is not puppet's own.
    pub ssl_dir: Option<String>,
    /// The agent installs nothing: puppet belongs in the image. True is fine where puppet is there.
    install: Option<bool>,
    /// Only `packages`, and not followed: puppet belongs in the image.
    install_type: Option<String>,
    /// Not supported: the image decides the version.
    version: Option<String>,
    /// Not supported: the image decides the version.
    collection: Option<String>,
    /// Not supported: the image decides the package.
    package_name: Option<String>,
    /// Not supported: nothing is installed.
    aio_install_url: Option<String>,
    /// Of no meaning where nothing is installed.
    cleanup: Option<bool>,
}

/// What to do with a machine on which puppet failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Shut it down after the timer.
    #[default]
    Shutdown,
    /// Have EC2 terminate it.
    Terminate,
    /// Leave it running.
    None,
}

/// Who compiles the catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The puppet server.
    #[default]
    Agent,
    /// The machine, from a manifest in the image.
    Apply,
}

impl Mode {
    /// Puppet's own word for it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Agent => "agent",
            Mode::Apply => "apply",
        }
    }
}

/// Sections of puppet.conf.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Conf {
    /// Settings of every command.
    pub main: BTreeMap<String, String>,
    /// Settings of the agent. In `certname`, `%f` is the full host name and `%i` the instance id.
    pub agent: BTreeMap<String, String>,
    /// Settings of the server.
    pub server: BTreeMap<String, String>,
    /// The same under its old name.
    pub master: BTreeMap<String, String>,
    /// Settings of `puppet apply`.
    pub user: BTreeMap<String, String>,
    /// The certificate of the server's authority, in PEM.
    pub ca_cert: Option<String>,
}

impl Conf {
    /// The sections that have settings.
    pub fn sections(&self) -> impl Iterator<Item = (&'static str, &BTreeMap<String, String>)> {
        let all = [
            ("main", &self.main),
            ("agent", &self.agent),
            ("server", &self.server),
            ("master", &self.master),
            ("user", &self.user),
        ];
        all.into_iter().filter(|(_, settings)| !settings.is_empty())
    }
}

/// A length of time; a bare number is seconds, as every other reader of cloud-config takes it.
#[derive(Clone, Copy, Debug, JsonSchema)]
#[schemars(transparent)]
pub struct Span(#[schemars(with = "String")] Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = yaml::tolerant(deserializer)?;
        let seconds = text.parse::<u32>().map(|seconds| Duration::from_secs(seconds.into()));
        seconds.or_else(|_| duration::parse(&text)).map(Span).map_err(de::Error::custom)
    }
}

impl Settings {
    /// Whether puppet is to run.
    pub fn runs(&self) -> bool {
        self.run_on_boot.or(self.exec).unwrap_or(true)
    }

    /// What to do after a failure. The switch wins: an image may say how, and one instance turn it off.
    pub fn on_error(&self) -> OnError {
        if self.shutdown_on_error == Some(false) { OnError::None } else { self.on_error }
    }

    /// Runs until one is good; at least one.
    pub fn tries(&self) -> u32 {
        self.tries.unwrap_or(1).clamp(1, 100)
    }

    /// How long one run may take.
    pub fn timeout(&self) -> Duration {
        self.timeout.map_or(Duration::from_secs(1800), |span| span.0)
    }

    /// Whether it has puppet.conf, a certificate or attributes to write.
    pub fn writes_files(&self) -> bool {
        self.conf.sections().next().is_some() || self.conf.ca_cert.is_some() || !self.csr_attributes.is_empty()
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// The key that cannot be used, and what to write.
    pub fn check(&self) -> Result<(), Failure> {
        let wrong = |message: String| Err(Failure::new(Reason::Config, message));
        for (section, settings) in self.conf.sections() {
            for (name, value) in settings {
                let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if name.is_empty() || !name.bytes().all(is_name) {
                    return wrong(format!("puppet.conf.{section}: `{name}` is not the name of a setting"));
                }
                // The value may be a secret: it is not told.
                if value.contains(['\n', '\r']) {
                    return wrong(format!("puppet.conf.{section}.{name}: a setting is one line, this has more"));
                }
            }
        }
        if self.runs() && self.mode == Mode::Apply && self.manifest.is_none() {
            return wrong("puppet.manifest is missing: `mode: apply` needs the path of a manifest".to_owned());
        }
        if self.mode == Mode::Agent && self.manifest.is_some() {
            return wrong("puppet.manifest has no effect in `mode: agent`; set `mode: apply`".to_owned());
        }
        Ok(())
    }

    /// Checks that the manifest is there. Done late: other keys are of use without it.
    ///
    /// # Errors
    /// That it is not.
    pub fn check_manifest(&self, context: &Context) -> Result<(), Failure> {
        match &self.manifest {
            Some(path) if self.mode == Mode::Apply && !context.system.exists(path) => {
                let message = format!("puppet.manifest: {path} is not there; put it into the image, or write_files it");
                Err(Failure::new(Reason::Config, message))
            }
            _ => Ok(()),
        }
    }

    /// Names the first key that asks for an installation. With `install: false` none of them asks.
    ///
    /// # Errors
    /// A failure with the reason `unsupported`.
    pub fn check_supported(&self) -> Result<(), Failure> {
        if self.install == Some(false) {
            return Ok(());
        }
        let aio = self.install_type.as_deref().filter(|kind| *kind != "packages");
        let keys: [(&str, Option<&dyn fmt::Debug>); 5] = [
            ("version", self.version.as_ref().map(|v| v as _)),
            ("collection", self.collection.as_ref().map(|v| v as _)),
            ("package_name", self.package_name.as_ref().map(|v| v as _)),
            ("aio_install_url", self.aio_install_url.as_ref().map(|v| v as _)),
            ("install_type", aio.as_ref().map(|v| v as _)),
        ];
        match keys.iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!(
                    "puppet.{key} is not supported, as the agent does not install puppet: \
                     put the package into the image, and remove the key or set `install: false`"
                );
                Err(Failure::new(Reason::Unsupported, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_schema::yaml;

    fn read(text: &str) -> (Settings, Vec<String>) {
        let (node, _) = yaml::parse("user-data", text).unwrap();
        let checked = yaml::read::<Config>(&node, "");
        let findings = checked.diagnostics.iter().map(ToString::to_string).collect();
        (checked.value.unwrap_or_default().puppet, findings)
    }

    #[test]
    fn without_keys_puppet_runs_at_boot_and_a_failure_shuts_down() {
        for text in ["puppet:", "puppet: {}"] {
            let (settings, findings) = read(text);
            assert_eq!(findings, Vec::<String>::new());
            assert!(settings.runs() && settings.check().is_ok() && settings.check_supported().is_ok());
            assert_eq!((settings.on_error(), settings.tries(), settings.mode), (OnError::Shutdown, 1, Mode::Agent));
            assert_eq!(settings.timeout(), Duration::from_secs(1800));
        }
    }

    #[test]
    fn switches_win_over_what_they_switch() {
        for (text, runs, on_error) in [
            ("{run_on_boot: no}", false, OnError::Shutdown),
            ("{exec: false}", false, OnError::Shutdown),
            ("{exec: false, run_on_boot: yes}", true, OnError::Shutdown),
            ("{shutdown_on_error: false, on_error: terminate}", true, OnError::None),
            ("{on_error: terminate}", true, OnError::Terminate),
            ("{on_error: none, shutdown_on_error: true}", true, OnError::None),
        ] {
            let (settings, _) = read(&format!("puppet: {text}"));
            assert_eq!((settings.runs(), settings.on_error()), (runs, on_error), "{text}");
        }
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, seconds) in [("600", 600), ("10m", 600), ("'90'", 90), ("1h30m", 5400)] {
            assert_eq!(read(&format!("puppet: {{timeout: {text}}}")).0.timeout().as_secs(), seconds, "{text}");
        }
        assert!(read("puppet: {timeout: soon}").1[0].contains("write a duration as"));
        assert_eq!(read("puppet: {tries: 0}").0.tries(), 1);
    }

    #[test]
    fn what_cannot_be_used_names_its_key_and_never_its_value() {
        for (text, message) in [
            ("{mode: apply}", "puppet.manifest is missing"),
            ("{manifest: /a.pp}", "puppet.manifest has no effect in `mode: agent`"),
            ("{conf: {main: {\"a]\\n[b\": c}}}", "is not the name of a setting"),
            ("{conf: {agent: {certname: \"secret\\nca = x\"}}}", "puppet.conf.agent.certname: a setting is one line"),
        ] {
            let failure = read(&format!("puppet: {text}")).0.check().unwrap_err();
            assert_eq!(failure.reason, Reason::Config);
            assert!(failure.message.contains(message) && !failure.message.contains("secret"), "{}", failure.message);
        }
        assert!(read("puppet: {mode: aply}").1[0].contains("expected one of agent, apply; did you mean `apply`"));
        assert!(read("puppet: {conf: {agnet: {}}}").1[0].contains("did you mean `agent`"));
    }

    #[test]
    fn keys_that_ask_for_an_installation_are_unsupported() {
        for key in ["version: 7.7.0", "collection: puppet7", "package_name: puppet8", "install_type: aio"] {
            let failure = read(&format!("puppet: {{{key}}}")).0.check_supported().unwrap_err();
            assert_eq!(failure.reason, Reason::Unsupported);
            let name = key.split(':').next().unwrap();
            assert!(failure.message.starts_with(&format!("puppet.{name} is not supported")), "{}", failure.message);
            assert!(read(&format!("puppet: {{install: false, {key}}}")).0.check_supported().is_ok());
        }
        for fine in ["install: true", "install_type: packages", "cleanup: true"] {
            assert!(read(&format!("puppet: {{{fine}}}")).0.check_supported().is_ok(), "{fine}");
        }
    }
}
