//! `checks` of an image: what must hold on the machine, said in kiln.yaml.
//!
//! Each becomes one [`Assertion`] or several: a call of a function of the library that tests written by hand
//! use as well, so there is one engine for both.
//!
//! # Adding a kind of check
//! A function in `packaging/bats/kiln.bash` with its tests, its keys in [`CheckKeys`], an entry in [`KINDS`],
//! and what it asserts in [`assertions`].

use std::net::IpAddr;
use std::time::Duration;

use kiln_schema::yaml::Mode;

use super::types::Timeout;

/// The key that says what a check is about, and the keys that may stand beside it.
pub(super) const KINDS: [(&str, &[&str]); 9] = [
    ("mount", &["type", "options"]),
    ("package", &["installed", "version"]),
    ("service", &["active", "enabled"]),
    ("port", &["protocol", "address"]),
    ("http", &["status", "contains"]),
    ("file", &["exists", "mode", "owner", "contains", "content"]),
    ("user", &["exists", "groups"]),
    ("sysctl", &["value"]),
    ("no_failed_units", &[]),
];

/// The key that may stand beside every kind.
pub(super) const WITHIN: &str = "within";

/// All keys of a check. Which of them fit together is in [`KINDS`].
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct CheckKeys {
    mount: Option<String>,
    package: Option<String>,
    service: Option<String>,
    port: Option<u16>,
    http: Option<String>,
    file: Option<String>,
    user: Option<String>,
    sysctl: Option<String>,
    no_failed_units: Option<bool>,
    within: Option<Timeout>,
    #[serde(rename = "type")]
    filesystem: Option<String>,
    options: Vec<String>,
    installed: Option<bool>,
    version: Option<String>,
    active: Option<bool>,
    enabled: Option<bool>,
    protocol: Option<Protocol>,
    address: Option<String>,
    status: Option<u16>,
    contains: Option<String>,
    content: Option<String>,
    exists: Option<bool>,
    mode: Option<Mode>,
    owner: Option<String>,
    groups: Vec<String>,
    value: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// One thing that must hold: a call of a function of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// As a person reads it in the report.
    pub name: String,
    /// The function.
    pub function: &'static str,
    /// What it is called with.
    pub arguments: Vec<String>,
    /// How long it may take until it holds; without it, it must hold at once.
    pub within: Option<Duration>,
}

