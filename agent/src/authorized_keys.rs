//! Who may log in: authorized_keys files, kept as their owners left them but for the keys that are added.

use std::path::Path;

use kiln_schema::status::Reason;

use crate::handlers::Failure;
use crate::ssh::{self, PublicKey};
use crate::system::{Account, FileOptions, System};

/// Where sshd looks if it is not told otherwise, below the home folder.
const DEFAULT: &str = ".ssh/authorized_keys";
/// What a line that refuses a login as root has in it.
const REFUSAL: &str = "Please login as the user";

/// The keys among lines, and what is wrong with the others. `label` names a line by its index.
pub fn parse<S: AsRef<str>>(lines: &[S], label: impl Fn(usize) -> String) -> (Vec<PublicKey>, Vec<Failure>) {
    let (mut keys, mut problems): (Vec<PublicKey>, Vec<Failure>) = (Vec::new(), Vec::new());
    for (index, text) in lines.iter().enumerate() {
        // One item may be a block of lines.
        let lines = text.as_ref().lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match PublicKey::parse(line) {
                Ok(key) if keys.iter().any(|known| known.material == key.material) => {}
                Ok(key) => keys.push(key),
                Err(why) => {
                    let message = format!("{} is left out: {why}", label(index));
                    problems.push(Failure::new(Reason::Config, message));
                }
            }
        }
        if text.as_ref().trim().is_empty() {
            problems.push(Failure::new(Reason::Config, format!("{} is left out: it is empty", label(index))));
        }
    }
    (keys, problems)
}

/// The options that refuse a login and tell the name to use instead.
pub fn refusal(user: &str, refused: &str, template: Option<&str>) -> String {
    let standard = format!(
        r#"no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo '{REFUSAL} \"$USER\" rather than the user \"$DISABLE_USER\".';echo;sleep 10;exit 142""#
    );
    let template = template.map(str::trim).filter(|template| !template.is_empty()).unwrap_or(&standard);
    template.replace("$USER", user).replace("$DISABLE_USER", refused)
}

/// The text of a file with these keys in it; the other lines stay as they are.
///
/// A key that is there keeps its line, with the options that its owner gave it. With `restriction`
/// every key gets exactly these options, and one that had been refused before is free without it.
pub fn merge(text: &str, keys: &[PublicKey], restriction: Option<&str>) -> String {
    let wanted = |key: &PublicKey| {
        let options = restriction.map_or_else(|| key.options.clone(), str::to_owned);
        PublicKey { options, ..key.clone() }.line()
    };
    let mut written = vec![false; keys.len()];
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let present = PublicKey::parse(line).ok();
        let index = present.as_ref().and_then(|p| keys.iter().position(|key| key.material == p.material));
        let (Some(present), Some(index)) = (present, index) else {
            lines.push(line.to_owned());
            continue;
        };
        let first = !std::mem::replace(&mut written[index], true);
        if restriction.is_none() && !present.options.contains(REFUSAL) {
            lines.push(line.to_owned());
        } else if first {
            lines.push(wanted(&keys[index]));
        }
    }
    lines.extend(keys.iter().zip(written).filter(|(_, written)| !written).map(|(key, _)| wanted(key)));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The file in which sshd looks for the keys of an account.
///
/// `AuthorizedKeysFile` is followed where its first file lies in the home folder or is the account's
/// own (`/etc/ssh/keys/%u`); a file that all accounts share is not: a key in it would open them all.
pub fn file_of(system: &System, account: &Account) -> String {
    let home = account.home.trim_end_matches('/');
    let setting = ssh::sshd_setting(system, "AuthorizedKeysFile").into_iter().next();
    let pattern = setting.as_deref().map(|value| value.trim_matches('"')).unwrap_or(DEFAULT);
    let own = pattern.contains("%u") || pattern.contains("%h") || !pattern.starts_with('/');
    let path = pattern.replace("%h", home).replace("%u", &account.name);
    let path = if path.starts_with('/') { path } else { format!("{home}/{path}") };
    let simple = own && !path.contains('%') && !path.split('/').any(|part| part == "..") && pattern != "none";
    if simple { path } else { format!("{home}/{DEFAULT}") }
}

