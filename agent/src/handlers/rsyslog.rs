//! Rules of rsyslog, and the servers that it sends to.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Argv, Each, Node, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::json;

use super::edit::{Pairs, command_of, must, put};
use super::{Failure, Frequency, Handled, Handler, Outcome};
use crate::context::Context;

/// Writes rules of rsyslog.
pub struct Rsyslog;

/// Keys of rsyslog.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// What rsyslog is to do.
    rsyslog: Option<Keys>,
}

/// What rsyslog is to do.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct Keys {
    /// Rules: text for the file `config_filename`, or a mapping of `content` and `filename`.
    configs: Each<Rules>,
    /// Servers by name, such as `maas: 192.168.1.1` or `logs: "*.* @@logs.example.org:10514"`.
    remotes: Pairs,
    /// The folder of the files; /etc/rsyslog.d without the key.
    config_dir: Option<String>,
    /// The file of rules without a name of their own; 20-cloud-config.conf without the key.
    config_filename: Option<String>,
    /// The command that makes rsyslog read its files. `auto`, as without the key: have systemd do it.
    service_reload_command: Option<Argv>,
    /// Not done: put rsyslog into the image, or into `packages`.
    install_rsyslog: bool,
    /// The program that tells whether rsyslog is installed; rsyslogd without the key.
    check_exe: Option<String>,
    /// Of no meaning, as nothing is installed here.
    packages: Each<String>,
}

/// Some rules.
#[derive(Clone, Debug, PartialEq)]
struct Rules {
    content: String,
    filename: Option<String>,
}

/// The keys of rules.
#[derive(Deserialize, JsonSchema)]
struct RulesKeys {
    /// The rules.
    content: String,
    /// Their file, in `config_dir` unless the path is absolute.
    #[serde(default)]
    filename: Option<String>,
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrKeys;
        impl<'de> Visitor<'de> for TextOrKeys {
            type Value = Rules;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("rules as text, or a mapping of `content` and `filename`")
            }

            fn visit_str<E: de::Error>(self, content: &str) -> Result<Rules, E> {
                Ok(Rules { content: content.to_owned(), filename: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Rules, A::Error> {
                let keys = RulesKeys::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Rules { content: keys.content, filename: keys.filename })
            }
        }
        deserializer.deserialize_struct("Rules", yaml::fields_of::<RulesKeys>(), TextOrKeys)
    }
}

impl JsonSchema for Rules {
    fn schema_name() -> Cow<'static, str> {
        "Rules".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let keys = generator.subschema_for::<RulesKeys>();
        json_schema!({"description": "Text, or a mapping", "anyOf": [{"type": "string"}, keys]})
    }
}