/// Why keys say nothing that can be checked: the key at fault and a sentence.
pub(super) type Fault = (&'static str, String);

/// What a check asserts. That its keys fit together by [`KINDS`] has been seen to.
///
/// # Errors
/// When a value cannot be checked.
pub(super) fn assertions(keys: &CheckKeys) -> Result<Vec<Assertion>, Fault> {
    let mut made = Made { within: keys.within.map(|within| within.0), assertions: Vec::new() };
    if let Some(path) = &keys.mount {
        absolute("mount", path)?;
        let kind = keys.filesystem.clone().unwrap_or_default();
        let as_type = if kind.is_empty() { String::new() } else { format!(" as {kind}") };
        let arguments = [path.clone(), kind].into_iter().chain(keys.options.iter().cloned());
        made.assert(format!("{path} is mounted{as_type}"), "mounted", arguments);
    } else if let Some(name) = &keys.package {
        plain("package", name)?;
        match (&keys.version, keys.installed) {
            (Some(_), Some(false)) => return Err(("version", "a package that is not there has no version".to_owned())),
            (None, Some(false)) => made.assert(format!("package {name} is not installed"), "package_absent", [name]),
            (None, _) => made.assert(format!("package {name} is installed"), "package_installed", [name]),
            (Some(version), _) => {
                let sentence = format!("package {name} {version} is installed");
                made.assert(sentence, "package_installed", [name, version]);
            }
        }
    } else if let Some(name) = &keys.service {
        plain("service", name)?;
        // Who says nothing of either means a service that runs now and after every boot.
        let neither = keys.active.is_none() && keys.enabled.is_none();
        match keys.active.or(neither.then_some(true)) {
            Some(true) => made.assert(format!("{name} is active"), "service_active", [name]),
            Some(false) => made.assert(format!("{name} is not active"), "service_inactive", [name]),
            None => {}
        }
        match keys.enabled.or(neither.then_some(true)) {
            Some(true) => made.assert(format!("{name} is enabled"), "service_enabled", [name]),
            Some(false) => made.assert(format!("{name} is not enabled"), "service_disabled", [name]),
            None => {}
        }
    } else if let Some(port) = keys.port {
        port_listens(keys, port, &mut made)?;
    } else if let Some(url) = &keys.http {
        let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        if address.is_none_or(str::is_empty) || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(("http", format!("`{url}` is no address that begins with http:// or https://")));
        }
        let status = keys.status.unwrap_or(200);
        if !(100..600).contains(&status) {
            return Err(("status", format!("{status} is no status of HTTP")));
        }
        let mut arguments = vec![url.clone(), status.to_string()];
        let mut name = format!("{url} answers {status}");
        if let Some(text) = &keys.contains {
            arguments.push(text.clone());
            name.push_str(" with the text");
        }
        made.assert(name, "http_answers", arguments);
    } else if let Some(path) = &keys.file {
        absolute("file", path)?;
        file(keys, path, &mut made)?;
    } else if let Some(name) = &keys.user {
        plain("user", name)?;
        match (keys.exists, keys.groups.first()) {
            (Some(false), Some(_)) => return Err(("groups", "a user who is not there has no groups".to_owned())),
            (Some(false), None) => made.assert(format!("there is no user {name}"), "user_absent", [name]),
            _ => made.assert(format!("user {name} exists"), "user_exists", [name]),
        }
        for group in &keys.groups {
            made.assert(format!("user {name} is in group {group}"), "user_in_group", [name, group]);
        }
    } else if let Some(name) = &keys.sysctl {
        plain("sysctl", name)?;
        let value = keys.value.as_ref().ok_or(("sysctl", "the key `value` is missing".to_owned()))?;
        made.assert(format!("kernel parameter {name} is {value}"), "sysctl_is", [name, value]);
    } else if keys.no_failed_units == Some(true) {
        made.assert("no unit has failed".to_owned(), "no_failed_units", [""; 0]);
    } else {
        return Err(("no_failed_units", "it can only be true; leave the check out".to_owned()));
    }
    Ok(made.assertions)
}

fn port_listens(keys: &CheckKeys, port: u16, made: &mut Made) -> Result<(), Fault> {
    if port == 0 {
        return Err(("port", "0 is no port; they are 1 to 65535".to_owned()));
    }
    let protocol = match keys.protocol.unwrap_or_default() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let mut arguments = vec![port.to_string(), protocol.to_owned()];
    let mut name = format!("port {port}/{protocol} listens");
    if let Some(text) = &keys.address {
        let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let address = address.map_err(|_| ("address", format!("`{text}` is no IP address")))?.to_string();
        name.push_str(&format!(" on {address}"));
        arguments.push(address);
    }
    made.assert(name, "port_listens", arguments);
    Ok(())
}

fn file(keys: &CheckKeys, path: &String, made: &mut Made) -> Result<(), Fault> {
    if keys.exists == Some(false) {
        let others = [
            ("mode", keys.mode.is_some()),
            ("owner", keys.owner.is_some()),
            ("contains", keys.contains.is_some()),
            ("content", keys.content.is_some()),
        ];
        if let Some((key, _)) = others.into_iter().find(|(_, there)| *there) {
            return Err((key, "a file that is not there has no such thing".to_owned()));
        }
        made.assert(format!("{path} does not exist"), "file_absent", [path]);
        return Ok(());
    }
    let first = made.assertions.len();
    if let Some(Mode(mode)) = keys.mode {
        made.assert(format!("{path} has mode {mode:04o}"), "file_mode", [path, &format!("{mode:04o}")]);
    }
    if let Some(owner) = &keys.owner {
        plain("owner", owner)?;
        made.assert(format!("{path} belongs to {owner}"), "file_owner", [path, owner]);
    }
    if let Some(text) = &keys.contains {
        made.assert(format!("{path} contains the text"), "file_contains", [path, text]);
    }
    if let Some(text) = &keys.content {
        made.assert(format!("{path} has the content"), "file_is", [path, text]);
    }
    // Each of these fails by itself where there is no file.
    if made.assertions.len() == first {
        made.assert(format!("{path} exists"), "file_exists", [path]);
    }
    Ok(())
}

