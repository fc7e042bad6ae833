//! Looking again: what must not be in an image, found without the checklist.
//!
//! Every rule looks for the thing itself and not for the places that sealing knows. A finding names
//! the file and never tells what is in it.

use std::collections::BTreeSet;

use kiln_schema::paths;
use kiln_schema::seal::Finding;

use super::checklist::CHECKLIST;
use super::edits::usable_password;
use super::pattern::Tree;
use crate::ssh::PublicKey;
use crate::system::{Kind, System};

/// A finding about a file.
pub fn finding(rule: &str, path: &str, what: &str) -> Finding {
    // The system's errors name their path already.
    let message = if what.contains(path) { what.to_owned() } else { format!("{path}: {what}") };
    Finding { rule: rule.to_owned(), path: path.to_owned(), message }
}

/// One rule.
pub struct Rule {
    /// Its name in the report.
    pub id: &'static str,
    /// How it looks.
    look: Look,
}

enum Look {
    /// At the beginning of every file in [`SCANNED`]: what it holds.
    Content(fn(&[u8]) -> Option<&'static str>),
    /// At what it knows of. Skipping the named entry of the checklist permits what it finds.
    Machine(&'static str, fn(&System, &Tree<'_>, &[PublicKey]) -> Places),
}

/// Files, and what is wrong with each.
type Places = Vec<(String, &'static str)>;

/// Every rule.
pub static RULES: &[Rule] = &[
    Rule { id: "private-key", look: Look::Content(private_key) },
    Rule { id: "aws-access-key", look: Look::Content(aws_access_key) },
    Rule { id: "access-token", look: Look::Content(access_token) },
    Rule { id: "ssh-host-keys", look: Look::Machine("ssh-host-keys", host_keys) },
    Rule { id: "authorized-keys", look: Look::Machine("authorized-keys", authorized_keys) },
    Rule { id: "passwords", look: Look::Machine("passwords", passwords) },
    Rule { id: "tool-secrets", look: Look::Machine("tool-secrets", tool_secrets) },
    Rule { id: "machine-id", look: Look::Machine("machine-id", machine_id) },
    Rule { id: "shell-history", look: Look::Machine("shell-history", history) },
    Rule { id: "agent-state", look: Look::Machine("agent-state", agent_state) },
];

/// Where people and programs leave secrets.
const SCANNED: &[&str] = &["/root", "/home", "/etc", "/srv", "/opt", "/var", "/usr/local", "/tmp"];
/// What holds no secrets: public certificates, the package manager's lists, and a key that nobody trusts
/// (see the checklist).
const PUBLIC: &[&str] = &["/etc/ssl/certs", "/var/lib/dpkg", "/var/lib/apt", "/etc/ssl/private/ssl-cert-snakeoil.key"];
/// So much of each file is looked at; keys stand at the beginning of the files that hold them.
const SCAN_BYTES: u64 = 1024 * 1024;
/// So much of a file is looked at where it stands for something else than its content.
const HEAD_BYTES: u64 = 64 * 1024;

/// Looks for what must not be in an image, rule by rule. `permit` are patterns of files which may hold
/// what looks like a secret, and `own` the keys that this instance was started with.
pub fn look(system: &System, is_skipped: &dyn Fn(&str) -> bool, permit: &[String], own: &[PublicKey]) -> Vec<Finding> {
    let tree = Tree::new(system);
    // What a skipped entry would have removed may stay, whatever it holds.
    let skipped = CHECKLIST.iter().filter(|item| is_skipped(item.id)).flat_map(|item| item.paths);
    let patterns = skipped.copied().chain(permit.iter().map(String::as_str));
    let permitted: BTreeSet<String> = patterns.flat_map(|path| tree.find(path)).map(|found| found.path).collect();
    let mut findings = contents(system, &tree, &permitted);
    for rule in RULES {
        if let Look::Machine(entry, look) = rule.look
            && !is_skipped(entry)
        {
            findings.extend(look(system, &tree, own).iter().map(|(path, what)| finding(rule.id, path, what)));
        }
    }
    let place = |id: &String| RULES.iter().position(|rule| rule.id == id);
    findings.sort_by(|a, b| place(&a.rule).cmp(&place(&b.rule)).then_with(|| a.path.cmp(&b.path)));
    findings
}

fn contents(system: &System, tree: &Tree<'_>, permitted: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_permitted = |path: &str| {
        let ancestors = std::path::Path::new(path).ancestors().filter_map(std::path::Path::to_str);
        ancestors.into_iter().any(|path| permitted.contains(path))
    };
    let mut scan = |path: String, kind: Kind| {
        if kind != Kind::File || PUBLIC.contains(&path.as_str()) {
            return;
        }
        // A file that went away meanwhile, or that even root cannot read, is not one that an image keeps.
        let Ok(bytes) = system.head(&path, SCAN_BYTES) else {
            return;
        };
        for rule in RULES {
            if let Look::Content(look) = rule.look
                && let Some(what) = look(&bytes)
                && !is_permitted(&path)
                && !is_shipped(system, &path)
            {
                findings.push(finding(rule.id, &path, what));
            }
        }
    };
    for folder in SCANNED.iter().filter(|folder| !tree.find(folder).is_empty()) {
        tree.below_but(folder, PUBLIC, &mut |found| scan(found.path, found.kind));
    }
    findings
}

