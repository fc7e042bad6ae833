//! Findings that a type cannot have: words of a small vocabulary, and keys that say nothing.

use kiln_schema::Severity;
use kiln_schema::diagnostic::{Diagnostic, nearest};
use kiln_schema::yaml::{Node, QUOTED, Value, scalar};

use super::items;

/// Lists and mappings in which there must be something, by the path of their keys; `*` is each of a list or mapping.
const FILLED: &[&str] = &[
    "ansible",
    "ansible.galaxy",
    "ansible.galaxy.actions",
    "ansible.galaxy.actions.*",
    "ansible.pull",
    "apk_repos",
    "apt",
    "apt.debconf_selections",
    "apt.disable_suites",
    "apt.primary",
    "apt.primary.arches",
    "apt.primary.search",
    "apt.security",
    "apt.security.arches",
    "apt.security.search",
    "apt.sources",
    "apt.sources.*",
    "autoinstall",
    "bootcmd",
    "ca-certs",
    "ca-certs.trusted",
    "ca_certs",
    "ca_certs.trusted",
    "chef",
    "chef.directories",
    "chef.run_list",
    "chpasswd",
    "chpasswd.list",
    "chpasswd.users",
    "drivers",
    "fan",
    "groups",
    "groups.*",
    "groups.*.*",
    "landscape",
    "lxd",
    "mcollective",
    "merge_how",
    "merge_type",
    "mounts",
    "mounts.*",
    "packages",
    "resolv_conf",
    "rh_subscription",
    "rpi",
    "rsyslog",
    "runcmd",
    "snap",
    "snap.assertions",
    "snap.commands",
    "spacewalk",
    "ssh",
    "ssh_authorized_keys",
    "ssh_genkeytypes",
    "ssh_keys",
    "swap",
    "ubuntu_advantage",
    "ubuntu_pro",
    "users.groups",
    "users.ssh_authorized_keys",
    "wireguard",
    "wireguard.interfaces",
    "write_files",
    "write_files.source",
    "yum_repos",
    "zypper",
    "zypper.repos",
];

/// Lists in which nothing stands twice.
const UNIQUE: &[&str] = &[
    "apt.disable_suites",
    "chef.directories",
    "ntp.allow",
    "ntp.peers",
    "ntp.pools",
    "ntp.servers",
    "rsyslog.packages",
    "ssh_fp_console_blacklist",
    "ssh_key_console_blacklist",
    "wireguard.readinessprobe",
];

/// Keys that want the defaults where they have no value.
const DEFAULTS: &[&str] = &["ntp", "route53"];

/// Keys that say nothing where people mean something by them, whoever owns them.
pub fn empties(config: &Node) -> Vec<Diagnostic> {
    let mut told = Vec::new();
    for entry in config.entries() {
        let key = entry.key.as_str();
        if entry.value.is_null()
            && !DEFAULTS.contains(&key)
            && (super::not_done::find(key).is_some() || super::known_keys().contains(&key))
        {
            told.push(entry.place.diagnostic(Severity::Warning, key, "the key has no value"));
        }
    }
    for path in FILLED {
        each(config, path, "", &mut |node, path| {
            let message = match &node.value {
                Value::List(items) if items.is_empty() => "the list is empty",
                Value::Map(entries) if entries.is_empty() => "the mapping is empty",
                _ => return,
            };
            told.push(node.diagnostic(Severity::Warning, path, message));
        });
    }
    for path in UNIQUE {
        each(config, path, "", &mut |node, path| {
            let Value::List(items) = &node.value else { return };
            let mut seen = std::collections::HashSet::new();
            for (index, item) in items.iter().enumerate() {
                if let Value::Scalar(scalar) = &item.value
                    && !seen.insert(scalar.text.as_str())
                {
                    let path = format!("{path}[{index}]");
                    told.push(item.diagnostic(Severity::Warning, &path, "this stands in the list twice"));
                }
            }
        });
    }
    told
}

/// Shows the values at a path of keys, with their paths; a list on the way stands for each of its items.
fn each<'a>(node: &'a Node, keys: &str, path: &str, show: &mut dyn FnMut(&'a Node, &str)) {
    let (key, rest) = keys.split_once('.').map_or((keys, None), |(key, rest)| (key, Some(rest)));
    if let Value::List(items) = &node.value {
        for (index, item) in items.iter().enumerate().filter(|(_, item)| matches!(item.value, Value::Map(_))) {
            each(item, keys, &format!("{path}[{index}]"), show);
        }
    }
    let mut go = |value: &'a Node, path: String| match rest {
        Some(rest) => each(value, rest, &path, show),
        None => show(value, &path),
    };
    match &node.value {
        Value::List(items) if key == "*" => {
            items.iter().enumerate().for_each(|(index, item)| go(item, format!("{path}[{index}]")));
        }
        Value::Map(entries) if key == "*" => {
            entries.iter().for_each(|entry| go(&entry.value, format!("{path}.{}", entry.key)));
        }
        _ => {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            node.get(key).into_iter().for_each(|value| go(value, path.clone()));
        }
    }
}

