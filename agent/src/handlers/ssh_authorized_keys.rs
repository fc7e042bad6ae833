//! Keys that may log in: the datasource's and the user-data's, for the default user and for root.

use kiln_schema::status::{Reason, Stage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Failure, Frequency, Handled, Handler, Outcome, users};
use crate::authorized_keys::{install, parse, refusal};
use crate::context::Context;
use crate::ssh::PublicKey;

/// Installs the keys that may log in.
pub struct SshAuthorizedKeys;

/// Keys of the logins by SSH.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Public keys for the default user, beside those of the datasource.
    ssh_authorized_keys: Vec<String>,
    /// Refuse logins as root with these keys, with a word on which name to use.
    disable_root: bool,
    /// What stands before root's keys then; `$USER` and `$DISABLE_USER` are filled in.
    disable_root_opts: Option<String>,
    /// Take the keys that the datasource gives.
    allow_public_ssh_keys: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ssh_authorized_keys: Vec::new(),
            disable_root: true,
            disable_root_opts: None,
            allow_public_ssh_keys: true,
        }
    }
}

impl Handler for SshAuthorizedKeys {
    const NAME: &'static str = "ssh_authorized_keys";
    const SUMMARY: &'static str = "Lets the instance's key pair and further keys log in";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const ALWAYS: bool = true;
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let told: &[String] = if config.allow_public_ssh_keys { &context.instance.public_keys } else { &[] };
        let (mut keys, mut problems) = parse(told, |index| format!("public key {index} of the datasource"));
        let (own, own_problems) = parse(&config.ssh_authorized_keys, |index| format!("ssh_authorized_keys[{index}]"));
        keys.extend(own.into_iter().filter(|key| told.is_empty() || !is_among(key, told)));
        problems.extend(own_problems);
        if keys.is_empty() {
            return match Failure::all(problems) {
                Some(failure) => Err(failure),
                None => Ok(Outcome::Skipped(Reason::NothingToDo, "no keys are given".to_owned())),
            };
        }
        let mut detail = json!({"keys": keys.len()});
        let default = users::default_name(context);
        match &default {
            Some(name) => match for_user(name, &keys, context) {
                Ok(file) => detail["user"] = json!({"name": name, "file": file}),
                Err(failure) => problems.push(failure),
            },
            None => {
                let note = "`users` does not list `default`, so no user but root gets these keys";
                detail["note"] = Json::from(note);
            }
        }
        if default.as_deref() != Some("root") {
            match for_root(config, default.as_deref(), &keys, context) {
                Ok(how) => detail["root"] = Json::from(how),
                Err(failure) => problems.push(failure),
            }
        }
        match Failure::all(problems) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

fn is_among(key: &PublicKey, lines: &[String]) -> bool {
    lines.iter().any(|line| PublicKey::parse(line).is_ok_and(|known| known.material == key.material))
}

fn for_user(name: &str, keys: &[PublicKey], context: &Context) -> Result<String, Failure> {
    let account = context.system.account(name).filter(|account| account.name == *name);
    let Some(account) = account else {
        let message = format!("the default user `{name}` does not exist, so these keys let nobody in; see `users`");
        return Err(Failure::new(Reason::Config, message));
    };
    install(&context.system, &account, keys, None)
}

fn for_root(
    config: &Config,
    default: Option<&str>,
    keys: &[PublicKey],
    context: &Context,
) -> Result<&'static str, Failure> {
    let Some(root) = context.system.account("root") else {
        return Ok("no such account");
    };
    if !context.system.exists(&root.home) {
        return Ok("has no home");
    }
    let restriction = refusal(default.unwrap_or("NONE"), "root", config.disable_root_opts.as_deref());
    install(&context.system, &root, keys, config.disable_root.then_some(&restriction))?;
    Ok(if config.disable_root { "refused" } else { "allowed" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::{ED25519, OTHER};
    use crate::system::FileOptions;
    use std::sync::Arc;

    /// A tree with the accounts `root` and `admin`, both of whoever runs the test.
    fn context(tree: &std::path::Path, user_data: &str, public_keys: &[&str]) -> Context {
        let mut context = Context::for_test(tree, user_data);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let passwd = format!("root:x:{uid}:{gid}::/root:/bin/sh\nadmin:x:{uid}:{gid}::/home/admin:/bin/sh\n");
        context.system.write("/etc/passwd", passwd, FileOptions::default()).unwrap();
        context.system.write("/etc/os-release", "ID=debian\n", FileOptions::default()).unwrap();
        for home in ["/root", "/home/admin"] {
            context.system.make_dir(home, 0o755, None).unwrap();
        }
        Arc::make_mut(&mut context.instance).public_keys = public_keys.iter().map(|k| (*k).to_owned()).collect();
        context
    }

    fn keys_of(context: &Context, home: &str) -> String {
        context.system.read_text(format!("{home}/.ssh/authorized_keys")).unwrap_or_default()
    }

    #[test]
    fn the_key_pair_and_the_list_go_to_the_default_user_and_root_is_told_to_use_it() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!("ssh_authorized_keys: ['{OTHER} extra', '{ED25519} again']");
        let mut context = context(tree.path(), &user_data, &[&format!("{ED25519} pair")]);
        let Ok(Outcome::Ok(Some(detail))) = context.run_handler::<SshAuthorizedKeys>() else { panic!("not ok") };
        let user = json!({"name": "admin", "file": "/home/admin/.ssh/authorized_keys"});
        assert_eq!(detail, json!({"keys": 2, "user": user, "root": "refused"}));
        assert_eq!(keys_of(&context, "/home/admin"), format!("{ED25519} pair\n{OTHER} extra\n"));
        let root = keys_of(&context, "/root");
        assert_eq!(root.matches("Please login as the user \\\"admin\\\" rather than").count(), 2, "{root}");
        assert!(root.lines().all(|line| line.starts_with("no-port-forwarding,")), "{root}");
    }

    #[test]
    fn switches_are_honoured() {
        for (user_data, admin, root) in [
            ("disable_root: false", format!("{ED25519}\n"), format!("{ED25519}\n")),
            ("disable_root_opts: no-pty", format!("{ED25519}\n"), format!("no-pty {ED25519}\n")),
            ("allow_public_ssh_keys: no", String::new(), String::new()),
            (
                "{allow_public_ssh_keys: no, disable_root: no, ssh_authorized_keys: OTHER}",
                format!("{OTHER}\n"),
                format!("{OTHER}\n"),
            ),
            ("{users: [], disable_root: no}", String::new(), format!("{ED25519}\n")),
            ("{default_user: {name: root}}", String::new(), format!("{ED25519}\n")),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let mut context = context(tree.path(), &user_data.replace("OTHER", OTHER), &[ED25519]);
            context.run_handler::<SshAuthorizedKeys>().unwrap();
            assert_eq!((keys_of(&context, "/home/admin"), keys_of(&context, "/root")), (admin, root), "{user_data}");
        }
    }

    #[test]
    fn keys_for_a_user_who_is_not_there_are_a_failure_and_for_one_left_out_a_note() {
        let tree = tempfile::tempdir().unwrap();
        let mut missing = context(tree.path(), "default_user: {name: ops}", &[ED25519]);
        let failure = missing.run_handler::<SshAuthorizedKeys>().unwrap_err();
        assert!(failure.message.starts_with("the default user `ops` does not exist"), "{}", failure.message);
        assert!(keys_of(&missing, "/root").contains("\\\"ops\\\""), "root is still told");
        let mut left_out = context(tree.path(), "users: [bob]", &[ED25519]);
        let Ok(Outcome::Ok(Some(detail))) = left_out.run_handler::<SshAuthorizedKeys>() else { panic!("not ok") };
        assert!(detail["note"].as_str().unwrap().starts_with("`users` does not list `default`"), "{detail}");
        assert_eq!(keys_of(&left_out, "/home/admin"), "");
    }

    #[test]
    fn bad_lines_fail_by_their_place_and_the_good_ones_work() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!("ssh_authorized_keys: [{OTHER}, ssh-rsa AAAA cut]");
        let mut context = context(tree.path(), &user_data, &["nonsense"]);
        let failure = context.run_handler::<SshAuthorizedKeys>().unwrap_err();
        let message = "public key 0 of the datasource is left out: it does not begin with a kind of key such as ssh-ed25519; \
            ssh_authorized_keys[1] is left out: the key is damaged: its inside does not fit its kind";
        assert_eq!(failure.message, message);
        assert_eq!(keys_of(&context, "/home/admin"), format!("{OTHER}\n"));
    }

    #[test]
    fn no_keys_at_all_is_nothing_to_do() {
        let tree = tempfile::tempdir().unwrap();
        let mut context = context(tree.path(), "{}", &[]);
        assert!(matches!(context.run_handler::<SshAuthorizedKeys>(), Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }
}
