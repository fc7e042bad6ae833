//! Sealing: takes out of a machine what must not be in its image, then looks again.
//!
//! `checklist` is what is removed and why, as data. `verify` finds what was left by rules of its own:
//! what nobody put on the list is a finding there, never something to delete. `pattern` leads from
//! the list to files, without following a link or leaving the root's file system. `booted` looks at an
//! instance of the image that was made.

mod booted;
mod checklist;
mod edits;
mod pattern;
mod verify;

use kiln_schema::diagnostic::nearest;
use kiln_schema::gate::Verdict;
use serde::Serialize;

pub use booted::evidence;
pub use checklist::{Action, CHECKLIST, Item};
pub use kiln_schema::seal::Finding;
use pattern::Tree;
use verify::finding;

use crate::system::{FileOptions, Found, Kind, System};

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Work off the checklist.
    pub seal: bool,
    /// Look for what is left.
    pub verify: bool,
    /// Entries that are passed over, in sealing and in looking.
    pub skip: Vec<String>,
    /// Patterns, as in the checklist, of files and folders that may hold what looks like a secret, such
    /// as the keys in a library's tests. They are never removed for it either way.
    pub permit: Vec<String>,
}

/// What was done and found, schema 1.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The number of this format.
    pub schema: u32,
    /// Failed when there is a finding.
    pub verdict: Verdict,
    /// The first finding, as one sentence; none when it passed.
    pub cause: Option<String>,
    /// The entries that were worked off, and how much each changed.
    pub sealed: Vec<Sealed>,
    /// The entries that were passed over as asked: a weakness of the image that is to be recorded on it.
    pub skipped: Vec<Skipped>,
    /// The patterns of files that were permitted, which is to be recorded as well.
    pub permitted: Vec<String>,
    /// What was done about the blocks of deleted files; none when that was not asked for.
    pub freed: Option<String>,
    /// Whether the machine was looked at again.
    pub verified: bool,
    /// What must not be in an image and is.
    pub findings: Vec<Finding>,
}

/// One entry of the checklist that was worked off.
#[derive(Debug, Serialize)]
pub struct Sealed {
    /// The entry.
    pub id: &'static str,
    /// Files, folders and links that it changed or removed.
    pub changed: u64,
}

/// One entry of the checklist that was passed over.
#[derive(Debug, Serialize)]
pub struct Skipped {
    /// The entry.
    pub id: &'static str,
    /// Why it is on the list.
    pub why: &'static str,
}

