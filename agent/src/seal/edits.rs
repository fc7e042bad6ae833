//! Entries of the checklist that take something out of a file which stays.

use crate::system::System;

/// /etc/hosts without the machine's own name.
pub fn without_own_name(system: &System, text: &str) -> Option<String> {
    let name = system.read_text("/etc/hostname").unwrap_or_default();
    without_name(text, name.trim().split('.').next().unwrap_or_default())
}

/// The text of /etc/hosts without a machine's name, short and full; none if it is not in it.
fn without_name(text: &str, name: &str) -> Option<String> {
    if name.is_empty() || name == "localhost" {
        return None;
    }
    let is_own = |host: &str| host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut changed = String::new();
    for line in text.lines() {
        let entry = line.split('#').next().unwrap_or_default();
        let mut fields = entry.split_whitespace();
        let (address, hosts) = (fields.next(), fields.collect::<Vec<_>>());
        let others: Vec<&str> = hosts.iter().copied().filter(|host| !is_own(host)).collect();
        match address {
            Some(address) if others.len() < hosts.len() => {
                if !others.is_empty() {
                    changed.push_str(&format!("{address} {}\n", others.join(" ")));
                }
            }
            _ => changed.push_str(&format!("{line}\n")),
        }
    }
    (changed.trim_end() != text.trim_end()).then_some(changed)
}

/// /etc/shadow, or an old /etc/passwd, without a password that anybody could use. The account stays as it
/// is for a login by key: `!` in place of `*` would have some sshds refuse that too.
pub fn without_passwords(_: &System, text: &str) -> Option<String> {
    let line = |line: &str| match usable_password(line) {
        Some(password) => {
            let (name, rest) = line.split_at(line.find(':').map_or(0, |colon| colon + 1));
            format!("{name}*{}\n", &rest[password.len()..])
        }
        None => format!("{line}\n"),
    };
    changed(text, text.lines().map(line).collect())
}

/// The second field of a line, where it lets somebody log in: a hash, or nothing at all.
pub fn usable_password(line: &str) -> Option<&str> {
    let mut fields = line.split(':');
    let (name, password) = (fields.next()?, fields.next()?);
    let locked = password.starts_with(['!', '*']) || password == "x";
    // `+` is for names of another directory and no account.
    (!locked && !name.is_empty() && !name.starts_with(['#', '+', '-'])).then_some(password)
}

/// A file of a Red Hat network interface without the card that it is bound to.
pub fn without_cards(_: &System, text: &str) -> Option<String> {
    let bound = |line: &&str| ["HWADDR=", "UUID="].iter().any(|key| line.trim_start().starts_with(key));
    changed(text, text.lines().filter(|line| !bound(line)).map(|line| format!("{line}\n")).collect())
}

fn changed(text: &str, new: String) -> Option<String> {
    (new.trim_end() != text.trim_end()).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_machine_leave_hosts_and_others_stay() {
        for (text, name, expected) in [
            ("127.0.0.1 localhost web\n", "web", Some("127.0.0.1 localhost\n")),
            ("127.0.1.1 web.a.org web # mine\n::1 localhost\n", "web", Some("::1 localhost\n")),
            ("10.0.0.1 web2 webby\n", "web", None),
            ("# web\n", "web", None),
            ("127.0.0.1 localhost\n", "localhost", None),
            ("127.0.0.1 localhost\n", "", None),
        ] {
            assert_eq!(without_name(text, name).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn passwords_go_and_accounts_stay() {
        let system = System::new("/nowhere");
        for (text, expected) in [
            ("root:$6$salt$hash:20000:0:99999:7:::\n", Some("root:*:20000:0:99999:7:::\n")),
            (
                "root:!*:1::::::\nweb:!$6$x:1::::::\napp::1::::::\n",
                Some("root:!*:1::::::\nweb:!$6$x:1::::::\napp:*:1::::::\n"),
            ),
            ("root:x:0:0:root:/root:/bin/sh\n+::::::\n#a:b\n\n", None),
            ("old:aXb1:1000:1000::/home/old:/bin/sh", Some("old:*:1000:1000::/home/old:/bin/sh\n")),
        ] {
            assert_eq!(without_passwords(&system, text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_interface_keeps_its_settings_and_loses_its_card() {
        let system = System::new("/nowhere");
        let text = "DEVICE=eth0\nHWADDR=0a:1b:2c:3d:4e:5f\nBOOTPROTO=dhcp\n UUID=1-2\n";
        assert_eq!(without_cards(&system, text).as_deref(), Some("DEVICE=eth0\nBOOTPROTO=dhcp\n"));
        assert_eq!(without_cards(&system, "DEVICE=eth0\n"), None);
    }
}