/// Whether a distribution's package brought the file: the key in a test fixture of a library is known
/// to the whole world. Packages bring files to /etc as well, which people fill in, and to the other places none.
fn is_shipped(system: &System, path: &str) -> bool {
    const LISTS: &str = "/var/lib/dpkg/info";
    if !path.starts_with("/var/") && !path.starts_with("/opt/") {
        return false;
    }
    let lists = system.list(LISTS).unwrap_or_default();
    lists
        .iter()
        .filter(|name| name.ends_with(".list"))
        .any(|name| system.read_text(format!("{LISTS}/{name}")).is_ok_and(|text| text.lines().any(|line| line == path)))
}

/// A PEM block with a body, or PuTTY's form. Source code and manuals name the markers without a body.
fn private_key(bytes: &[u8]) -> Option<&'static str> {
    const WHAT: Option<&str> = Some("a private key is left in the image");
    if bytes.starts_with(b"PuTTY-User-Key-File-") {
        return WHAT;
    }
    for marker in [b"PRIVATE KEY-----".as_slice(), b"PRIVATE KEY BLOCK-----"] {
        for at in places(bytes, marker) {
            let line = bytes[..at].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            if places(line, b"-----BEGIN ").next().is_some() && has_body(&bytes[at + marker.len()..]) {
                return WHAT;
            }
        }
    }
    None
}

/// Whether base64 follows, over line ends as text or as the `\n` of JSON, or the header of an encrypted key.
fn has_body(after: &[u8]) -> bool {
    const ENOUGH: usize = 32;
    let mut rest = after;
    loop {
        rest = match rest {
            [b'\\', b'n' | b'r', rest @ ..] => rest,
            [byte, rest @ ..] if byte.is_ascii_whitespace() => rest,
            _ => break,
        };
    }
    let header = [b"Proc-Type:".as_slice(), b"Version:", b"Comment:", b"Hash:"];
    let base64 = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    header.iter().any(|header| rest.starts_with(header)) || rest.iter().take_while(base64).count() >= ENOUGH
}

/// The id of an AWS access key: `AKIA` or `ASIA` and 16 capitals or digits. Its secret is never far.
fn aws_access_key(bytes: &[u8]) -> Option<&'static str> {
    let is_id = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    let joins = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let starts = [b"AKIA".as_slice(), b"ASIA"];
    let found = starts.iter().flat_map(|start| places(bytes, start)).any(|at| {
        let Some(id) = bytes.get(at..at + 20) else {
            return false;
        };
        let alone =
            !at.checked_sub(1).is_some_and(|before| joins(&bytes[before])) && !bytes.get(at + 20).is_some_and(joins);
        // AWS's own manuals end theirs so.
        alone && id.iter().all(is_id) && !id.ends_with(b"EXAMPLE")
    });
    found.then_some("the id of an AWS access key is left in the image")
}

/// How access tokens of services begin that mark theirs, and what a token has at least behind that.
const TOKENS: &[(&str, usize)] = &[
    ("ghp_", 36),
    ("gho_", 36),
    ("ghu_", 36),
    ("ghs_", 36),
    ("ghr_", 36),
    ("github_pat_", 60),
    ("glpat-", 20),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("hvs.", 24),
    ("npm_", 36),
    ("pypi-AgE", 50),
    ("sk_live_", 24),
];

/// A token that says by its beginning which service it opens.
fn access_token(bytes: &[u8]) -> Option<&'static str> {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let found = TOKENS.iter().any(|(start, length)| {
        places(bytes, start.as_bytes()).any(|at| {
            let alone = at.checked_sub(1).is_none_or(|before| !inner(&bytes[before]));
            alone && bytes[at + start.len()..].iter().take_while(|byte| inner(byte)).count() >= *length
        })
    });
    found.then_some("an access token is left in the image")
}