/// Checks the names given to `--skip`.
///
/// # Errors
/// The sentence about the first name that is not on the checklist.
pub fn check_skips(skip: &[String]) -> Result<(), String> {
    let ids = || CHECKLIST.iter().map(|item| item.id);
    match skip.iter().find(|name| !ids().any(|id| id == name.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(match near(unknown) {
            Some(id) => format!("--skip {unknown}: there is no such entry; did you mean `{id}`?"),
            None => {
                format!("--skip {unknown}: there is no such entry; there are {}", ids().collect::<Vec<_>>().join(", "))
            }
        }),
    }
}

fn near(unknown: &str) -> Option<&'static str> {
    let spelled = |id: &str| id.replace('-', "_");
    let ids: Vec<(String, &'static str)> = CHECKLIST.iter().map(|item| (spelled(item.id), item.id)).collect();
    let found = nearest(unknown, ids.iter().map(|(spelled, _)| spelled.as_str()))?;
    ids.iter().find(|(spelled, _)| *spelled == found).map(|(_, id)| *id)
}

/// Works off the checklist and looks for what is left, as asked. One process, so that nothing of it
/// leaves a new trace; the session it runs in stays up, as nothing is stopped or restarted.
pub fn run(system: &System, options: &Options) -> Report {
    let is_skipped = |id: &str| options.skip.iter().any(|skip| skip == id);
    let mut findings = Vec::new();
    let mut sealed = Vec::new();
    let mut freed = None;
    if options.seal {
        let tree = Tree::new(system);
        for item in CHECKLIST.iter().filter(|item| !is_skipped(item.id)) {
            if item.when.is_some_and(|path| system.look(path).is_none()) {
                continue;
            }
            if matches!(item.action, Action::Free) {
                freed = Some(system.free_blocks());
                continue;
            }
            let mut changed = 0;
            for (path, result) in work_off(system, &tree, item) {
                match result {
                    Ok(count) => changed += count,
                    Err(error) => findings.push(finding(item.id, &path, &format!("could not be sealed: {error}"))),
                }
            }
            sealed.push(Sealed { id: item.id, changed });
        }
    }
    if options.verify {
        findings.extend(verify::look(system, &is_skipped, &options.permit, &[]));
    }
    let cause = findings.first().map(|finding| finding.message.clone());
    let verdict = if cause.is_some() { Verdict::Failed } else { Verdict::Passed };
    let skipped = CHECKLIST.iter().filter(|item| is_skipped(item.id));
    let skipped = skipped.map(|item| Skipped { id: item.id, why: item.why }).collect();
    let permitted = options.permit.clone();
    Report { schema: 1, verdict, cause, sealed, skipped, permitted, freed, verified: options.verify, findings }
}

/// Does what an entry says to all that it names, and goes on after an error.
fn work_off(system: &System, tree: &Tree<'_>, item: &Item) -> Vec<(String, std::io::Result<u64>)> {
    let is_kept = |found: &Found| item.keep.iter().any(|keep| pattern::names(keep, &found.path));
    match item.action {
        // A file that must be there afterwards.
        Action::Blank => item.paths.iter().map(|path| ((*path).to_owned(), blank(system, path))).collect(),
        Action::Free => Vec::new(),
        Action::Edit(change) => {
            let files = item.paths.iter().flat_map(|path| tree.find(path)).filter(|found| found.kind == Kind::File);
            files.map(|found| (found.path.clone(), edit(system, &found, change))).collect()
        }
        Action::Remove | Action::Logs | Action::Parts => {
            let of_parts = matches!(item.action, Action::Parts);
            let parts = if of_parts { parts(system, tree) } else { Vec::new() };
            let is_kept = |found: &Found| is_kept(found) || of_parts && !is_part(found, &parts);
            let found = item.paths.iter().flat_map(|path| tree.find(path)).filter(|found| !is_kept(found));
            let act = |found: Found| {
                let result = match (item.action, found.kind) {
                    (Action::Logs, Kind::File) if !is_put_aside(&found.path) => match found.size {
                        0 => Ok(0),
                        _ => system.truncate(&found.path).map(|()| 1),
                    },
                    // Links and sockets among logs hold nothing.
                    (Action::Logs, Kind::Link | Kind::Other) => Ok(0),
                    _ => system.remove_tree(&found, &tree.mounts),
                };
                (found.path, result)
            };
            found.map(act).collect()
        }
    }
}

/// The documents of parts that cloud-init has kept and that may hold scripts for its folders.
fn parts(system: &System, tree: &Tree<'_>) -> Vec<String> {
    let kept = tree.find("/var/lib/cloud/instances/*/*-data*.txt.i");
    let texts = kept.iter().filter_map(|found| system.read_text(&found.path).ok());
    texts.filter(|text| text.contains("x-shellscript-per-")).collect()
}

/// Whether a script is one of them: its name stands in the head of a part.
fn is_part(found: &Found, parts: &[String]) -> bool {
    let name = found.path.rsplit('/').next().unwrap_or_default();
    let heads = [format!("filename=\"{name}\""), format!("filename={name}\n")];
    parts.iter().any(|text| heads.iter().any(|head| text.contains(head)))
}

fn blank(system: &System, path: &str) -> std::io::Result<u64> {
    match system.look(path) {
        Some(found) if found.kind == Kind::File && found.size == 0 => Ok(0),
        Some(found) if found.kind == Kind::File => system.truncate(path).map(|()| 1),
        Some(_) => {
            system.remove(path)?;
            system.write(path, "", FileOptions::mode(0o444)).map(|()| 1)
        }
        None => system.write(path, "", FileOptions::mode(0o444)).map(|()| 1),
    }
}

/// `syslog.1`, `dpkg.log.2.gz`, `messages-20260101`, `Xorg.0.log.old`: nobody has these open.
fn is_put_aside(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match name.rsplit_once('.') {
        Some((_, "gz" | "xz" | "zst" | "bz2" | "old")) => return true,
        Some((_, last)) if digits(last) => return true,
        _ => {}
    }
    name.rsplit_once('-').is_some_and(|(_, last)| digits(last) && last.len() >= 8)
}

fn edit(system: &System, found: &Found, change: fn(&System, &str) -> Option<String>) -> std::io::Result<u64> {
    let text = String::from_utf8_lossy(&system.head(&found.path, found.size)?).into_owned();
    match change(system, &text) {
        Some(changed) => system.write(&found.path, changed, FileOptions::default()).map(|()| 1),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAKED: &[(&str, &str)] = &[
        ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nadmin:x:1000:1000::/home/admin:/bin/sh\n"),
        ("/etc/hostname", "ip-10-0-0-7\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 ip-10-0-0-7.eu.internal ip-10-0-0-7\n10.1.1.1 db\n"),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        (
            "/etc/ssh/ssh_host_rsa_key",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n",
        ),
        ("/etc/ssh/sshd_config", "Port 22\n"),
        ("/etc/shadow", "root:$6$salt$hash:1::::::\n"),
        ("/etc/shadow-", "root:old::\n"),
        ("/root/.ssh/authorized_keys", "ssh-ed25519 AAAA packer_temporary\n"),
        ("/home/admin/.ssh/authorized_keys", "ssh-ed25519 AAAA packer_temporary\n"),
        ("/home/admin/.bash_history", "mysql -psecret\n"),
        ("/home/admin/.aws/credentials", "[default]\naws_access_key_id = AKIAABCDEFGHIJKLMNOP\n"),
        ("/home/admin/notes", "mine\n"),
        ("/var/log/syslog", "line\n"),
        ("/var/log/syslog.1", "line\n"),
        ("/var/log/apt/term.log-20260101", "line\n"),
        ("/var/log/journal/0123/system.journal", "x"),
        ("/var/lib/kiln/instances/i-1/journal.jsonl", "{}\n"),
        ("/var/lib/kiln/once.jsonl", "{}\n"),
        ("/var/lib/kiln/data/puppet", "ok\n"),
        (
            "/var/lib/puppet/ssl/private_keys/a.pem",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAabcdefghijklmnop\n",
        ),
        ("/var/lib/systemd/random-seed", "x"),
        ("/tmp/script_1.sh", "token=ghp_a1B2c3D4a1B2c3D4a1B2c3D4a1B2c3D4a1B2\n"),
        ("/tmp/systemd-private-1-ntp/tmp/x", "x"),
        ("/usr/lib/kiln/agent", "program"),
    ];

    fn baked() -> (tempfile::TempDir, System) {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in BAKED {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        (tree, system)
    }

    fn sealed(skip: &[&str]) -> (tempfile::TempDir, System, Report) {
        let (tree, system) = baked();
        let skip = skip.iter().map(|id| (*id).to_owned()).collect();
        let report = run(&system, &Options { seal: true, verify: true, skip, permit: Vec::new() });
        (tree, system, report)
    }

    #[test]
    fn a_baked_tree_is_sealed_and_what_belongs_to_it_stays() {
        let (_tree, system, report) = sealed(&[]);
        assert_eq!(report.findings, [], "{report:?}");
        assert_eq!(report.verdict, Verdict::Passed);
        for gone in [
            "/etc/ssh/ssh_host_rsa_key",
            "/etc/hostname",
            "/etc/shadow-",
            "/root/.ssh/authorized_keys",
            "/home/admin/.bash_history",
            "/home/admin/.aws",
            "/var/log/syslog.1",
            "/var/log/apt/term.log-20260101",
            "/var/log/journal/0123",
            "/var/lib/kiln/instances",
            "/var/lib/kiln/once.jsonl",
            "/var/lib/puppet/ssl/private_keys",
            "/var/lib/systemd/random-seed",
            "/tmp/script_1.sh",
            "/tmp/systemd-private-1-ntp/tmp/x",
        ] {
            assert!(!system.exists(gone), "{gone} is still there");
        }
        for stays in
            ["/etc/ssh/sshd_config", "/etc/shadow", "/home/admin/notes", "/usr/lib/kiln/agent", "/var/lib/kiln"]
        {
            assert!(system.exists(stays), "{stays} is gone");
        }
        assert_eq!(system.read_text("/etc/machine-id").unwrap(), "");
        assert_eq!(system.read_text("/var/log/syslog").unwrap(), "");
        assert_eq!(system.read_text("/etc/hosts").unwrap(), "127.0.0.1 localhost\n10.1.1.1 db\n");
    }

    #[test]
    fn sealing_twice_changes_nothing_more() {
        let (_tree, system, first) = sealed(&[]);
        assert!(first.sealed.iter().map(|sealed| sealed.changed).sum::<u64>() > 15);
        let again = run(&system, &Options { seal: true, verify: true, ..Options::default() });
        assert_eq!(again.sealed.iter().map(|sealed| sealed.changed).sum::<u64>(), 0, "{again:?}");
        assert_eq!(again.verdict, Verdict::Passed);
    }

    #[test]
    fn verifying_alone_changes_nothing_and_finds_everything() {
        let (_tree, system) = baked();
        let report = run(&system, &Options { seal: false, verify: true, ..Options::default() });
        for (path, text) in BAKED {
            assert_eq!(system.read_text(path).unwrap(), *text, "{path}");
        }
        let mut rules: Vec<_> = report.findings.iter().map(|finding| finding.rule.as_str()).collect();
        rules.dedup();
        assert_eq!(rules, verify::RULES.iter().map(|rule| rule.id).collect::<Vec<_>>(), "{:?}", report.findings);
    }

    #[test]
    fn an_unknown_private_key_is_a_finding_and_is_not_deleted() {
        let (_tree, system) = baked();
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n";
        system.write("/root/deploy", key, FileOptions::mode(0o600)).unwrap();
        let report = run(&system, &Options { seal: true, verify: true, ..Options::default() });
        assert_eq!(report.verdict, Verdict::Failed);
        assert_eq!(report.cause.as_deref(), Some("/root/deploy: a private key is left in the image"));
        assert!(!serde_json::to_string(&report).unwrap().contains("b3BlbnNz"), "the key itself is told");
        assert_eq!(system.read_text("/root/deploy").unwrap(), key);
        let permit = vec!["/root/dep*".to_owned()];
        let report = run(&system, &Options { verify: true, permit: permit.clone(), ..Options::default() });
        assert_eq!((report.verdict, report.permitted), (Verdict::Passed, permit));
    }

    /// A path that a pattern of the checklist names.
    fn planted(pattern: &str) -> String {
        let path = pattern.replacen("~/", "/home/admin/", 1).replace("/**", "/deep/er").replace('*', "x");
        if pattern.ends_with("/**") { path + "/file.1" } else { path }
    }

    #[test]
    fn a_secret_in_any_place_of_the_checklist_is_found_there_and_gone_when_it_is_sealed() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ\n";
        // Gone with the machine, or a folder of indexes alone.
        let not_looked_at = |path: &str| path.starts_with("/run/") || path.starts_with("/var/lib/apt/");
        for item in CHECKLIST.iter().filter(|item| matches!(item.action, Action::Remove | Action::Logs)) {
            for path in item.paths.iter().map(|pattern| planted(pattern)) {
                let tree = tempfile::tempdir().unwrap();
                let system = System::new(tree.path());
                system.write("/etc/passwd", BAKED[0].1, FileOptions::default()).unwrap();
                system.write("/usr/bin/cloud-init", "", FileOptions::default()).unwrap();
                system.write(&path, key, FileOptions::default()).unwrap();
                let look = Options { verify: true, ..Options::default() };
                let found = run(&system, &look).cause.unwrap_or_default();
                assert!(not_looked_at(&path) || found.starts_with(&format!("{path}: ")), "{} {path}: {found}", item.id);
                let sealed = run(&system, &Options { seal: true, ..look });
                assert_eq!(sealed.findings, [], "{} {path}", item.id);
                assert!(!system.read_text(&path).is_ok_and(|text| text.contains("PRIVATE")), "{} {path}", item.id);
            }
        }
    }

    #[test]
    fn a_skipped_entry_is_neither_sealed_nor_a_finding_and_is_told() {
        let (_tree, system, report) = sealed(&["ssh-host-keys", "machine-id", "agent-state"]);
        assert_eq!(report.findings, []);
        assert!(system.exists("/etc/ssh/ssh_host_rsa_key") && system.exists("/var/lib/kiln/once.jsonl"));
        let skipped: Vec<_> = report.skipped.iter().map(|skipped| skipped.id).collect();
        assert_eq!(skipped, ["ssh-host-keys", "machine-id", "agent-state"]);
    }

    #[test]
    fn a_skip_that_is_not_on_the_list_is_refused() {
        assert_eq!(check_skips(&["logs".to_owned()]), Ok(()));
        let wrong = check_skips(&["ssh-hostkeys".to_owned()]).unwrap_err();
        assert_eq!(wrong, "--skip ssh-hostkeys: there is no such entry; did you mean `ssh-host-keys`?");
        assert!(check_skips(&["zebra".to_owned()]).unwrap_err().contains("there are ssh-host-keys, "));
    }

    #[test]
    fn a_folder_where_the_machine_id_belongs_is_replaced() {
        let (_tree, system) = baked();
        system.remove("/etc/machine-id").unwrap();
        system.write("/etc/machine-id/x", "", FileOptions::default()).unwrap();
        let report = run(&system, &Options { seal: true, verify: true, ..Options::default() });
        assert_eq!(report.findings, []);
        assert_eq!(system.read_text("/etc/machine-id").unwrap(), "");
    }

    #[test]
    fn what_cannot_be_sealed_is_a_finding_and_the_rest_is_sealed() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        system.write("/etc", "not a folder", FileOptions::default()).unwrap();
        system.write("/var/log/syslog", "line\n", FileOptions::default()).unwrap();
        let report = run(&system, &Options { seal: true, verify: false, ..Options::default() });
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert_eq!(report.findings[0].rule, "machine-id");
        assert_eq!(system.read_text("/var/log/syslog").unwrap(), "");
    }

    #[test]
    fn scripts_that_the_image_brings_stay_and_those_of_the_bakes_user_data_go() {
        let (_tree, system) = baked();
        let part = |name: &str, kind: &str| {
            format!(
                "--x\nContent-Type: text/{kind}\nContent-Disposition: attachment; filename=\"{name}\"\n\n#!/bin/sh\n"
            )
        };
        let user_data = part("of-bake", "x-shellscript-per-boot") + &part("part-002", "x-shellscript-per-once");
        let folder = "/var/lib/cloud/instances/i-1";
        for (path, text) in [
            (format!("{folder}/user-data.txt.i"), user_data.as_str()),
            (format!("{folder}/vendor-data.txt.i"), part("of-vendor", "x-shellscript-per-instance").as_str()),
            (format!("{folder}/vendor-data2.txt.i"), part("image", "x-shellscript").as_str()),
            ("/var/lib/cloud/scripts/per-boot/of-bake".to_owned(), "#!/bin/sh\n"),
            ("/var/lib/cloud/scripts/per-once/part-002".to_owned(), "#!/bin/sh\n"),
            ("/var/lib/cloud/scripts/per-instance/of-vendor".to_owned(), "#!/bin/sh\n"),
            ("/var/lib/cloud/scripts/vendor/x".to_owned(), "#!/bin/sh\n"),
            ("/var/lib/cloud/scripts/per-boot/image".to_owned(), "#!/bin/sh\n"),
            ("/var/lib/kiln/scripts/per-once/image".to_owned(), "#!/bin/sh\n"),
        ] {
            system.write(path, text, FileOptions::mode(0o755)).unwrap();
        }
        for changed in [true, false] {
            let report = run(&system, &Options { seal: true, verify: true, ..Options::default() });
            assert_eq!(report.verdict, Verdict::Passed, "{report:?}");
            assert_eq!(report.sealed.iter().any(|sealed| sealed.changed > 0), changed);
            assert_eq!(system.list("/var/lib/cloud").unwrap(), ["scripts"]);
            assert_eq!(system.list("/var/lib/cloud/scripts/per-boot").unwrap(), ["image"]);
            assert_eq!(system.list("/var/lib/kiln").unwrap(), ["scripts"]);
            for gone in ["per-once/part-002", "per-instance/of-vendor", "vendor"] {
                assert!(!system.exists(format!("/var/lib/cloud/scripts/{gone}")), "{gone} is still there");
            }
            assert!(system.exists("/var/lib/kiln/scripts/per-once/image"));
        }
    }
}
