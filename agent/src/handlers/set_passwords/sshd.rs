//! Whether sshd takes passwords.

use kiln_schema::status::Reason;

use crate::context::Context;
use crate::handlers::Failure;
use crate::handlers::edit::text_or_empty;
use crate::ssh::{self, SSHD_CONFIG};
use crate::system::FileOptions;

/// The file of cloud-init, which images and their owners look for.
const DROPIN: &str = "/etc/ssh/sshd_config.d/50-cloud-init.conf";
const KEYWORD: &str = "PasswordAuthentication";

/// Has sshd take passwords or not, and gives the file that says so.
///
/// # Errors
/// When it cannot be written, when another line of sshd's configuration comes first, or when sshd does
/// not take it up.
pub fn set(allowed: bool, context: &Context) -> Result<&'static str, Failure> {
    let system = &context.system;
    let word = if allowed { "yes" } else { "no" };
    // The administrator's file replaces the vendor's as a whole, so it begins as that.
    let (file, old) = match ssh::reads_dropins(system) {
        true => (DROPIN, text_or_empty(system, DROPIN)?),
        false => (SSHD_CONFIG, ssh::sshd_config(system)),
    };
    let new = with_line(&old, word);
    let changed = new != old;
    if changed {
        let mode = if file == DROPIN { FileOptions::mode(0o600) } else { FileOptions::default() };
        system.write(file, new, mode.durable())?;
    }
    let effective = ssh::sshd_setting(system, KEYWORD);
    if effective.first().is_none_or(|first| !first.eq_ignore_ascii_case(word)) {
        let effective = effective.join(" ");
        let message = format!(
            "{file} says `{KEYWORD} {word}`, but sshd reads `{KEYWORD} {effective}` before it; \
             remove that line from {SSHD_CONFIG} or the files that it includes"
        );
        return Err(Failure::new(Reason::Config, message));
    }
    if changed {
        ssh::refresh_sshd(context, "sshd has not taken up ssh_pwauth yet")?;
    }
    Ok(file)
}

/// The text with one line of the keyword before any `Match`; what is within `Match` stays.
fn with_line(old: &str, word: &str) -> String {
    let line = format!("{KEYWORD} {word}");
    let keyword = |line: &str| -> String {
        let line = line.trim_start();
        line.split([' ', '\t', '=']).next().unwrap_or_default().to_lowercase()
    };
    let (mut done, mut within_match) = (false, false);
    let mut lines: Vec<&str> = Vec::new();
    for old_line in old.lines() {
        match keyword(old_line).as_str() {
            "match" => {
                if !done && !within_match {
                    lines.push(&line);
                    done = true;
                }
                within_match = true;
                lines.push(old_line);
            }
            "passwordauthentication" if !within_match => {
                if !done {
                    lines.push(&line);
                }
                done = true;
            }
            _ => lines.push(old_line),
        }
    }
    if !done {
        lines.push(&line);
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const INCLUDING: &str = "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n";

    fn context(tree: &std::path::Path, files: &[(&str, &str)]) -> Context {
        let context = Context::for_test(tree, "{}");
        for (file, text) in files {
            context.system.write(file, text, FileOptions::default()).unwrap();
        }
        context
    }

    #[test]
    fn one_line_of_the_keyword_stays_and_it_comes_before_any_match() {
        for (old, new) in [
            ("", "PasswordAuthentication no\n"),
            (
                "Port 22\n#PasswordAuthentication yes\n",
                "Port 22\n#PasswordAuthentication yes\nPasswordAuthentication no\n",
            ),
            (
                "passwordauthentication=yes\nPort 22\nPasswordAuthentication yes\n",
                "PasswordAuthentication no\nPort 22\n",
            ),
            (
                "Port 22\nMatch User x\n  PasswordAuthentication yes\n",
                "Port 22\nPasswordAuthentication no\nMatch User x\n  PasswordAuthentication yes\n",
            ),
            ("PasswordAuthentication no\n", "PasswordAuthentication no\n"),
        ] {
            assert_eq!(with_line(old, "no"), new, "{old}");
            assert_eq!(with_line(new, "no"), new, "{old}");
        }
    }

    #[test]
    fn the_drop_in_is_cloud_inits_where_sshd_reads_it() {
        let tree = tempfile::tempdir().unwrap();
        let context = context(tree.path(), &[(SSHD_CONFIG, INCLUDING)]);
        for (allowed, text) in [(true, "PasswordAuthentication yes\n"), (false, "PasswordAuthentication no\n")] {
            assert_eq!(set(allowed, &context), Ok(DROPIN));
            assert_eq!(context.system.read_text(DROPIN).unwrap(), text);
        }
        assert_eq!(context.system.metadata(DROPIN).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(context.system.read_text(SSHD_CONFIG).unwrap(), INCLUDING);
    }

    #[test]
    fn without_drop_ins_the_main_file_is_edited_and_keeps_its_mode() {
        let tree = tempfile::tempdir().unwrap();
        let context = context(tree.path(), &[]);
        context.system.write(SSHD_CONFIG, "Port 22\n", FileOptions::mode(0o640)).unwrap();
        assert_eq!(set(true, &context), Ok(SSHD_CONFIG));
        assert_eq!(context.system.read_text(SSHD_CONFIG).unwrap(), "Port 22\nPasswordAuthentication yes\n");
        assert_eq!(context.system.metadata(SSHD_CONFIG).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(!context.system.exists(DROPIN));
    }

    #[test]
    fn a_line_that_sshd_reads_first_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let first = "/etc/ssh/sshd_config.d/10-vendor.conf";
        let context = context(tree.path(), &[(SSHD_CONFIG, INCLUDING), (first, "PasswordAuthentication yes\n")]);
        let failure = set(false, &context).unwrap_err();
        assert!(
            failure.message.contains("but sshd reads `PasswordAuthentication yes` before it"),
            "{}",
            failure.message
        );
        assert_eq!(set(true, &context), Ok(DROPIN));
    }

    #[test]
    fn a_vendors_configuration_stays_the_one_that_sshd_reads() {
        const VENDOR: &str = "/usr/etc/ssh/sshd_config";
        let including = "Include /etc/ssh/sshd_config.d/*.conf\nInclude /usr/etc/ssh/sshd_config.d/*.conf\nPort 22\n";
        let tree = tempfile::tempdir().unwrap();
        let vendors = "/usr/etc/ssh/sshd_config.d/10.conf";
        let context = context(tree.path(), &[(VENDOR, including), (vendors, "PasswordAuthentication yes\n")]);
        assert_eq!(ssh::sshd_setting(&context.system, KEYWORD), ["yes"]);
        assert_eq!(set(false, &context), Ok(DROPIN));
        assert_eq!(context.system.read_text(DROPIN).unwrap(), "PasswordAuthentication no\n");
        // With a file of that name sshd would read nothing of the vendor's.
        assert!(!context.system.exists(SSHD_CONFIG));
        assert_eq!(context.system.read_text(VENDOR).unwrap(), including);
        // Where it includes nothing, the administrator's file is the vendor's with the line.
        context.system.remove(DROPIN).unwrap();
        context.system.write(VENDOR, "Port 22\n", FileOptions::default()).unwrap();
        assert_eq!(set(false, &context), Ok(SSHD_CONFIG));
        let text = "Port 22\nPasswordAuthentication no\n";
        assert_eq!(context.system.read_text(SSHD_CONFIG).unwrap(), text);
        assert_eq!(context.system.read_text(VENDOR).unwrap(), "Port 22\n");
    }
}
