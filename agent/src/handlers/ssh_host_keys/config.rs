//! The kinds of host keys, and what the user-data asks for.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::ssh::{self, PublicKey};
use crate::system::System;

/// Where sshd's keys lie.
pub const FOLDER: &str = "/etc/ssh";

/// Keys of the host keys.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Remove the keys that were in the image when a new instance starts from it.
    pub ssh_deletekeys: bool,
    /// The kinds of keys to make, of `rsa`, `ecdsa` and `ed25519`. Nothing is made beside given `ssh_keys`.
    pub ssh_genkeytypes: Vec<String>,
    /// Keys to install instead of making them.
    pub ssh_keys: GivenKeys,
    /// Print nothing while keys are made. Nothing is printed without it either.
    pub ssh_quiet_keygen: bool,
}

impl Default for Config {
    fn default() -> Self {
        let kinds = Kind::ALL.map(|kind| kind.name().to_owned());
        Config {
            ssh_deletekeys: true,
            ssh_genkeytypes: kinds.to_vec(),
            ssh_keys: GivenKeys::default(),
            ssh_quiet_keygen: true,
        }
    }
}

/// Host keys from the user-data. A public part that is not given is derived.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GivenKeys {
    /// The private RSA key.
    rsa_private: Option<String>,
    /// The public RSA key.
    rsa_public: Option<String>,
    /// A certificate for the RSA key.
    rsa_certificate: Option<String>,
    /// The private ECDSA key.
    ecdsa_private: Option<String>,
    /// The public ECDSA key.
    ecdsa_public: Option<String>,
    /// A certificate for the ECDSA key.
    ecdsa_certificate: Option<String>,
    /// The private Ed25519 key.
    ed25519_private: Option<String>,
    /// The public Ed25519 key.
    ed25519_public: Option<String>,
    /// A certificate for the Ed25519 key.
    ed25519_certificate: Option<String>,
}

/// A kind of host key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For old clients.
    Rsa,
    /// NIST's curve.
    Ecdsa,
    /// What clients prefer.
    Ed25519,
}

/// Private part, public part and certificate of one key.
pub struct Given<'a> {
    /// The private part, which every other part needs.
    pub private: Option<&'a str>,
    /// A `.pub` line.
    pub public: Option<&'a str>,
    /// A `-cert.pub` line.
    pub certificate: Option<&'a str>,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Rsa, Kind::Ecdsa, Kind::Ed25519];

    /// The word in keys and file names.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rsa => "rsa",
            Kind::Ecdsa => "ecdsa",
            Kind::Ed25519 => "ed25519",
        }
    }

    /// The file of the private part; that of the public one ends with `.pub`.
    pub fn path(self) -> String {
        format!("{FOLDER}/ssh_host_{}_key", self.name())
    }

    /// Whether a key of this kind is there. An empty file is none.
    pub fn is_there(self, system: &System) -> bool {
        system.metadata(self.path()).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
    }

    /// Whether a line of a public key is of this kind.
    pub fn fits(self, key: &PublicKey) -> bool {
        match self {
            Kind::Rsa => key.kind == "ssh-rsa",
            Kind::Ecdsa => key.kind.starts_with("ecdsa-sha2-"),
            Kind::Ed25519 => key.kind == "ssh-ed25519",
        }
    }
}

impl GivenKeys {
    /// The parts of one kind.
    pub fn of(&self, kind: Kind) -> Given<'_> {
        let (private, public, certificate) = match kind {
            Kind::Rsa => (&self.rsa_private, &self.rsa_public, &self.rsa_certificate),
            Kind::Ecdsa => (&self.ecdsa_private, &self.ecdsa_public, &self.ecdsa_certificate),
            Kind::Ed25519 => (&self.ed25519_private, &self.ed25519_public, &self.ed25519_certificate),
        };
        Given { private: private.as_deref(), public: public.as_deref(), certificate: certificate.as_deref() }
    }

    fn is_empty(&self) -> bool {
        Kind::ALL.iter().all(|kind| {
            let given = self.of(*kind);
            given.private.or(given.public).or(given.certificate).is_none()
        })
    }
}

impl Config {
    /// The kinds to make; none beside keys that are given. The second part is what is no kind.
    pub fn wanted(&self, system: &System) -> (Vec<Kind>, Vec<&str>) {
        if !self.ssh_keys.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let fips = system.read_text("/proc/sys/crypto/fips_enabled").is_ok_and(|text| text.trim() == "1");
        let kinds = Kind::ALL.into_iter().filter(|kind| self.ssh_genkeytypes.iter().any(|name| name == kind.name()));
        // A kernel in FIPS mode has no Ed25519.
        let kinds = kinds.filter(|kind| !(fips && *kind == Kind::Ed25519)).collect();
        let known = |name: &&str| Kind::ALL.iter().any(|kind| kind.name() == *name);
        (kinds, self.ssh_genkeytypes.iter().map(String::as_str).filter(|name| !known(name)).collect())
    }

    /// The kinds to make before sshd starts, and whether RSA is to be made later. sshd does not start
    /// without any key, so RSA is made at once where it is the only kind that sshd would have.
    pub fn plan(&self, system: &System) -> (Vec<Kind>, bool) {
        let (kinds, _) = self.wanted(system);
        if !kinds.contains(&Kind::Rsa) {
            return (kinds, false);
        }
        let paths: Vec<String> = ssh::sshd_settings(system, "HostKey").into_iter().flatten().collect();
        let offered = |kind: &Kind| paths.is_empty() || paths.contains(&kind.path());
        let rsa_alone = !kinds.iter().any(|kind| *kind != Kind::Rsa && offered(kind));
        let (later, now): (Vec<_>, Vec<_>) = kinds.into_iter().partition(|kind| *kind == Kind::Rsa && !rsa_alone);
        (now, !later.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use crate::system::FileOptions;

    #[test]
    fn a_lone_rsa_key_is_made_at_once_because_sshd_needs_one_to_start() {
        for (user_data, sshd_config, now, later) in [
            ("{}", "", vec![Kind::Ecdsa, Kind::Ed25519], true),
            ("ssh_genkeytypes: [rsa]", "", vec![Kind::Rsa], false),
            ("ssh_genkeytypes: ed25519", "", vec![Kind::Ed25519], false),
            ("ssh_genkeytypes: []", "", vec![], false),
            ("{}", "HostKey /etc/ssh/ssh_host_rsa_key\n", Kind::ALL.to_vec(), false),
            ("{}", "HostKey /etc/ssh/ssh_host_ed25519_key\n", vec![Kind::Ecdsa, Kind::Ed25519], true),
            ("ssh_keys: {rsa_private: x}", "", vec![], false),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let context = Context::for_test(tree.path(), user_data);
            context.system.write(ssh::SSHD_CONFIG, sshd_config, FileOptions::default()).unwrap();
            let config = kiln_schema::yaml::read::<Config>(&context.config, "").value.unwrap();
            assert_eq!(config.plan(&context.system), (now, later), "{user_data} {sshd_config}");
        }
    }
}