/// Where a needle stands, from the front.
fn places<'a>(hay: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = hay.get(from..)?;
        let first = *needle.first()?;
        let mut at = 0;
        loop {
            at += rest.get(at..)?.iter().position(|byte| *byte == first)?;
            if rest[at..].starts_with(needle) {
                from += at + 1;
                return Some(from - 1);
            }
            at += 1;
        }
    })
}

fn host_keys(system: &System, _: &Tree<'_>, _: &[PublicKey]) -> Places {
    let inside = system.children("/etc/ssh").into_iter().map(|found| found.path);
    let keys = inside.filter(|path| path.contains("ssh_host_") && path.contains("_key"));
    keys.map(|path| (path, "an SSH host key is left in the image")).collect()
}

/// Keys for logging in, in any file of that name, also one put aside as `authorized_keys.old`, and wherever
/// else sshd is told to look.
fn authorized_keys(system: &System, tree: &Tree<'_>, own: &[PublicKey]) -> Places {
    let folders = tree.homes.iter().map(|home| format!("{home}/.ssh"));
    let files = folders.flat_map(|folder| system.children(&folder)).filter(|found| found.kind == Kind::File);
    let named = files.map(|found| found.path).filter(|path| path.contains("/authorized_keys"));
    let passwd = system.read_text("/etc/passwd").unwrap_or_default();
    let accounts = passwd.lines().filter_map(|line| system.account(line.split(':').next()?));
    let told = accounts.map(|account| crate::authorized_keys::file_of(system, &account));
    let told = told.filter(|path| system.look(path).is_some_and(|found| found.kind == Kind::File));
    let files: BTreeSet<String> = named.chain(told).collect();
    let open = files.into_iter().filter(|path| lets_in(system, path, own));
    open.map(|path| (path, "it lets somebody log in to every instance")).collect()
}

/// Whether a file has a line that is none of these keys.
fn lets_in(system: &System, path: &str, own: &[PublicKey]) -> bool {
    let is_own =
        |line: &str| PublicKey::parse(line).is_ok_and(|key| own.iter().any(|own| own.material == key.material));
    // One that cannot be read is not known to be empty.
    system.head(path, HEAD_BYTES).map_or(true, |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#') && !is_own(line))
    })
}

fn passwords(system: &System, _: &Tree<'_>, _: &[PublicKey]) -> Places {
    let open =
        |path: &&str| system.read_text(path).is_ok_and(|text| text.lines().any(|l| usable_password(l).is_some()));
    let files = ["/etc/passwd", "/etc/shadow"].into_iter().filter(open);
    files.map(|path| (path.to_owned(), "an account in it has a password that every instance would share")).collect()
}

/// By their names, since what is in them may look like nothing: the list is the one that sealing works off.
fn tool_secrets(_: &System, tree: &Tree<'_>, _: &[PublicKey]) -> Places {
    let paths = CHECKLIST.iter().filter(|item| item.id == "tool-secrets").flat_map(|item| item.paths);
    let found = paths.flat_map(|path| tree.find(path));
    found.map(|found| (found.path, "credentials are left in the image")).collect()
}

/// An empty file is what systemd fills at the first boot. `uninitialized` makes it ask questions on the
/// console of an image without a locale, and without the file a read-only root has nowhere to put one.
fn machine_id(system: &System, _: &Tree<'_>, _: &[PublicKey]) -> Places {
    const PATHS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    let filled = |path: &&&str| system.look(path).is_some_and(|found| found.kind == Kind::File && found.size > 0);
    PATHS.iter().filter(filled).map(|path| ((*path).to_owned(), "it is not empty: instances would share it")).collect()
}

fn history(system: &System, tree: &Tree<'_>, _: &[PublicKey]) -> Places {
    let files = tree.homes.iter().flat_map(|home| system.children(home));
    let files = files.filter(|found| found.kind == Kind::File && found.size > 0 && found.path.ends_with("_history"));
    files.map(|found| (found.path, "commands that were typed are left in the image")).collect()
}