impl Handler for Rsyslog {
    const NAME: &'static str = "rsyslog";
    const SUMMARY: &'static str = "Writes rules of rsyslog";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let command = config.get("rsyslog").and_then(|keys| keys.get("service_reload_command"));
        let line = command.filter(|node| matches!(node.value, Value::Scalar(_)) && node.to_json() != "auto");
        let message = "a line, which is run by a shell; write `auto`, or a list of a program and its arguments";
        let path = "rsyslog.service_reload_command";
        line.map(|node| node.diagnostic(Severity::Warning, path, message)).into_iter().collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let Some(keys) = &config.rsyslog else {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "rsyslog is given nothing".to_owned()));
        };
        let mut failures = Vec::new();
        let program = keys.check_exe.as_deref().unwrap_or("rsyslogd");
        if keys.install_rsyslog && !context.system.has_program(program) {
            let message = format!("rsyslog.install_rsyslog: {program} is not installed; put rsyslog into `packages`");
            failures.push(Failure::new(Reason::Unsupported, message));
        }
        let mut changed = Vec::new();
        let files = files(keys, &mut failures);
        for (path, text) in &files {
            match put(&context.system, path, text, 0o644) {
                Ok(true) => changed.push(path),
                Ok(false) => {}
                Err(error) => failures.push(error.into()),
            }
        }
        if !changed.is_empty() {
            failures.extend(reload(keys, context).err());
        }
        let detail = json!({"files": files.iter().map(|(path, _)| path).collect::<Vec<_>>(), "changed": changed});
        match Failure::all(failures) {
            Some(failure) => Err(failure.with_detail(detail)),
            None if files.is_empty() => Ok(Outcome::Skipped(Reason::NothingToDo, "no rules are given".to_owned())),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Every file with its rules, in the order of the first mention.
fn files(keys: &Keys, failures: &mut Vec<Failure>) -> Vec<(String, String)> {
    let folder = keys.config_dir.as_deref().unwrap_or("/etc/rsyslog.d").trim_end_matches('/');
    let usual = keys.config_filename.as_deref().unwrap_or("20-cloud-config.conf");
    let mut files: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, rules: &str| {
        let path = if name.starts_with('/') { name.to_owned() } else { format!("{folder}/{name}") };
        let index = files.iter().position(|(known, _)| *known == path).unwrap_or_else(|| {
            files.push((path, String::new()));
            files.len() - 1
        });
        if let Some((_, text)) = files.get_mut(index) {
            text.push_str(rules.trim_end());
            text.push('\n');
        }
    };
    for (index, rules) in keys.configs.iter().enumerate() {
        let name = rules.filename.as_deref().unwrap_or(usual);
        if rules.content.trim().is_empty() {
            failures.push(Failure::new(Reason::Config, format!("rsyslog.configs[{index}]: the content is empty")));
        } else if name.trim().is_empty() || name.ends_with('/') {
            failures.push(Failure::new(Reason::Config, format!("rsyslog.configs[{index}]: `{name}` is no file name")));
        } else {
            add(name, &rules.content);
        }
    }
    let mut lines = Vec::new();
    for (name, remote) in keys.remotes.0.iter().filter(|(_, remote)| !remote.trim().is_empty()) {
        match line(name, remote) {
            Ok(line) => lines.push(line),
            Err(why) => failures.push(Failure::new(Reason::Config, format!("rsyslog.remotes.{name}: {why}"))),
        }
    }
    if !lines.is_empty() {
        add(usual, &format!("# begin remotes\n{}\n# end remotes", lines.join("\n")));
    }
    files
}

/// The rule that sends to a server: `[selector] [@|@@]host[:port]`.
fn line(name: &str, remote: &str) -> Result<String, String> {
    let advice = "write it as `*.* @@host:port`, with one @ for UDP and two for TCP";
    let rule = remote.split('#').next().unwrap_or_default();
    let words: Vec<&str> = rule.split_whitespace().collect();
    let (selector, server) = match words.as_slice() {
        [server] => ("*.*", *server),
        [selector, server] => (*selector, *server),
        _ => return Err(format!("this is no server; {advice}")),
    };
    let address = server.trim_start_matches('@');
    let protocol = match server.len() - address.len() {
        0 | 1 => "@",
        2 => "@@",
        _ => return Err(format!("`{server}` has too many @; {advice}")),
    };
    let (host, port) = match address.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))),
        Some(None) => ("", None),
        None => address.split_once(':').map_or((address, Some("")), |(host, port)| (host, Some(port))),
    };
    let fits = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    match port {
        Some(port) if fits(port) && !address.ends_with(':') && !host.is_empty() && host.chars().all(plain) => {
            let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            Ok(format!("{selector} {protocol}{address} # {name}"))
        }
        _ => Err(format!("`{server}` is no server; {advice}")),
    }
}

