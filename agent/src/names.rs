//! The machine's two names, as every part of the agent means them: the host name and the full name.

use std::net::Ipv4Addr;

use kiln_schema::status::Reason;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::context::Context;
use crate::handlers::{Failure, read_keys};

/// Keys of the names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Keys {
    /// The name; a name with dots is taken as the full name.
    pub hostname: Option<String>,
    /// The full name, of which the first label is the host name.
    pub fqdn: Option<String>,
    /// Leave the name alone.
    pub preserve_hostname: bool,
    /// Make /etc/hostname where the image has none; true without the key.
    pub create_hostname_file: Option<bool>,
    /// Set the full name as the host name. Images of Red Hat's family do so without it.
    pub prefer_fqdn_over_hostname: Option<bool>,
}

/// The names that the user-data or else the datasource gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The host name, without dots.
    pub short: String,
    /// The full name; the host name again where no domain is known.
    pub full: String,
    /// The full name is what the kernel is told.
    pub full_is_host_name: bool,
}

impl Names {
    /// The names of this instance; none if neither the user-data nor the datasource gives one.
    pub fn of(context: &Context) -> Option<Self> {
        // What is wrong with the keys, the `hostname` handler tells.
        let keys = read_keys::<Keys>(&context.config).value.unwrap_or_default();
        Self::choose(&keys, context)
    }

    /// The names that these keys ask for.
    ///
    /// `fqdn` gives both; `hostname` with a dot is the full name; without a domain in the keys the full
    /// name is the datasource's.
    pub fn choose(keys: &Keys, context: &Context) -> Option<Self> {
        fn given(key: Option<&String>) -> Option<&str> {
            key.map(|name| name.trim()).filter(|name| !name.is_empty())
        }
        let told = given(context.instance.hostname.as_ref()).map(from_source);
        let (fqdn, hostname) = (given(keys.fqdn.as_ref()), given(keys.hostname.as_ref()));
        let full = match (fqdn, hostname) {
            (Some(fqdn), _) => fqdn.to_owned(),
            (None, Some(name)) if name.contains('.') => name.to_owned(),
            (None, Some(name)) => told.unwrap_or_else(|| name.to_owned()),
            (None, None) => told?,
        };
        let short = first_label(hostname.unwrap_or(&full)).to_owned();
        let prefer = keys.prefer_fqdn_over_hostname;
        let full_is_host_name = prefer.unwrap_or_else(|| context.system.distro().is_red_hat());
        Some(Names { short, full, full_is_host_name })
    }

    /// The name that the machine has: as configured, or as it stands in the image.
    pub fn present(context: &Context) -> Self {
        Self::of(context).unwrap_or_else(|| {
            let text = context.system.read_text("/etc/hostname").unwrap_or_default();
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let full = lines.next().unwrap_or("localhost").to_owned();
            Names { short: first_label(&full).to_owned(), full, full_is_host_name: false }
        })
    }

    /// What the kernel and /etc/hostname get.
    pub fn host_name(&self) -> &str {
        if self.full_is_host_name { &self.full } else { &self.short }
    }

    /// Refuses names that no resolver takes (RFC 1123), and a host name that the kernel does not take.
    ///
    /// # Errors
    /// The name and what is allowed.
    pub fn check(&self) -> Result<(), Failure> {
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let limits = [(self.host_name(), 64), (self.full.as_str(), 253)];
        for (name, limit) in limits {
            if name.len() > limit || !name.split('.').all(label) {
                let message = format!(
                    "`{name}` is not a host name: letters, digits and inner hyphens, at most 63 a label and {limit} in all"
                );
                return Err(Failure::new(Reason::Config, message));
            }
        }
        Ok(())
    }
}

/// A source without names of its own gives the address: `10.0.0.7` is named `ip-10-0-0-7`.
fn from_source(name: &str) -> String {
    match name.parse::<Ipv4Addr>() {
        Ok(_) => format!("ip-{}", name.replace('.', "-")),
        Err(_) => name.to_owned(),
    }
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;
    use std::sync::Arc;

    fn names(user_data: &str, source: Option<&str>, os_release: &str) -> Option<(String, String, String)> {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        context.system.write("/etc/os-release", os_release, FileOptions::default()).unwrap();
        Arc::make_mut(&mut context.instance).hostname = source.map(str::to_owned);
        Names::of(&context).map(|names| (names.host_name().to_owned(), names.short.clone(), names.full))
    }

    #[test]
    fn keys_win_over_the_source_and_the_source_lends_its_domain() {
        let ec2 = Some("ip-10-0-0-7.ec2.internal");
        for (user_data, source, expected) in [
            ("{}", None, None),
            ("hostname: ''", None, None),
            ("{}", ec2, Some(("ip-10-0-0-7", "ip-10-0-0-7.ec2.internal"))),
            ("{}", Some("10.0.0.7"), Some(("ip-10-0-0-7", "ip-10-0-0-7"))),
            ("hostname: web", None, Some(("web", "web"))),
            ("hostname: web", ec2, Some(("web", "ip-10-0-0-7.ec2.internal"))),
            ("hostname: web.example.org", ec2, Some(("web", "web.example.org"))),
            ("fqdn: web.example.org", ec2, Some(("web", "web.example.org"))),
            ("{hostname: db, fqdn: web.example.org}", ec2, Some(("db", "web.example.org"))),
            ("{hostname: db.lan, fqdn: web.example.org}", ec2, Some(("db", "web.example.org"))),
            ("hostname: 1e3", None, Some(("1e3", "1e3"))),
        ] {
            let expected = expected.map(|(short, full): (&str, &str)| (short.into(), short.into(), full.into()));
            assert_eq!(names(user_data, source, "ID=debian"), expected, "{user_data} {source:?}");
        }
    }

    #[test]
    fn the_family_decides_whether_the_full_name_is_the_host_name_unless_a_key_does() {
        for (user_data, os_release, host_name) in [
            ("fqdn: web.example.org", "ID=debian", "web"),
            ("fqdn: web.example.org", "ID=amzn", "web.example.org"),
            ("{fqdn: web.example.org, prefer_fqdn_over_hostname: no}", "ID=amzn", "web"),
            ("{fqdn: web.example.org, prefer_fqdn_over_hostname: yes}", "ID=debian", "web.example.org"),
        ] {
            assert_eq!(names(user_data, None, os_release).unwrap().0, host_name, "{user_data} {os_release}");
        }
    }

    #[test]
    fn the_present_name_is_the_images_when_nobody_gives_one() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{}");
        assert_eq!(Names::present(&context).full, "localhost");
        context.system.write("/etc/hostname", "# built in\nbox.lan\n", FileOptions::default()).unwrap();
        let present = Names::present(&context);
        assert_eq!((present.short.as_str(), present.full.as_str()), ("box", "box.lan"));
    }
}