/// Adds keys to an account's file and gives the file's path.
///
/// # Errors
/// That the account has no home, that a link in it leads elsewhere, or the system's error.
pub fn install(
    system: &System,
    account: &Account,
    keys: &[PublicKey],
    restriction: Option<&str>,
) -> Result<String, Failure> {
    let (name, home) = (&account.name, account.home.trim_end_matches('/'));
    if home.is_empty() || !system.metadata(home).is_ok_and(|metadata| metadata.is_dir()) {
        let message = format!("user `{name}` has no home folder ({}), so SSH keys have no place", account.home);
        return Err(Failure::new(Reason::Config, message));
    }
    let path = file_of(system, account);
    let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let owner = Some((account.uid, account.gid));
    let at_home = path.strip_prefix(home).is_some_and(|rest| rest.starts_with('/'));
    if at_home {
        refuse_links(system, home, &path)?;
        system.make_dir(folder, 0o700, owner)?;
        if folder != home {
            // What others can write, sshd does not trust.
            system.set_owner(folder, account.uid, account.gid)?;
            system.set_mode(folder, 0o700)?;
        }
    }
    let old = match system.read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let options = FileOptions { owner, ..FileOptions::mode(0o600).durable() };
    system.write(&path, merge(&old, keys, restriction), options)?;
    Ok(path)
}