fn reload(keys: &Keys, context: &Context) -> Result<(), Failure> {
    let given = match &keys.service_reload_command {
        Some(Argv::Shell(word)) if word == "auto" => None,
        Some(Argv::Words(words)) if words.as_slice() == ["auto"] => None,
        other => other.as_ref(),
    };
    let command = match given {
        Some(argv) => command_of(context, argv),
        // Not yet started, it reads the new files by itself; and no unit is waited for in the middle of a boot.
        None if context.system.is_live() => {
            context.command("systemctl").args(["--no-block", "try-restart", "rsyslog.service"])
        }
        None => return Ok(()),
    };
    must(context, &command, "correct rsyslog.service_reload_command")
        .map(|_| ())
        .map_err(|failure| Failure { message: format!("the rules are written; {}", failure.message), ..failure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::read_keys;
    use crate::testing;

    fn run(user_data: &str) -> (tempfile::TempDir, Context, Handled) {
        let tree = tempfile::tempdir().unwrap();
        let mut context = Context::for_test(tree.path(), user_data);
        let handled = context.run_handler::<Rsyslog>();
        (tree, context, handled)
    }

    #[test]
    fn rules_and_servers_go_to_their_files_as_with_cloud_init() {
        let user_data = "rsyslog:\n  config_dir: /opt/etc/rsyslog.d\n  config_filename: 99-late-cloud-config.conf\n  \
            configs:\n  - '*.* @@192.158.1.1'\n  - {content: '*.*   @@192.0.2.1:10514', filename: 01-example.conf}\n  \
            - {content: \"*.*   @@syslogd.example.com\\n\\n\"}\n  remotes: {maas: 192.168.1.1, juju: 10.0.4.1, none: }\n";
        let (_tree, mut context, handled) = run(user_data);
        let folder = "/opt/etc/rsyslog.d";
        let paths = json!([format!("{folder}/99-late-cloud-config.conf"), format!("{folder}/01-example.conf")]);
        assert_eq!(handled, Ok(Outcome::Ok(Some(json!({"files": paths, "changed": paths})))));
        let read = |name: &str| context.system.read_text(format!("{folder}/{name}")).unwrap();
        assert_eq!(read("01-example.conf"), "*.*   @@192.0.2.1:10514\n");
        assert_eq!(
            read("99-late-cloud-config.conf"),
            "*.* @@192.158.1.1\n*.*   @@syslogd.example.com\n# begin remotes\n*.* @192.168.1.1 # maas\n\
             *.* @10.0.4.1 # juju\n# end remotes\n"
        );
        let again = context.run_handler::<Rsyslog>();
        assert_eq!(again, Ok(Outcome::Ok(Some(json!({"files": paths, "changed": []})))));
    }

    #[test]
    fn a_server_is_a_rule_or_a_sentence() {
        for (remote, expected) in [
            ("10.0.4.1", "*.* @10.0.4.1 # x"),
            ("@@logs.example.org:10514", "*.* @@logs.example.org:10514 # x"),
            ("*.err @[::1]:514 # mine", "*.err @[::1]:514 # x"),
            ("@[fe80::1%eth0]", "*.* @[fe80::1%eth0] # x"),
        ] {
            assert_eq!(line("x", remote).as_deref(), Ok(expected));
        }
        for remote in ["@@@host", "a b c", "@host:port", "@host:", "@", "@[::1", "@[::1]514", "host:70000", "#"] {
            assert!(line("x", remote).unwrap_err().contains("write it as `*.* @@host:port`"), "{remote}");
        }
    }

    #[test]
    fn a_bad_entry_never_hides_a_good_one() {
        let user_data = "rsyslog: {configs: [{content: ' '}, good, {content: x, filename: a/}], install_rsyslog: true, \
            remotes: {bad: '@host:port', good: host}}";
        let (_tree, context, handled) = run(user_data);
        let failure = handled.unwrap_err();
        for part in [
            "rsyslogd is not installed; put rsyslog into `packages`",
            "rsyslog.configs[0]: the content is empty",
            "rsyslog.configs[2]: `a/` is no file name",
            "rsyslog.remotes.bad: `@host:port` is no server",
        ] {
            assert!(failure.message.contains(part), "{part}: {}", failure.message);
        }
        let text = context.system.read_text("/etc/rsyslog.d/20-cloud-config.conf").unwrap();
        assert_eq!(text, "good\n# begin remotes\n*.* @host # good\n# end remotes\n");
        let tree = tempfile::tempdir().unwrap();
        let context = Context::for_test(tree.path(), "rsyslog: {configs: [{filename: x}, [y], z]}");
        let checked = read_keys::<Config>(&context.config);
        assert_eq!(checked.value.unwrap().rsyslog.unwrap().configs.len(), 1);
        assert!(checked.diagnostics[0].message.contains("the key `content` is missing"));
        assert_eq!(checked.diagnostics[1].path, "rsyslog.configs[1]");
    }

    #[test]
    fn the_reload_command_runs_on_change_only_and_its_failure_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let user_data =
            "rsyslog: {configs: [x], service_reload_command: 'echo ran >> /ran; echo no such service >&2; exit 4'}";
        let Some(mut context) = testing::machine(tree.path(), &["/usr/bin/dash"], user_data) else { return };
        context.system.link("/bin/sh", "/usr/bin/dash").unwrap();
        let failure = context.run_handler::<Rsyslog>().unwrap_err();
        assert_eq!(failure.message, "the rules are written; /bin/sh exited 4: no such service");
        context.run_handler::<Rsyslog>().unwrap();
        assert_eq!(context.system.read_text("/ran").unwrap(), "ran\n");
    }
}
