//! cloud-init's own settings, as an image brings them: `/etc/cloud/cloud.cfg` and the files over it.
//!
//! They are a layer of the configuration where `kiln-cloud-init` is installed, between what is built in and
//! `/etc/kiln/agent.yaml`. Of two files the later name wins, and all of them over `cloud.cfg`; they merge as
//! Kiln's own files do. What is about cloud-init itself, such as its lists of modules, is left out and told by
//! `plan` and `validate`, at no boot: an image that works is no reason for a warning.

use std::io;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{self, Entry, Node, Place, Value};

use super::is_installed;
use crate::config::AgentKeys;
use crate::handlers::{self, external, not_done};
use crate::system::System;
use crate::userdata;

/// The settings of the image.
const FILE: &str = "/etc/cloud/cloud.cfg";
/// Files over [`FILE`]; a later name wins.
const DROPINS: &str = "/etc/cloud/cloud.cfg.d";
/// What begins a file that has to be filled in with the data of the instance, which asks for an instance first.
const TEMPLATE: &str = "## template:";

/// What the settings amount to.
#[derive(Default)]
pub struct Settings {
    /// The keys that count here, merged.
    pub root: Option<Node>,
    /// Files that cannot be read.
    pub errors: Vec<Diagnostic>,
    /// What does not count here, as warnings.
    pub left_out: Vec<Diagnostic>,
}

/// The files of cloud-init's settings, the lowest rank first.
pub fn files(system: &System) -> Vec<String> {
    let names = system.list(DROPINS).unwrap_or_default().into_iter().filter(|name| name.ends_with(".cfg"));
    std::iter::once(FILE.to_owned()).chain(names.map(|name| format!("{DROPINS}/{name}"))).collect()
}

