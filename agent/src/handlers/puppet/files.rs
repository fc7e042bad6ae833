//! What puppet reads and the user-data decides: puppet.conf, certificates, the role.

use kiln_schema::yaml::Value;
use serde_json::json;

use super::config::Settings;
use super::run::Paths;
use crate::context::Context;
use crate::handlers::Failure;
use crate::system::FileOptions;

/// Facts in files, of a distribution's packages and of Puppet's own. Every facter reads its own folder.
const FACTS: [&str; 2] = ["/etc/facter/facts.d/kiln.json", "/opt/puppetlabs/facter/facts.d/kiln.json"];

/// Puts the key `role` where facter finds it, or takes away what an earlier boot put there.
///
/// # Errors
/// When the file cannot be written or removed.
pub fn role(context: &Context, all_in_one: bool) -> Result<(), Failure> {
    let [own, other] = if all_in_one { [FACTS[1], FACTS[0]] } else { FACTS };
    context.system.remove(other)?;
    let role = context.config.get("role").filter(|role| !role.is_null());
    match role.map(|role| &role.value) {
        Some(Value::Scalar(role)) => {
            let text = json!({"role": role.text}).to_string() + "\n";
            if context.system.read_text(own).is_ok_and(|old| old == text) {
                return Ok(());
            }
            Ok(context.system.write(own, text, FileOptions::mode(0o644))?)
        }
        _ => Ok(context.system.remove(own)?),
    }
}

/// Writes what the user-data sets. Whether puppet.conf changed: then puppet's paths may have as well.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write(settings: &Settings, context: &Context, paths: &Paths) -> Result<bool, Failure> {
    let system = &context.system;
    if let (Some(certificate), Some(path)) = (&settings.conf.ca_cert, paths.get("localcacert")) {
        let text = format!("{}\n", certificate.trim_end());
        if !system.read_text(path).is_ok_and(|old| old == text) {
            system.write(path, text, FileOptions::mode(0o644))?;
        }
    }
    if !settings.csr_attributes.is_empty() {
        let path = settings.csr_attributes_path.as_deref().or(paths.get("csr_attributes"));
        let text = serde_yaml::to_string(&settings.csr_attributes).map_err(|error| {
            Failure::new(kiln_schema::status::Reason::Config, format!("puppet.csr_attributes: {error}"))
        })?;
        if let Some(path) = path {
            // A challenge password is one of them.
            system.write(path, format!("---\n{text}"), FileOptions::mode(0o600))?;
        }
    }
    let Some(path) = settings.conf_file.as_deref().or(paths.get("config")) else {
        return Ok(false);
    };
    let old = match system.read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let mut text = old.clone();
    for (section, values) in settings.conf.sections() {
        for (name, value) in values {
            let value = if name == "certname" { certname(value, context) } else { value.clone() };
            text = set(&text, section, name, &value);
        }
    }
    if text == old {
        return Ok(false);
    }
    // Settings may hold a proxy's password. The server, which runs as puppet, reads the file as well.
    let options = match system.group("puppet") {
        Some(group) => FileOptions { owner: Some((0, group.gid)), ..FileOptions::mode(0o640) },
        None => FileOptions::mode(0o600),
    };
    system.write(path, text, options)?;
    Ok(true)
}

/// Fills in the host's full name and the instance id. The server takes lower case only.
fn certname(value: &str, context: &Context) -> String {
    let host = || {
        let set = context.config.get("fqdn").and_then(|fqdn| fqdn.to_json().as_str().map(str::to_owned));
        let told = || context.instance.hostname.clone();
        let file = || context.system.read_text("/etc/hostname").ok().map(|name| name.trim().to_owned());
        set.or_else(told).or_else(file).unwrap_or_else(|| "localhost".to_owned())
    };
    value.replace("%f", &host()).replace("%i", &context.instance.id).to_lowercase()
}

