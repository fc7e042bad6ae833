use super::*;
use crate::system::FileOptions;
use crate::testing::machine;

const TOOLS: &[&str] = &["/usr/sbin/chpasswd", "/usr/bin/passwd", "/usr/bin/chage"];
const HASH: &str = "$6$LF$9Z2p6rWK6TNC1DC6393ec0As.18KRAvKDbfsGJEdWN3sRQRwpdfoh37EQ3yUh69tP4GSrGW5XKHxMLiKowJgm/";

/// A tree with the users `admin` and `bob`.
fn context(tree: &std::path::Path, tools: &[&str], user_data: &str) -> Option<Context> {
    let context = machine(tree, tools, user_data)?;
    for (file, text) in [
        ("/etc/passwd", "admin:x:1000:1000::/home/admin:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"),
        ("/etc/shadow", "admin:!:19000:0:99999:7:::\nbob:!:19000:0:99999:7:::\n"),
    ] {
        context.system.append(file, text.as_bytes(), FileOptions::default()).unwrap();
    }
    Some(context)
}

/// The fields of a user in /etc/shadow: the password and the day of its last change.
fn shadow_of(context: &Context, user: &str) -> (String, String) {
    let text = context.system.read_text("/etc/shadow").unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    (fields[1].to_owned(), fields[2].to_owned())
}

#[test]
fn hashes_are_set_as_they_are_and_expire_unless_told_otherwise() {
    for (expire, day) in [("", "0"), ("expire: true, ", "0"), ("expire: false, ", "today")] {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!("chpasswd: {{{expire}users: [{{name: bob, password: '{HASH}'}}]}}");
        let Some(mut context) = context(tree.path(), TOOLS, &user_data) else { return };
        let outcome = context.run_handler::<SetPasswords>().unwrap();
        let (password, changed) = shadow_of(&context, "bob");
        assert_eq!((password.as_str(), changed == "0"), (HASH, day == "0"), "{outcome:?}");
        assert_eq!(shadow_of(&context, "admin").0, "!");
        assert!(!format!("{outcome:?}").contains("LF"), "{outcome:?}");
    }
}

#[test]
fn the_older_list_and_the_default_users_password_are_taken() {
    for (user_data, user) in [
        (format!("chpasswd: {{list: 'bob:{HASH}'}}"), "bob"),
        (format!("{{password: '{HASH}'}}"), "admin"),
        // cloud-init leaves `password` out where `chpasswd` names users.
        (format!("{{password: x, chpasswd: {{list: ['admin:{HASH}']}}}}"), "admin"),
    ] {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = context(tree.path(), TOOLS, &user_data) else { return };
        let outcome = context.run_handler::<SetPasswords>().unwrap();
        let detail = json!({"set": [user], "expired": [user]});
        assert_eq!(outcome, Outcome::Ok(Some(detail)));
        assert_eq!(shadow_of(&context, user), (HASH.to_owned(), "0".to_owned()), "{user_data}");
    }
}

#[test]
fn a_bad_entry_is_told_without_its_password_and_the_good_one_is_set() {
    let tree = tempfile::tempdir().unwrap();
    let user_data = format!(
        "chpasswd: {{users: [{{name: nobody-here, password: '{HASH}'}}, {{name: bob, password: s3cret}}, \
         {{name: bob, type: RANDOM}}, {{name: '1001', password: '{HASH}'}}, {{name: admin, password: '{HASH}'}}], list: [s3cret]}}"
    );
    let Some(mut context) = context(tree.path(), TOOLS, &user_data) else { return };
    let failure = context.run_handler::<SetPasswords>().unwrap_err();
    assert_eq!(failure.detail.unwrap(), json!({"set": ["admin"], "expired": ["admin"]}));
    for part in [
        "user `nobody-here`: there is no such user; `users` makes users",
        "user `bob`: it is no hash such as `mkpasswd` prints; for the password itself say `type: text`",
        "user `bob`: there is no /dev/console to show a random password on",
        "user `1001`: there is no such user",
        "chpasswd.list[0]: the line is not `user:password`",
    ] {
        assert!(failure.message.contains(part), "{part}: {}", failure.message);
    }
    assert!(!failure.message.contains("s3cret"), "{}", failure.message);
    assert_eq!(shadow_of(&context, "admin").0, HASH);
}

#[test]
fn without_a_default_user_its_password_has_nobody() {
    let tree = tempfile::tempdir().unwrap();
    let mut context = Context::for_test(tree.path(), "{password: x, users: [bob]}");
    let failure = context.run_handler::<SetPasswords>().unwrap_err();
    assert!(failure.message.starts_with("password: it is for the default user"), "{}", failure.message);
}

#[test]
fn a_missing_chpasswd_is_named_with_its_package() {
    let tree = tempfile::tempdir().unwrap();
    let Some(mut context) = context(tree.path(), &[], "password: x") else { return };
    let failure = context.run_handler::<SetPasswords>().unwrap_err();
    assert_eq!(failure.reason, Reason::MissingProgram);
    assert!(failure.message.starts_with("user `admin`: chpasswd is not installed; install"), "{}", failure.message);
}

#[test]
fn sshd_is_told_and_an_image_without_it_is_not_changed() {
    let tree = tempfile::tempdir().unwrap();
    let mut context = Context::for_test(tree.path(), "ssh_pwauth: false");
    let outcome = context.run_handler::<SetPasswords>().unwrap();
    assert_eq!(outcome, Outcome::Ok(Some(json!({"ssh_pwauth": "this image has no sshd"}))));
    assert!(!context.system.exists("/etc/ssh"));
    let mut context = Context::for_test(tree.path(), "ssh_pwauth: true");
    assert_eq!(context.run_handler::<SetPasswords>().unwrap_err().reason, Reason::MissingProgram);
    context.system.write("/etc/ssh/sshd_config", "Port 22\n", FileOptions::default()).unwrap();
    let outcome = context.run_handler::<SetPasswords>().unwrap();
    let told = json!({"ssh_pwauth": {"allowed": true, "file": "/etc/ssh/sshd_config"}});
    assert_eq!(outcome, Outcome::Ok(Some(told)));
}

#[test]
fn nothing_given_is_nothing_to_do() {
    let tree = tempfile::tempdir().unwrap();
    for user_data in ["ssh_pwauth: unchanged", "chpasswd: {expire: false}", "password:"] {
        let mut context = Context::for_test(tree.path(), user_data);
        let outcome = context.run_handler::<SetPasswords>().unwrap();
        assert!(matches!(outcome, Outcome::Skipped(Reason::NothingToDo, _)), "{user_data} {outcome:?}");
    }
}