/// Those of the values at a key which are none of `words`.
pub fn words(config: &Node, key: &str, words: &[&str]) -> Vec<Diagnostic> {
    items(config, key).iter().filter_map(|node| word(node, key, words)).collect()
}

/// That a value is none of `words`; what is no word at all is the type's to tell. A word in another case works here,
/// and is told as other readers refuse it; of true and false any spelling is good.
pub fn word(node: &Node, path: &str, words: &[&str]) -> Option<Diagnostic> {
    let Value::Scalar(scalar) = &node.value else { return None };
    let text = scalar.text.trim().to_lowercase();
    // In quotes, `off` is a word like any other.
    if ["true", "false", "yes", "no"].contains(&text.as_str())
        && words.contains(&text.as_str())
        && node.kind() == "text"
    {
        return Some(node.diagnostic(Severity::Warning, path, QUOTED));
    }
    let same = scalar.text.trim() == text || scalar::boolean(&text).is_some();
    if node.is_null() || same && words.contains(&text.as_str()) {
        return None;
    }
    let mut finding =
        node.diagnostic(Severity::Warning, path, format!("`{}` is none of {}", scalar.text, words.join(", ")));
    finding.suggestion = nearest(&text, words.iter().copied());
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        kiln_schema::yaml::parse("doc", text).unwrap().0
    }

    #[test]
    fn what_says_nothing_is_told_and_what_means_the_defaults_is_not() {
        for (text, told) in [
            ("{runcmd: [x], ntp: , users: [], bootcmd: x, of_an_external_handler: , puppet: {}}", vec![]),
            ("runcmd: []", vec!["1:9: runcmd: the list is empty"]),
            (
                "{hostname: ~, snap: {}}",
                vec!["1:2: hostname: the key has no value", "1:21: snap: the mapping is empty"],
            ),
            (
                "apt: {primary: [{arches: [x]}, {arches: []}], sources: {}}",
                vec!["1:41: apt.primary[1].arches: the list is empty", "1:56: apt.sources: the mapping is empty"],
            ),
            ("ntp: {pools: [a, b, a], servers: [[a], [a]]}", vec!["1:21: ntp.pools[2]: this stands in the list twice"]),
        ] {
            let found: Vec<String> = empties(&read(text)).iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), told.len(), "{found:?}");
            for (found, told) in found.iter().zip(told) {
                assert!(found.replace("warning: ", "").starts_with(&format!("doc:{told}")), "{found}");
            }
        }
    }

    /// Every handler's findings, as `PATH: MESSAGE`.
    fn findings(text: &str) -> Vec<String> {
        let node = read(text);
        let handlers = crate::handlers::HANDLERS.iter().filter(|handler| handler.is_configured(&node));
        let found = handlers.flat_map(|handler| handler.prepare(&node).diagnostics);
        found.map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
    }

    #[test]
    fn a_mistake_that_is_read_as_meant_is_told_by_its_handler() {
        for (text, told) in [
            ("locale: 1", "locale: a number is no locale"),
            ("{power_state: {mode: halt, condition: 5}}", "power_state.condition: a number, which is run"),
            ("rsyslog: {service_reload_command: a}", "rsyslog.service_reload_command: a line"),
            ("manage_etc_hosts: 'true'", "manage_etc_hosts: text that is taken for true or false"),
            ("manage_etc_hosts: templatey", "manage_etc_hosts: `templatey` is none of true"),
            ("apt_pipelining: bogus", "apt_pipelining: `bogus` is none of os"),
            ("random_seed: {encoding: bad}", "random_seed.encoding: `bad` is none of raw, base64"),
            ("random_seed: {command: foo}", "random_seed.command: a list is expected here"),
            ("random_seed: {command_required: 'true'}", "random_seed.command_required: text that is taken for true"),
            (
                "chpasswd: {users: [{name: a, type: RANDOM, password: s3cret}]}",
                "chpasswd.users[0]: `type: RANDOM` makes",
            ),
            ("chpasswd: {users: [{name: a, type: hash}]}", "chpasswd.users[0]: no password is given"),
            ("yum_repos: {a: {name: x}}", "yum_repos.a: it has none of baseurl"),
            ("apt_pipelining: 'false'", "apt_pipelining: text that is taken for true or false"),
            ("resize_rootfs: 'true'", "resize_rootfs: text that is taken for true or false"),
            ("swap: {size: '512'}", "swap.size: text that is taken for a number"),
            ("users: [{name: a, ssh_redirect_user: default}]", "users[0].ssh_redirect_user: true or false is expected"),
            ("user: [a]", "user: a name or a mapping is expected here"),
            ("fs_setup: [{device: a, filesystem: ext4, partition: 1}]", "fs_setup[0].partition: a number"),
            ("growpart: {mode: AUTO}", "growpart.mode: `AUTO` is none of"),
            ("users: [{name: a, groups: [1]}]", "users[0].groups[0]: a number that is taken for text"),
            ("users: [{name: a, sudo: 1}]", "users[0].sudo: a number is no rule of sudo"),
            ("groups: [1]", "groups[0]: a number that is taken for text"),
            ("runcmd: [[sleep, 5]]", "runcmd[0][1]: a number that is taken for text"),
            ("bootcmd: [1]", "bootcmd[0]: a number that is taken for text"),
            (
                "fs_setup: [{device: a, filesystem: ext4, label: 1}]",
                "fs_setup[0].label: a number that is taken for text",
            ),
            ("disk_setup: {a: ~}", "disk_setup.a: nothing stands here"),
            ("device_aliases: {a: 1}", "device_aliases.a: text is expected here"),
            ("ntp: {config: {confpath: /x}}", "ntp.config: this is not done"),
            ("salt_minion: {conf: x}", "salt_minion.conf: expected a mapping, found text"),
            ("yum_repos: {a: {baseurl: 1}}", "yum_repos.a.baseurl: text is expected here"),
            ("yum_repos: {a: {baseurl: [x]}}", "yum_repos.a.baseurl: a list, of which each item is a line"),
            ("yum_repos: {a: {baseurl: x, enabled: 'no'}}", "yum_repos.a.enabled: true or false is expected here"),
            ("zypper: {repos: [{id: 1, baseurl: x}]}", "zypper.repos[0].id: text is expected here"),
            ("puppet: {exec_args: --test}", "puppet.exec_args: a list is expected here"),
            ("chpasswd: {list: [bob]}", "chpasswd.list: a line here is `user:password`"),
            ("wireguard: {readinessprobe: [a]}", "wireguard: the key `interfaces` is missing"),
            (
                "ansible: {pull: [{url: x, playbook_name: y, clean: 'true'}]}",
                "ansible.pull[0].clean: expected a boolean",
            ),
            (
                "ansible: {setup_controller: {run_ansible: [{playbook_name: y, forks: a}]}}",
                "ansible.setup_controller.run_ansible[0].forks: expected a number, found text",
            ),
            ("{phone_home: {url: 'http://x', post: hostname}}", "phone_home.post: a list is expected here"),
            ("packages: [a, [b]]", "packages[1]: a list here is [name, version]"),
            ("{users: [{name: a, inactive: 5}]}", "users[0].inactive: a number that is taken for text"),
            ("groups: {a: 1}", "groups.a: a number that is taken for text"),
            ("users: 1", "users: a number that is taken for text"),
            ("write_files: [{path: /x, content: 1}]", "write_files[0].content: a number that is taken for text"),
            ("keyboard: {layout: de, model: ~}", "keyboard.model: the key has no value"),
            ("ssh: {emit_keys_to_console: 'false'}", "ssh.emit_keys_to_console: text that is taken for true or false"),
            ("resolv_conf: {nameservers: 1.1.1.1}", "resolv_conf.nameservers: a list is expected here"),
        ] {
            let found = findings(text);
            assert!(found.iter().any(|finding| finding.starts_with(told)), "{text}: {found:?}");
            assert!(!found.concat().contains("s3cret"), "{found:?}");
        }
    }

    #[test]
    fn what_has_several_spellings_by_right_is_not_told() {
        for text in [
            "locale: no",
            "manage_etc_hosts: true",
            "ssh_pwauth: yes",
            "{power_state: {mode: halt, condition: true, delay: 5, timeout: 30}}",
            "rsyslog: {service_reload_command: auto, remotes: {a: 1.1.1.1}}",
            "{phone_home: {url: 'http://x', post: all}}",
            "chpasswd: {list: \"a:x\", users: [{name: a, type: RANDOM}, {name: b, password: x, type: text}]}",
            "users: [a, {name: b, sudo: no, groups: 'x, y', ssh_redirect_user: true}, [c, d], {name: e, groups: {f: ~}}]",
            "users: a",
            "groups: a, b",
            "groups: {a: 'x, y', b: [x]}",
            "apt_pipelining: false",
            "apt_pipelining: 3",
            "growpart: {mode: 'off'}",
            "resize_rootfs: false",
            "swap: {size: 512}",
            "disk_setup: {a: {layout: [50, [50, 82]]}}",
            "mount_default_fields: [~, ~, auto, defaults, '0', '2']",
            "vendor_data: {enabled: 'true'}",
            "runcmd: [[sleep, '5'], ls]",
            "yum_repos: {a: {baseurl: 'http://x', enabled: no, priority: 1}}",
            "puppet: {timeout: 30}",
        ] {
            assert_eq!(findings(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_word_outside_of_the_vocabulary_is_told_with_the_nearest_one() {
        let told = words(&read("a: [rsa, ed25591]"), "a", &["rsa", "ed25519"]);
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["doc:1:10: warning: a: `ed25591` is none of rsa, ed25519; did you mean `ed25519`?"]);
        assert!(words(&read("a:"), "a", &["rsa"]).is_empty());
    }
}
