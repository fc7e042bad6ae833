//! Passwords of users, and whether they are locked.

use kiln_schema::status::Reason;

use super::config::UserKeys;
use super::shadow;
use crate::context::Context;
use crate::handlers::Failure;
use crate::handlers::edit::text_or_empty;
use crate::handlers::set_passwords::{change, one_line, stored_form};

/// Sets the passwords that are given and locks or unlocks what the account then has. Whatever fails, the
/// account is not left open where it is to be locked.
pub fn apply(user: &UserKeys, existed: bool, context: &Context) -> Vec<Failure> {
    // As with cloud-init, `passwd` is for new users: an image's own may have changed theirs.
    let new = user.passwd.given().filter(|_| !existed).map(|hash| ("passwd", hash, true));
    let text = user.plain_text_passwd.given().map(|text| ("plain_text_passwd", text, false));
    let hash = user.hashed_passwd.given().map(|hash| ("hashed_passwd", hash, true));
    let mut failures = Vec::new();
    for (key, password, is_hash) in [new, text, hash].into_iter().flatten() {
        let checked = if is_hash { stored_form(password) } else { one_line(password) };
        let result = match checked {
            Ok(password) => change(&user.name, &password, is_hash, context),
            Err(why) => {
                let advice = if key == "passwd" { "; for the password itself there is plain_text_passwd" } else { "" };
                Err(Failure::new(Reason::Config, format!("{why}{}", if is_hash { advice } else { "" })))
            }
        };
        failures.extend(result.err().map(|failure| failure.under(key)));
    }
    failures.extend(lock(user, context).err());
    failures
}

/// Locks the password of an account, or unlocks the one that it has. `*` and `!` alone match no password.
fn lock(user: &UserKeys, context: &Context) -> Result<(), Failure> {
    let text = text_or_empty(&context.system, "/etc/shadow")?;
    let mut lines = text.lines();
    let password = lines.find_map(|line| line.strip_prefix(&user.name)?.strip_prefix(':')?.split(':').next());
    let Some(password) = password else { return Ok(()) };
    let option = match (user.lock_passwd.unwrap_or(true), password.strip_prefix('!')) {
        // An empty password is one that lets everybody in.
        (true, None) if password != "*" => "--lock",
        (false, Some(locked)) if !locked.trim_start_matches('!').is_empty() && locked != "*" => "--unlock",
        _ => return Ok(()),
    };
    shadow(context.command("usermod").args([option, "--", &user.name]), context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::users::Users;
    use crate::system::FileOptions;
    use crate::testing::machine;

    const TOOLS: &[&str] = &["/usr/sbin/useradd", "/usr/sbin/usermod", "/usr/sbin/groupadd", "/usr/sbin/chpasswd"];
    const HASH: &str = "$6$LF$9Z2p6rWK6TNC1DC6393ec0As.18KRAvKDbfsGJEdWN3sRQRwpdfoh37EQ3yUh69tP4GSrGW5XKHxMLiKowJgm/";

    fn password_of(context: &Context, user: &str) -> String {
        let text = context.system.read_text("/etc/shadow").unwrap();
        text.lines().find_map(|line| line.strip_prefix(&format!("{user}:"))?.split(':').next()).unwrap().to_owned()
    }

    #[test]
    fn passwords_are_set_and_locked_as_cloud_init_has_it() {
        for (keys, old, new) in [
            // The user is new where there is no old password.
            ("passwd: HASH, lock_passwd: false", None, "HASH"),
            ("passwd: HASH", None, "!HASH"),
            ("hashed_passwd: HASH, lock_passwd: false", None, "HASH"),
            ("lock_passwd: false", None, "!"),
            ("passwd: '*', lock_passwd: false", None, "*"),
            ("passwd: HASH, lock_passwd: false", Some("$6$x$y"), "$6$x$y"),
            ("hashed_passwd: HASH, lock_passwd: false", Some("$6$x$y"), "HASH"),
            ("hashed_passwd: HASH", Some("!$6$x$y"), "!HASH"),
            ("lock_passwd: false", Some("!$6$x$y"), "$6$x$y"),
            ("lock_passwd: true", Some("$6$x$y"), "!$6$x$y"),
            ("gecos: x", Some("!$6$x$y"), "!$6$x$y"),
            ("gecos: x", Some("*"), "*"),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let user_data = format!("users: [{{name: bob, {}}}]", keys.replace("HASH", &format!("'{HASH}'")));
            let Some(mut context) = machine(tree.path(), TOOLS, &user_data) else { return };
            if let Some(old) = old {
                let add = |file: &str, text: String| {
                    context.system.append(file, text.as_bytes(), FileOptions::default()).unwrap();
                };
                add("/etc/passwd", "bob:x:1000:1000::/home/bob:/bin/sh\n".to_owned());
                add("/etc/shadow", format!("bob:{old}:19000:0:99999:7:::\n"));
                add("/etc/group", "bob:x:1000:\n".to_owned());
            }
            for _ in 0..2 {
                context.run_handler::<Users>().unwrap();
                assert_eq!(password_of(&context, "bob"), new.replace("HASH", HASH), "{keys} {old:?}");
            }
        }
    }

    #[test]
    fn what_is_no_hash_is_refused_and_the_account_stays_locked() {
        for keys in ["passwd: s3cret", "hashed_passwd: s3cret", "plain_text_passwd: \"s3cret\\nroot:x\""] {
            let tree = tempfile::tempdir().unwrap();
            let user_data = format!("users: [{{name: bob, {keys}}}]");
            let Some(mut context) = machine(tree.path(), TOOLS, &user_data) else { return };
            let failure = context.run_handler::<Users>().unwrap_err();
            let key = keys.split(':').next().unwrap();
            assert!(failure.message.starts_with(&format!("user `bob`: {key}: ")), "{}", failure.message);
            assert!(!failure.message.contains("s3cret") && failure.reason == Reason::Config, "{}", failure.message);
            assert_eq!(password_of(&context, "bob"), "!");
        }
    }
}