fn agent_state(system: &System, _: &Tree<'_>, _: &[PublicKey]) -> Places {
    const LEFT: &str = "the agent's state is left in the image: handlers that ran would not run again";
    // Scripts in the folders are what the image brings; those of user-data are in the instance's own.
    let left = system.children(paths::STATE).into_iter().filter(|found| !paths::SCRIPTS.contains(&found.path.as_str()));
    left.map(|found| (found.path, LEFT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::FileOptions;

    const BODY: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ";

    #[test]
    fn keys_are_found_in_every_form_and_talk_of_keys_is_not() {
        let json = format!("{{\"private_key\": \"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n\"}}");
        for (text, found) in [
            (format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}\n"), true),
            (format!("key: |\r\n  -----BEGIN RSA PRIVATE KEY-----\r\n  {BODY}\r\n"), true),
            (format!("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{BODY}\n"), true),
            ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n".to_owned(), true),
            (json, true),
            (format!("PuTTY-User-Key-File-3: ssh-ed25519\n{BODY}"), true),
            (format!("-----BEGIN PUBLIC KEY-----\n{BODY}\n"), false),
            (format!("-----BEGIN CERTIFICATE-----\n{BODY}\n"), false),
            ("the file begins with -----BEGIN RSA PRIVATE KEY----- and so on".to_owned(), false),
            ("if text.include? '-----BEGIN PRIVATE KEY-----'\n  raise\nend\n".to_owned(), false),
            (format!("PRIVATE KEY-----\n{BODY}\n"), false),
            (String::new(), false),
        ] {
            assert_eq!(private_key(text.as_bytes()).is_some(), found, "{text}");
        }
    }

    #[test]
    fn aws_access_keys_are_found_and_what_looks_like_them_is_not() {
        for (text, found) in [
            ("aws_access_key_id = AKIAABCDEFGHIJKLMNOP\n", true),
            ("ASIA0123456789ABCDEF", true),
            ("AKIAAKIAABCDEFGHIJKLMNOP AKIAABCDEFGHIJKLMNOP", true),
            ("AKIAIOSFODNN7EXAMPLE", false),
            ("AKIAABCDEFGHIJKLMNOPQRST", false),
            ("xAKIAABCDEFGHIJKLMNOP", false),
            ("AKIAabcdefghijklmnop", false),
            ("AKIA", false),
        ] {
            assert_eq!(aws_access_key(text.as_bytes()).is_some(), found, "{text}");
        }
    }

    #[test]
    fn access_tokens_are_found_by_how_they_begin() {
        for (text, found) in [
            (format!("token: ghp_{}", "a1B2".repeat(9)), true),
            (format!("GITLAB=glpat-{}\n", "x".repeat(20)), true),
            (format!("https://me:github_pat_{}@x", "a1_B".repeat(15)), true),
            ("ghp_short".to_owned(), false),
            (format!("my_ghp_{}", "a1B2".repeat(9)), false),
            ("a token begins with ghp_ or glpat-".to_owned(), false),
        ] {
            assert_eq!(access_token(text.as_bytes()).is_some(), found, "{text}");
        }
    }

    fn found_in(files: &[(&str, &str)]) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        for (path, text) in files {
            system.write(path, text, FileOptions::default()).unwrap();
        }
        system.link("/root/link", "/outside/key").unwrap();
        look(&system, &|_| false, &[], &[]).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn what_a_package_brought_and_public_places_are_no_findings() {
        let key = format!("-----BEGIN PRIVATE KEY-----\n{BODY}\n");
        let files = [
            ("/var/lib/gems/spec/key.pem", key.as_str()),
            ("/var/lib/dpkg/info/ruby-x.list", "/.\n/var/lib/gems/spec/key.pem\n/etc/x/key.pem\n"),
            ("/etc/ssl/certs/all.pem", &key),
            ("/etc/ssl/private/ssl-cert-snakeoil.key", &key),
            ("/usr/share/doc/key.pem", &key),
            ("/outside/key", &key),
        ];
        assert_eq!(found_in(&files), Vec::<String>::new());
        let more = [&files[..], &[("/etc/x/key.pem", key.as_str()), ("/opt/app/key.pem", &key)]].concat();
        let expected = [
            "/etc/x/key.pem: a private key is left in the image",
            "/opt/app/key.pem: a private key is left in the image",
        ];
        assert_eq!(found_in(&more), expected);
    }

    #[test]
    fn keys_are_looked_for_where_sshd_does() {
        let files = [
            ("/etc/passwd", "admin:x:1000:1000::/home/admin:/bin/sh\n"),
            ("/etc/ssh/sshd_config", "AuthorizedKeysFile /srv/keys/%u\n"),
            ("/srv/keys/admin", "ssh-ed25519 AAAA baker\n"),
            ("/srv/keys/nobody", "ssh-ed25519 AAAA baker\n"),
        ];
        assert_eq!(found_in(&files), ["/srv/keys/admin: it lets somebody log in to every instance"]);
    }

    #[test]
    fn empty_files_and_comments_are_no_findings() {
        let files =
            [("/etc/machine-id", ""), ("/root/.bash_history", ""), ("/root/.ssh/authorized_keys", "# nobody\n\n")];
        assert_eq!(found_in(&files), Vec::<String>::new());
        let aside = found_in(&[
            ("/root/.ssh/authorized_keys.old", "ssh-rsa AAAA me\n"),
            ("/etc/machine-id", "uninitialized\n"),
        ]);
        assert_eq!(aside.len(), 2, "{aside:?}");
    }
}