/// Reads them where the agent is in cloud-init's place; nothing elsewhere.
pub fn read(system: &System) -> Settings {
    let mut settings = Settings::default();
    if !is_installed(system) {
        return settings;
    }
    let mut merged = Node::empty_map(Place::whole(FILE));
    for path in files(system) {
        match system.read_text(&path) {
            Ok(text) if text.starts_with(TEMPLATE) => {
                let message = "a template, which is not filled in here; write its keys into /etc/kiln/agent.d";
                settings.left_out.push(Diagnostic::new(Severity::Warning, path, message));
            }
            // The reader's warnings are about spellings that cloud-init has taken so far.
            Ok(text) => match yaml::parse(&path, &text) {
                Ok((node, _)) if node.is_null() => {}
                Ok((node, _)) if matches!(node.value, Value::Map(_)) => merged = userdata::layer(node, merged),
                Ok((node, _)) => settings.errors.push(node.diagnostic(Severity::Error, "", "it is no mapping of keys")),
                Err(finding) => settings.errors.push(*finding),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => settings.errors.push(Diagnostic::error(path, format!("cannot be read: {error}"))),
        }
    }
    settings.left_out.extend(translate(system, &mut merged));
    settings.root = Some(merged);
    settings
}

/// Keeps the keys that count here, under the names that they have here. Gives what is left out.
fn translate(system: &System, root: &mut Node) -> Vec<Diagnostic> {
    let external = external::names(system);
    let mut known = handlers::known_keys();
    known.extend(yaml::fields_of::<AgentKeys>());
    known.extend(external.iter().map(String::as_str));
    let mut left_out = Vec::new();
    let Value::Map(entries) = &mut root.value else { return left_out };
    let mut kept: Vec<Entry> = Vec::new();
    for mut entry in std::mem::take(entries) {
        let mut leave_out = |key: &str, place: &Place, why: String| {
            left_out.push(place.diagnostic(Severity::Warning, key, why));
        };
        match entry.key.as_str() {
            // Read with the network's own files, as it must be known before there is an instance.
            "network" => continue,
            "system_info" => {
                let Value::Map(below) = entry.value.value else { continue };
                for inner in below {
                    let key = format!("system_info.{}", inner.key);
                    match inner.key.as_str() {
                        "default_user" => kept.push(inner),
                        _ => leave_out(&key, &inner.place, "kiln-agent finds this out by itself".to_owned()),
                    }
                }
                continue;
            }
            "datasource_list" if sources(&entry.value) != 1 => {
                let why = "of several sources kiln-agent asks those that the machine shows".to_owned();
                leave_out("datasource_list", &entry.place, why);
                continue;
            }
            // So that `datasource` in Kiln's own files takes its place.
            "datasource_list" => entry.key = "datasource".to_owned(),
            "datasource" => {
                leave_out("datasource", &entry.place, "these are settings of cloud-init's sources".to_owned());
                continue;
            }
            _ => {}
        }
        match not_done::find(&entry.key) {
            Some(not_done) if not_done.own => leave_out(&entry.key, &entry.place, not_done.told()),
            None if !known.contains(&entry.key.as_str()) => {
                leave_out(&entry.key, &entry.place, "unknown key, also left out at a boot".to_owned());
            }
            _ => kept.push(entry),
        }
    }
    *entries = kept;
    left_out
}

/// How many sources a list names; `None` in it is what is left when all of them fail.
fn sources(list: &Node) -> usize {
    let named = |item: &&Node| !matches!(&item.value, Value::Scalar(name) if name.text.eq_ignore_ascii_case("none"));
    match &list.value {
        Value::List(items) => items.iter().filter(named).count(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud_init::INSTALLED;
    use crate::config::Config;
    use crate::datasources::Instance;
    use crate::system::FileOptions;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        (tree, system)
    }

    fn told(findings: &[Diagnostic]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    const IMAGE: &str = "users: [default]\ndisable_root: true\nsystem_info:\n  distro: debian\n  default_user: {name: debian, shell: /bin/sh}\n";

    #[test]
    fn the_rank_is_cloud_cfg_its_later_files_then_kilns_own() {
        let (_tree, system) = machine(&[
            (INSTALLED, ""),
            (FILE, IMAGE),
            (
                "/etc/cloud/cloud.cfg.d/10-a.cfg",
                "system_info: {default_user: {name: a, gecos: A}}\nrole: a\ntimezone: UTC\n",
            ),
            ("/etc/cloud/cloud.cfg.d/20-b.cfg", "role: b\ndatasource_list: [Ec2, None]\n"),
            ("/etc/cloud/cloud.cfg.d/README", "not: read\n"),
            ("/etc/kiln/agent.yaml", "default_user: {name: kiln}\n"),
        ]);
        let instance =
            Instance { user_data: b"#cloud-config\ntimezone: CET\n".to_vec(), ..Instance::new("test", "i-1") };
        let config = Config::load(&system, &instance, None);
        assert_eq!(told(&config.diagnostics), Vec::<String>::new());
        let get = |key: &str| config.root.get(key).unwrap().to_json();
        assert_eq!(get("default_user"), serde_json::json!({"name": "kiln", "gecos": "A", "shell": "/bin/sh"}));
        assert_eq!((get("role"), get("timezone")), ("b".into(), "CET".into()));
        assert_eq!(get("disable_root"), serde_json::Value::from(true));
        assert_eq!(config.agent.datasource.unwrap(), ["Ec2", "None"]);
        assert_eq!(
            told(&config.left_out),
            ["/etc/cloud/cloud.cfg:4:3: warning: system_info.distro: kiln-agent finds this out by itself"]
        );
    }

    #[test]
    fn kilns_own_source_takes_the_place_of_the_list() {
        let (_tree, system) = machine(&[
            (INSTALLED, ""),
            (FILE, "datasource_list: [Ec2]\n"),
            ("/etc/kiln/agent.yaml", "datasource: [nocloud]\n"),
        ]);
        let config = Config::of_image(&system);
        assert_eq!(told(&config.diagnostics), Vec::<String>::new());
        assert_eq!(config.agent.datasource.unwrap(), ["nocloud"]);
    }

    #[test]
    fn they_count_only_in_the_place_of_cloud_init() {
        let (_tree, system) = machine(&[(FILE, "role: web\ncloud_init_modules: [ssh]\na: [\n")]);
        let config = Config::of_image(&system);
        assert_eq!((config.agent.role, config.diagnostics, config.left_out), (None, vec![], vec![]));
    }

    #[test]
    fn what_does_not_count_is_told_and_warns_at_no_boot() {
        let (_tree, system) = machine(&[
            (INSTALLED, ""),
            (
                FILE,
                "cloud_final_modules:\n- scripts-user\ndatasource: {Ec2: {strict_id: false}}\nnever_heard: 1\n\
                 datasource_list: [NoCloud, Ec2, None]\nnetwork: {config: disabled}\noutput: {all: '| tee'}\n",
            ),
            ("/etc/cloud/cloud.cfg.d/10-filled.cfg", "## template: jinja\nrole: {{ v1.region }}\n"),
            ("/etc/cloud/cloud.cfg.d/20-empty.cfg", "# nothing\n"),
        ]);
        let config = Config::of_image(&system);
        assert_eq!(told(&config.diagnostics), Vec::<String>::new());
        assert_eq!(config.root.entries().len(), 0, "{:?}", config.root);
        let left_out = told(&config.left_out);
        assert_eq!(left_out.len(), 6, "{left_out:?}");
        for part in [
            "10-filled.cfg: warning: a template",
            "cloud.cfg:1:1: warning: cloud_final_modules: cloud-init's key, not done by kiln-agent; the order of",
            "datasource: these are settings",
            "never_heard: unknown key",
            "datasource_list: of several sources",
            "output: cloud-init's key",
        ] {
            assert!(left_out.iter().any(|told| told.contains(part)), "{part}: {left_out:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_and_the_others_count() {
        let (_tree, system) = machine(&[
            (INSTALLED, ""),
            (FILE, "role: web\n"),
            ("/etc/cloud/cloud.cfg.d/10-broken.cfg", "a: [\n"),
            ("/etc/cloud/cloud.cfg.d/20-list.cfg", "- a\n"),
        ]);
        let config = Config::of_image(&system);
        let told = told(&config.diagnostics);
        assert_eq!(config.agent.role.as_deref(), Some("web"));
        assert!(told.len() == 2 && told[0].contains("10-broken.cfg") && told[1].contains("20-list.cfg"), "{told:?}");
    }
}