struct Made {
    within: Option<Duration>,
    assertions: Vec<Assertion>,
}

impl Made {
    fn assert<A: ToString>(&mut self, name: String, function: &'static str, arguments: impl IntoIterator<Item = A>) {
        let arguments = arguments.into_iter().map(|argument| argument.to_string()).collect();
        self.assertions.push(Assertion { name, function, arguments, within: self.within });
    }
}

fn absolute(key: &'static str, path: &str) -> Result<(), Fault> {
    if path.starts_with('/') { Ok(()) } else { Err((key, format!("`{path}` is not an absolute path"))) }
}

fn plain(key: &'static str, name: &str) -> Result<(), Fault> {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    let bad = name.is_empty() || name.starts_with('-') || name.chars().any(odd);
    if bad { Err((key, format!("`{}` is no name", name.escape_debug()))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(yaml: &str) -> Result<Vec<Assertion>, Fault> {
        let (node, _) = kiln_schema::yaml::parse("kiln.yaml", yaml).unwrap();
        let checked = kiln_schema::yaml::read::<CheckKeys>(&node, "");
        assert_eq!(checked.diagnostics, [], "{yaml}");
        assertions(&checked.value.unwrap())
    }

    #[test]
    fn every_kind_becomes_calls_of_the_library() {
        for (yaml, calls) in [
            ("mount: /data", &["mounted /data|"][..]),
            ("{mount: /data, type: ext4, options: [noexec, nosuid]}", &["mounted /data|ext4|noexec|nosuid"]),
            ("package: nginx", &["package_installed nginx"]),
            ("{package: nginx, version: 1.22.*}", &["package_installed nginx|1.22.*"]),
            ("{package: telnetd, installed: no}", &["package_absent telnetd"]),
            ("service: nginx", &["service_active nginx", "service_enabled nginx"]),
            ("{service: nginx, active: true}", &["service_active nginx"]),
            ("{service: cups, active: false, enabled: no}", &["service_inactive cups", "service_disabled cups"]),
            ("port: 22", &["port_listens 22|tcp"]),
            ("{port: 53, protocol: udp, address: \"[0::1]\"}", &["port_listens 53|udp|::1"]),
            ("http: http://127.0.0.1/", &["http_answers http://127.0.0.1/|200"]),
            ("{http: 'https://a/', status: 404, contains: \"it's\"}", &["http_answers https://a/|404|it's"]),
            ("file: /etc/motd", &["file_exists /etc/motd"]),
            ("{file: /etc/motd, exists: false}", &["file_absent /etc/motd"]),
            (
                "{file: /a, mode: 0640, owner: root:adm, contains: x, content: xyz}",
                &["file_mode /a|0640", "file_owner /a|root:adm", "file_contains /a|x", "file_is /a|xyz"],
            ),
            (
                "{user: deploy, groups: [adm, sudo]}",
                &["user_exists deploy", "user_in_group deploy|adm", "user_in_group deploy|sudo"],
            ),
            ("{user: pi, exists: false}", &["user_absent pi"]),
            ("{sysctl: net.ipv4.ip_forward, value: 1}", &["sysctl_is net.ipv4.ip_forward|1"]),
            ("no_failed_units: true", &["no_failed_units "]),
        ] {
            let assertions = made(yaml).unwrap();
            let said: Vec<_> = assertions.iter().map(|a| format!("{} {}", a.function, a.arguments.join("|"))).collect();
            assert_eq!(said, calls, "{yaml}");
        }
        assert_eq!(made("{port: 22, within: 1m30s}").unwrap()[0].within, Some(Duration::from_secs(90)));
        let names: Vec<_> = made("service: nginx").unwrap().into_iter().map(|a| a.name).collect();
        assert_eq!(names, ["nginx is active", "nginx is enabled"]);
    }
}