/// Sets one value in the text of puppet.conf, where it stands or at the end of its section. All else stays.
fn set(text: &str, section: &str, name: &str, value: &str) -> String {
    let header = format!("[{section}]");
    let setting = format!("{name} = {value}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(start) = lines.iter().position(|line| line.trim() == header) else {
        if lines.last().is_some_and(|line| !line.trim().is_empty()) {
            lines.push(String::new());
        }
        lines.extend([header, setting]);
        return lines.join("\n") + "\n";
    };
    let rest = &lines[start + 1..];
    let end = rest.iter().position(|line| line.trim_start().starts_with('[')).map_or(lines.len(), |at| start + 1 + at);
    let is_it = |line: &String| line.split_once('=').is_some_and(|(key, _)| key.trim() == name);
    // Puppet takes the last of two, so every one is made the same by leaving one.
    let places: Vec<usize> = (start + 1..end).filter(|at| is_it(&lines[*at])).collect();
    match places.split_first() {
        Some((first, more)) => {
            lines[*first] = setting;
            more.iter().rev().for_each(|at| drop(lines.remove(*at)));
        }
        None => {
            let filled = lines[start..end].iter().rposition(|line| !line.trim().is_empty()).unwrap_or(0);
            lines.insert(start + filled + 1, setting);
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_setting_is_put_in_its_place_and_all_else_stays() {
        for (text, expected) in [
            ("", "[agent]\nserver = p\n"),
            ("# mine\n[main]\nvardir = /v\n", "# mine\n[main]\nvardir = /v\n\n[agent]\nserver = p\n"),
            ("[agent]\nserver=old\nnoop = true\n", "[agent]\nserver = p\nnoop = true\n"),
            (
                "[agent]\n# server = x\nnoop = true\n\n[main]\nserver = m\n",
                "[agent]\n# server = x\nnoop = true\nserver = p\n\n[main]\nserver = m\n",
            ),
            ("[agent]\nserver = a\nx = 1\n server = b\n", "[agent]\nserver = p\nx = 1\n"),
            ("[agent]\n", "[agent]\nserver = p\n"),
            ("[agent]\nserver_list = q\n", "[agent]\nserver_list = q\nserver = p\n"),
        ] {
            let once = set(text, "agent", "server", "p");
            assert_eq!(once, expected);
            assert_eq!(set(&once, "agent", "server", "p"), once, "twice is once");
        }
    }

    fn mode(context: &Context, path: &str) -> u32 {
        context.system.metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_closed_to_others_and_a_second_write_changes_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "{fqdn: Web.Example.org}");
        context.system.write("/etc/puppet/puppet.conf", "[main]\nssldir = /s\n", FileOptions::mode(0o644)).unwrap();
        let text = "puppet: {conf: {agent: {certname: 'i-%i.%f', http_proxy_password: hunter2}, ca_cert: 'PEM'},\n  \
            csr_attributes: {custom_attributes: {1.2.840.113549.1.9.7: '0123'}}}";
        let (node, _) = kiln_schema::yaml::parse("user-data", text).unwrap();
        let settings = kiln_schema::yaml::read::<super::super::config::Config>(&node, "").value.unwrap().puppet;
        let paths = super::super::run::parse_paths(
            "config = /etc/puppet/puppet.conf\nlocalcacert = /s/ca.pem\ncsr_attributes = /etc/puppet/csr.yaml\n",
        );
        assert!(write(&settings, &context, &paths).unwrap());
        assert!(!write(&settings, &context, &paths).unwrap());
        let conf = context.system.read_text("/etc/puppet/puppet.conf").unwrap();
        let expected =
            "[main]\nssldir = /s\n\n[agent]\ncertname = i-i-test.web.example.org\nhttp_proxy_password = hunter2\n";
        assert_eq!(conf, expected);
        assert_eq!(mode(&context, "/etc/puppet/puppet.conf"), 0o600);
        let csr = context.system.read_text("/etc/puppet/csr.yaml").unwrap();
        assert_eq!(csr, "---\ncustom_attributes:\n  1.2.840.113549.1.9.7: '0123'\n");
        assert_eq!(mode(&context, "/etc/puppet/csr.yaml"), 0o600);
        assert_eq!(context.system.read_text("/s/ca.pem").unwrap(), "PEM\n");
    }

    #[test]
    fn the_role_is_a_fact_while_there_is_one() {
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "role: 'jetty \"9\"'");
        role(&context, false).unwrap();
        assert_eq!(context.system.read_text(FACTS[0]).unwrap(), "{\"role\":\"jetty \\\"9\\\"\"}\n");
        // The image moved to Puppet's own packages, and then lost its role.
        role(&context, true).unwrap();
        assert!(context.system.exists(FACTS[1]) && !context.system.exists(FACTS[0]));
        role(&Context::for_test(tree.path(), "{}"), true).unwrap();
        assert!(!context.system.exists(FACTS[1]));
    }
}