/// A user could lead root's write anywhere by a link in his home.
fn refuse_links(system: &System, home: &str, path: &str) -> Result<(), Failure> {
    let mut place = home.to_owned();
    for part in path[home.len()..].split('/').filter(|part| !part.is_empty()) {
        place = format!("{place}/{part}");
        let metadata = std::fs::symlink_metadata(system.path(Path::new(&place)));
        if metadata.is_ok_and(|metadata| metadata.is_symlink()) {
            let message =
                format!("{place} is a link, which is not followed for SSH keys; put a real file or folder there");
            return Err(Failure::new(Reason::Refused, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::{ED25519, OTHER};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn keys(lines: &[&str]) -> Vec<PublicKey> {
        lines.iter().map(|line| PublicKey::parse(line).unwrap()).collect()
    }

    #[test]
    fn lines_of_others_stay_and_a_key_is_there_once() {
        let old = format!("# mine\n\nfrom=\"10.0.0.1\" {ED25519} old\nbroken line\n");
        let wanted = keys(&[&format!("{ED25519} new"), &format!("no-pty {OTHER} x")]);
        let merged = merge(&old, &wanted, None);
        assert_eq!(merged, format!("{old}no-pty {OTHER} x\n"));
        assert_eq!(merge(&merged, &wanted, None), merged, "a second run changes nothing");
        assert_eq!(merge("a line without its newline", &[], None), "a line without its newline\n");
    }

    #[test]
    fn a_refusal_replaces_what_the_key_was_allowed_and_can_be_taken_back() {
        let refusal = refusal("admin", "root", None);
        let told = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=\"echo 'Please login as the user \\\"admin\\\" rather than the user \\\"root\\\".';echo;sleep 10;exit 142\"";
        assert_eq!(refusal, told);
        let old = format!("{ED25519} baked\nno-pty {ED25519} twice\n{OTHER} of another\n");
        let refused = merge(&old, &keys(&[&format!("{ED25519} new")]), Some(&refusal));
        assert_eq!(refused, format!("{told} {ED25519} new\n{OTHER} of another\n"));
        let freed = merge(&refused, &keys(&[&format!("{ED25519} new")]), None);
        assert_eq!(freed, format!("{ED25519} new\n{OTHER} of another\n"));
    }

    #[test]
    fn a_refusal_of_ones_own_is_taken_and_an_empty_one_never_opens_root() {
        let own = "command=\"echo use $USER, not $DISABLE_USER\"";
        assert_eq!(refusal("bob", "root", Some(own)), "command=\"echo use bob, not root\"");
        assert!(refusal("bob", "root", Some(" ")).contains("exit 142"));
    }

    #[test]
    fn bad_lines_are_told_by_their_place_and_good_ones_count() {
        let lines = [ED25519, "-----BEGIN RSA PRIVATE KEY-----", "", &format!("# two\n{OTHER}\n{ED25519}\n")];
        let (keys, problems) = parse(&lines, |index| format!("ssh_authorized_keys[{index}]"));
        assert_eq!(keys.len(), 2);
        let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
        let private = "ssh_authorized_keys[1] is left out: it is a private key or a certificate file; give the line of the .pub file";
        assert_eq!(messages, [private, "ssh_authorized_keys[2] is left out: it is empty"]);
    }

    fn bob(system: &System) -> Account {
        let (uid, gid) = if nix::unistd::geteuid().is_root() {
            (1234, 1234)
        } else {
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        };
        system.make_dir("/home/bob", 0o755, Some((uid, gid))).unwrap();
        Account { name: "bob".into(), uid, gid, home: "/home/bob".into(), shell: "/bin/sh".into() }
    }

    #[test]
    fn folder_and_file_are_the_users_alone() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let bob = bob(&system);
        system.make_dir("/home/bob/.ssh", 0o777, None).unwrap();
        let path = install(&system, &bob, &keys(&[ED25519]), None).unwrap();
        assert_eq!(path, "/home/bob/.ssh/authorized_keys");
        for (path, mode) in [("/home/bob/.ssh", 0o700), ("/home/bob/.ssh/authorized_keys", 0o600)] {
            let metadata = system.metadata(path).unwrap();
            assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (mode, bob.uid), "{path}");
        }
    }

    #[test]
    fn a_link_in_the_home_is_not_followed() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let bob = bob(&system);
        system.make_dir("/root/.ssh", 0o700, None).unwrap();
        system.link("/home/bob/.ssh", "/root/.ssh").unwrap();
        let failure = install(&system, &bob, &keys(&[ED25519]), None).unwrap_err();
        assert!(failure.message.starts_with("/home/bob/.ssh is a link"), "{}", failure.message);
        system.remove("/home/bob/.ssh").unwrap();
        system.make_dir("/home/bob/.ssh", 0o700, None).unwrap();
        system.link("/home/bob/.ssh/authorized_keys", "/root/.ssh/authorized_keys").unwrap();
        assert_eq!(install(&system, &bob, &keys(&[ED25519]), None).unwrap_err().reason, Reason::Refused);
        assert!(system.list("/root/.ssh").unwrap().is_empty());
    }

    #[test]
    fn sshds_setting_is_followed_only_to_a_file_of_the_accounts_own() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let bob = bob(&system);
        for (setting, path) in [
            ("", "/home/bob/.ssh/authorized_keys"),
            ("AuthorizedKeysFile .ssh/keys .ssh/other", "/home/bob/.ssh/keys"),
            ("AuthorizedKeysFile %h/.keys/%u", "/home/bob/.keys/bob"),
            ("AuthorizedKeysFile /etc/ssh/keys/%u", "/etc/ssh/keys/bob"),
            ("AuthorizedKeysFile /etc/ssh/all", "/home/bob/.ssh/authorized_keys"),
            ("AuthorizedKeysFile %h/%f", "/home/bob/.ssh/authorized_keys"),
            ("AuthorizedKeysFile %h/../root/keys", "/home/bob/.ssh/authorized_keys"),
            ("AuthorizedKeysFile none", "/home/bob/.ssh/authorized_keys"),
        ] {
            system.write(ssh::SSHD_CONFIG, setting, FileOptions::default()).unwrap();
            assert_eq!(file_of(&system, &bob), path, "{setting}");
        }
    }

    #[test]
    fn keys_without_a_home_are_refused() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        let account = Account { home: "/nonexistent".into(), ..bob(&system) };
        let failure = install(&system, &account, &keys(&[ED25519]), None).unwrap_err();
        assert!(failure.message.contains("has no home folder (/nonexistent)"), "{}", failure.message);
    }
}
