//! Users and groups.

mod config;
mod doas;
mod keys;
mod passwords;
mod sudo;

use std::time::Duration;

use kiln_schema::Severity;
use kiln_schema::diagnostic::Diagnostic;
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Node, Value};
use serde_json::json;

use config::UserKeys;
pub use config::{Config, User};

use super::ssh_import_id::KeyId;
use super::{Failure, Frequency, Handled, Handler, Outcome, items, read_keys};
use crate::authorized_keys;
use crate::context::Context;
use crate::system::{Account, Command, RunError};

/// Makes the users of the user-data and the image's default user.
pub struct Users;

/// The default user's name, if there is to be one. What is wrong with the keys, this handler tells.
pub fn default_name(context: &Context) -> Option<String> {
    read_keys::<Config>(&context.config).value.unwrap_or_default().default_name(&context.system)
}

/// The name of the default user as the image has it, before there is user-data.
pub fn image_default_name(system: &crate::system::System) -> String {
    let image = crate::config::Config::of_image(system);
    read_keys::<Config>(&image.root).value.unwrap_or_default().default_user(system).name
}

/// The names of all users that the user-data asks for, the default user among them.
pub fn names(context: &Context) -> Vec<String> {
    let config = read_keys::<Config>(&context.config).value.unwrap_or_default();
    config.all_users(&context.system).into_iter().map(|user| user.name).collect()
}

/// The users who have keys on a server, with the ids of these keys.
pub fn import_ids(context: &Context) -> Vec<(String, Vec<KeyId>)> {
    let config = read_keys::<Config>(&context.config).value.unwrap_or_default();
    let users = config
        .all_users(&context.system)
        .into_iter()
        .filter(|user| !user.ssh_import_id.is_empty() && !user.ssh_redirect_user.0);
    users.map(|user| (user.name, user.ssh_import_id.0)).collect()
}

impl Handler for Users {
    const NAME: &'static str = "users";
    const SUMMARY: &'static str = "Makes groups, users and the default user";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(120);
    const ALWAYS: bool = true;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let users = items(config, "users").iter().enumerate().map(|(index, user)| (user, format!("users[{index}]")));
        let user = config.get("user").into_iter().map(|user| (user, "user".to_owned()));
        let mut told = Vec::new();
        let list = config.get("user").filter(|user| matches!(user.value, Value::List(_)));
        told.extend(list.map(|it| {
            it.diagnostic(
                Severity::Warning,
                "user",
                "a name or a mapping is expected here; for several users there is `users`",
            )
        }));
        for (user, path) in users.chain(user) {
            let redirect = ["ssh_redirect_user", "ssh-redirect-user"].iter().find_map(|key| user.get(key));
            let redirect = redirect.filter(|node| !node.is_null() && node.kind() != "a boolean");
            told.extend(redirect.map(|node| {
                let message = "true or false is expected here; `default` is taken for true";
                node.diagnostic(Severity::Warning, &format!("{path}.ssh_redirect_user"), message)
            }));
            let groups =
                user.get("groups").map_or(&[][..], Node::entries).iter().filter(|entry| !entry.value.is_null());
            told.extend(groups.map(|entry| {
                let message = "of a group only the name is read here; write `groups` as a list of names";
                entry.place.diagnostic(Severity::Warning, &format!("{path}.groups.{}", entry.key), message)
            }));
        }
        told
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let mut problems: Vec<Failure> = Vec::new();
        let (mut made, mut completed) = (Vec::new(), Vec::new());
        let groups: Vec<_> = config.groups.iter().flat_map(|groups| &groups.0).collect();
        for (group, _) in &groups {
            problems.extend(make_group(group, context).err());
        }
        let default = config.default_name(&context.system);
        for user in config.all_users(&context.system) {
            let existed = context.system.account(&user.name).is_some_and(|account| account.name == user.name);
            match make(&user, existed, default.as_deref(), context) {
                failures if failures.is_empty() => {}
                failures if is_needless(&failures, context) => {
                    let message = "no default user was made, as useradd is not installed and no key is given for it";
                    return Ok(Outcome::Skipped(Reason::MissingProgram, message.to_owned()));
                }
                failures => problems.extend(failures),
            }
            if context.system.account(&user.name).is_some_and(|account| account.name == user.name) {
                if existed { &mut completed } else { &mut made }.push(user.name);
            }
        }
        for (group, members) in groups {
            for member in members {
                let joined = join(member, std::slice::from_ref(group), context);
                problems.extend(joined.err().map(|f| f.under(&format!("group `{group}`"))));
            }
        }
        let detail = json!({"made": made, "completed": completed});
        match Failure::all(problems) {
            Some(failure) => Err(failure.with_detail(detail)),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Whether all that failed is a user that nobody asked for, on an image that is not made for users.
fn is_needless(failures: &[Failure], context: &Context) -> bool {
    let keys = ["users", "groups", "user", "default_user", "ssh_authorized_keys"];
    failures.iter().all(|failure| failure.reason == Reason::MissingProgram)
        && context.instance.public_keys.is_empty()
        && !keys.iter().any(|key| context.config.get(key).is_some())
}

/// Makes or completes a user, as far as it goes.
fn make(user: &UserKeys, existed: bool, default: Option<&str>, context: &Context) -> Vec<Failure> {
    let whose = format!("user `{}`", user.name);
    let mut failures: Vec<Failure> = Vec::new();
    let unsupported = user.unsupported();
    if !unsupported.is_empty() {
        let message = format!("{} is not done by this version; remove it, or do it in runcmd", unsupported.join(", "));
        failures.push(Failure::new(Reason::Unsupported, message));
    }
    let mut steps = || -> Result<(), Failure> {
        check_name(&user.name)?;
        let groups = user.group_names();
        if user.create_groups.unwrap_or(true) {
            // In cloud-init's order, in which the groups get their ids.
            for group in groups.iter().chain(&user.primary_group) {
                make_group(group, context)?;
            }
        }
        if existed {
            join(&user.name, &groups, context)?;
        } else {
            add(user, &groups, context)?;
        }
        // From here on the user exists, and one step does not depend on the other.
        failures.extend(passwords::apply(user, existed, context));
        if let (false, Some(_), false) = (existed, &user.selinux_user, has_selinux(context)) {
            let message = "selinux_user is left out, as this image has no SELinux";
            failures.push(Failure::new(Reason::Unsupported, message));
        }
        if let Some(rules) = &user.doas {
            failures.extend(doas::add(context, &user.name, rules).err());
        }
        if let Some(rules) = user.sudo_rules() {
            failures.extend(sudo::set(context, &user.name, &rules).err());
        }
        if user.ssh_redirect_user.0 {
            failures.extend(redirect(user, default, context).err());
        } else {
            let lines = user.ssh_authorized_keys.as_deref().unwrap_or_default();
            let (keys, problems) = authorized_keys::parse(lines, |index| format!("ssh_authorized_keys[{index}]"));
            failures.extend(problems);
            if let Some(account) = context.system.account(&user.name)
                && (!keys.is_empty() || gets_an_empty_file(&account, default, context))
            {
                failures.extend(authorized_keys::install(&context.system, &account, &keys, None).err());
            }
        }
        Ok(())
    };
    let stopped = steps().err();
    failures.extend(stopped);
    failures.into_iter().map(|failure| failure.under(&whose)).collect()
}

/// Whether a user without keys gets a file for them, as whoever adds keys later finds it with cloud-init:
/// with a home folder, unless the default user is about to get the instance's keys.
fn gets_an_empty_file(account: &Account, default: Option<&str>, context: &Context) -> bool {
    let keys_come =
        !context.instance.public_keys.is_empty() || !items(&context.config, "ssh_authorized_keys").is_empty();
    let gets_keys = default == Some(&account.name) && keys_come;
    let system = &context.system;
    !gets_keys
        && system.metadata(&account.home).is_ok_and(|home| home.is_dir())
        && !system.is_there(authorized_keys::file_of(system, account))
}

/// Refuses logins as a user with the instance's keys, and tells the name of the default user.
fn redirect(user: &UserKeys, default: Option<&str>, context: &Context) -> Result<(), Failure> {
    if user.ssh_authorized_keys.is_some() || !user.ssh_import_id.is_empty() {
        let message = "ssh_redirect_user goes with no keys of the user's own, so neither is done; give one of both";
        return Err(Failure::new(Reason::Config, message));
    }
    let Some(default) = default else {
        let message = "ssh_redirect_user: there is no default user to log in as; list `default` in `users`";
        return Err(Failure::new(Reason::Config, message));
    };
    let (keys, _) = authorized_keys::parse(&context.instance.public_keys, |index| index.to_string());
    if let (Some(account), false) = (context.system.account(&user.name), keys.is_empty()) {
        let refusal = authorized_keys::refusal(default, &user.name, None);
        authorized_keys::install(&context.system, &account, &keys, Some(&refusal))?;
    }
    Ok(())
}

/// Whether the image can have SELinux users at all: useradd makes no account where it cannot.
fn has_selinux(context: &Context) -> bool {
    context.system.exists("/etc/selinux/config")
}

/// The name goes into command lines, /etc/passwd and sudo's rules; what else is allowed, useradd knows.
fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !name.is_empty() && !name.starts_with(['-', '.']) && name.strip_suffix('$').unwrap_or(name).chars().all(allowed)
    {
        return Ok(());
    }
    Err(Failure::new(Reason::Config, "not a name of a user or group: letters, digits, `_`, `-` and `.`"))
}

fn make_group(group: &str, context: &Context) -> Result<(), Failure> {
    if context.system.group(group).is_some() {
        return Ok(());
    }
    let made = check_name(group).and_then(|()| shadow(context.command("groupadd").args(["--", group]), context));
    made.map_err(|failure| failure.under(&format!("group `{group}`")))
}

fn add(user: &UserKeys, groups: &[String], context: &Context) -> Result<(), Failure> {
    let mut command = context.command("useradd");
    let own_group = context.system.group(&user.name).is_some_and(|group| group.name == user.name);
    let primary = match &user.primary_group {
        // useradd refuses to make a user whose own group is there already.
        None if own_group && !user.no_user_group => Some(&user.name),
        given => given.as_ref(),
    };
    let uid = user.uid.map(|uid| uid.to_string());
    let groups = (!groups.is_empty()).then(|| groups.join(","));
    let inactive = user.inactive.0.map(|days| days.to_string());
    let selinux_user = user.selinux_user.as_ref().filter(|_| has_selinux(context));
    let options = [
        ("--expiredate", user.expiredate.as_ref().map(|date| &date.0)),
        ("--inactive", inactive.as_ref()),
        ("--selinux-user", selinux_user),
        ("--comment", user.gecos.as_ref()),
        ("--home-dir", user.homedir.as_ref()),
        ("--gid", primary),
        ("--groups", groups.as_ref()),
        ("--shell", user.shell.as_ref()),
        ("--uid", uid.as_ref()),
    ];
    for (option, value) in options {
        command = value.into_iter().fold(command, |command, value| command.arg(option).arg(value));
    }
    let homeless = user.no_create_home || user.system;
    let flags = [
        ("--no-user-group", user.no_user_group),
        ("--system", user.system),
        ("--no-log-init", user.no_log_init),
        ("--create-home", !homeless),
        ("--no-create-home", homeless),
    ];
    command = command.args(flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag));
    // A new account has no password, which is as good as a locked one.
    shadow(command.args(["--", &user.name]), context)
}

/// Adds an existing user to groups.
fn join(user: &str, groups: &[String], context: &Context) -> Result<(), Failure> {
    let Some(account) = context.system.account(user).filter(|account| account.name == user) else {
        return Err(Failure::new(Reason::Config, format!("there is no user `{user}` to be its member")));
    };
    let is_member = |group: &&String| {
        context.system.group(group).is_some_and(|g| g.gid == account.gid || g.members.iter().any(|m| m == user))
    };
    let missing: Vec<&str> = groups.iter().filter(|group| !is_member(group)).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let command = context.command("usermod").args(["--append", "--groups", &missing.join(","), "--", user]);
    shadow(command, context)
}

/// Runs a tool of the shadow suite.
///
/// # Errors
/// That it is missing, or what it said.
pub fn shadow(command: Command, context: &Context) -> Result<(), Failure> {
    let done = context.run(&command).map_err(|error| match error {
        RunError::Missing(program) => {
            let message = format!(
                "{program} is not installed; install the package passwd (Debian) or shadow-utils (Red Hat) in the image"
            );
            Failure::new(Reason::MissingProgram, message)
        }
        error => Failure::from(error),
    })?;
    if done.success() {
        return Ok(());
    }
    let said = done.last_lines(2).join("; ");
    let said = said.strip_prefix(&format!("{}: ", command.program())).unwrap_or(&said).to_owned();
    let message = format!("{} {}: {said}", command.program(), done.ending());
    Err(Failure::new(Reason::CommandFailed, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::ED25519;
    use crate::testing::machine;
    use std::os::unix::fs::MetadataExt;

    const TOOLS: &[&str] = &["/usr/sbin/useradd", "/usr/sbin/usermod", "/usr/sbin/groupadd"];

    #[test]
    fn users_are_made_as_described_and_a_second_run_changes_nothing() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!(
            "groups: [docker: [bob]]\nusers:\n- default\n- name: bob\n  gecos: Bob B.\n  uid: 2001\n  groups: 'docker, wheelers'\n  \
             primary_group: staff\n  shell: /bin/sh\n  homedir: /srv/bob\n  sudo: [ALL=(ALL) NOPASSWD:ALL]\n  \
             ssh_authorized_keys: {ED25519}\n- {{name: daemonic, system: true}}\n"
        );
        let Some(mut context) = machine(tree.path(), TOOLS, &user_data) else { return };
        let told = |handled: Handled| match handled {
            Ok(Outcome::Ok(Some(detail))) => detail,
            other => panic!("{other:?}"),
        };
        let detail = told(context.run_handler::<Users>());
        assert_eq!(detail, json!({"made": ["bob", "daemonic", "admin"], "completed": []}));
        let system = context.system.clone();
        let bob = system.account("bob").unwrap();
        assert_eq!((bob.uid, bob.home.as_str(), bob.shell.as_str()), (2001, "/srv/bob", "/bin/sh"));
        assert_eq!(bob.gid, system.group("staff").unwrap().gid);
        assert_eq!(system.group("docker").unwrap().members, ["bob"]);
        assert_eq!(system.group("sudo").unwrap().members, ["admin"]);
        assert_eq!(system.metadata("/srv/bob/.ssh/authorized_keys").unwrap().uid(), 2001);
        assert!(system.account("daemonic").unwrap().uid < 1000);
        assert!(!system.exists("/home/daemonic") && system.exists("/home/admin"));
        let rules = "# Written by kiln-agent from the user-data.\n\n# User rules for bob\n\
            bob ALL=(ALL) NOPASSWD:ALL\n\n# User rules for admin\nadmin ALL=(ALL) NOPASSWD:ALL\n";
        assert_eq!(system.read_text("/etc/sudoers.d/90-cloud-init-users").unwrap(), rules);
        let files = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/sudoers.d/90-cloud-init-users"];
        let before = files.map(|file| system.read_text(file).unwrap());
        let detail = told(context.run_handler::<Users>());
        assert_eq!(detail, json!({"made": [], "completed": ["bob", "daemonic", "admin"]}));
        assert_eq!(files.map(|file| system.read_text(file).unwrap()), before);
    }

    #[test]
    fn an_existing_user_is_completed_and_its_password_locked() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "users: [{name: bob, groups: [adm]}, {name: joe, lock_passwd: false}]";
        let Some(mut context) = machine(tree.path(), TOOLS, user_data) else { return };
        for (file, text) in [
            ("/etc/passwd", "bob:x:1000:1000::/home/bob:/bin/sh\njoe:x:1001:1000::/home/joe:/bin/sh\n"),
            ("/etc/shadow", "bob:$6$x$y:19000:0:99999:7:::\njoe:$6$x$y:19000:0:99999:7:::\n"),
            ("/etc/group", "bob:x:1000:\n"),
        ] {
            context.system.append(file, text.as_bytes(), crate::system::FileOptions::default()).unwrap();
        }
        context.run_handler::<Users>().unwrap();
        assert_eq!(context.system.group("adm").unwrap().members, ["bob"]);
        let shadow = context.system.read_text("/etc/shadow").unwrap();
        assert!(shadow.contains("\nbob:!$6$x$y:") && shadow.contains("\njoe:$6$x$y:"), "{shadow}");
    }

    #[test]
    fn each_user_stands_alone_and_every_failure_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = format!(
            "groups: [ops: [nobody-here]]\nusers:\n- {{name: -x}}\n- {{name: a, passwd: s3cret, snapuser: me, selinux_user: x}}\n\
             - {{name: b, uid: 0}}\n- {{name: c, ssh_authorized_keys: [bad, {ED25519}]}}\n\
             - {{name: d, system: true, ssh_authorized_keys: [{ED25519}]}}\n- e\n"
        );
        let Some(mut context) = machine(tree.path(), TOOLS, &user_data) else { return };
        let failure = context.run_handler::<Users>().unwrap_err();
        assert_eq!(failure.detail.unwrap(), json!({"made": ["a", "c", "d", "e"], "completed": []}));
        let told: Vec<&str> = failure.message.split("; user").collect();
        for part in [
            "`-x`: not a name of a user",
            "`a`: snapuser is not done by this version",
            "`a`: passwd: it is no hash such as `mkpasswd` prints; for the password itself there is plain_text_passwd",
            "`a`: selinux_user is left out",
            "`b`: useradd exited 4: UID 0 is not unique",
            "`c`: ssh_authorized_keys[0] is left out: it does not begin with a kind of key",
            "`d` has no home folder (/home/d)",
            "group `ops`: there is no user `nobody-here`",
        ] {
            assert!(told.iter().any(|told| told.contains(part)), "{part}: {told:#?}");
        }
        assert!(!failure.message.contains("s3cret"));
        assert!(context.system.exists("/home/c/.ssh/authorized_keys"));
    }

    #[test]
    fn an_account_closes_when_it_is_told_to() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "users: [{name: bob, expiredate: 2032-09-01, inactive: '5', doas: permit bob}]";
        let Some(mut context) = machine(tree.path(), TOOLS, user_data) else { return };
        context.run_handler::<Users>().unwrap();
        let shadow = context.system.read_text("/etc/shadow").unwrap();
        // 22889 days from 1970-01-01 to 2032-09-01.
        assert!(shadow.lines().any(|line| line.starts_with("bob:") && line.ends_with(":5:22889:")), "{shadow}");
        assert!(context.system.read_text("/etc/doas.conf").unwrap().contains("permit bob\n"));
    }

    #[test]
    fn a_redirected_user_is_refused_with_the_name_of_the_default_user() {
        for (user_data, told) in [
            ("users: [default, {name: bob, ssh_redirect_user: true}]", None),
            ("users: [{name: bob, ssh_redirect_user: default}]", Some("there is no default user to log in as")),
            (
                "users: [default, {name: bob, ssh_redirect_user: true, ssh_authorized_keys: [x]}]",
                Some("goes with no keys"),
            ),
        ] {
            let tree = tempfile::tempdir().unwrap();
            let Some(mut context) = machine(tree.path(), TOOLS, user_data) else { return };
            std::sync::Arc::make_mut(&mut context.instance).public_keys.push(ED25519.to_owned());
            match (context.run_handler::<Users>(), told) {
                (Ok(_), None) => {
                    let keys = context.system.read_text("/home/bob/.ssh/authorized_keys").unwrap();
                    assert!(keys.contains("the user \\\"admin\\\" rather than the user \\\"bob\\\""), "{keys}");
                }
                (Err(failure), Some(told)) => assert!(failure.message.contains(told), "{}", failure.message),
                (other, _) => panic!("{user_data}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_user_without_keys_gets_the_empty_file_where_there_is_a_home_and_no_file_is_emptied() {
        use std::os::unix::fs::PermissionsExt;
        let tree = tempfile::tempdir().unwrap();
        let user_data = "users: [bob, {name: homeless, no_create_home: true}, {name: daemonic, system: true}, default]";
        let Some(mut context) = machine(tree.path(), TOOLS, user_data) else { return };
        std::sync::Arc::make_mut(&mut context.instance).public_keys.push(ED25519.to_owned());
        let system = context.system.clone();
        context.run_handler::<Users>().unwrap();
        let file = "/home/bob/.ssh/authorized_keys";
        assert_eq!(system.read_text(file).unwrap(), "");
        assert_eq!(system.metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(system.metadata(file).unwrap().uid(), system.account("bob").unwrap().uid);
        assert!(!system.is_there("/home/homeless") && !system.is_there("/home/daemonic"));
        assert!(!system.is_there("/home/admin/.ssh"), "the default user gets the instance's keys, by another handler");
        system.write(file, format!("{ED25519}\n"), crate::system::FileOptions::default()).unwrap();
        context.run_handler::<Users>().unwrap();
        assert_eq!(system.read_text(file).unwrap(), format!("{ED25519}\n"));
    }

    #[test]
    fn groups_get_their_ids_in_cloud_inits_order() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) =
            machine(tree.path(), TOOLS, "users: [{name: bob, primary_group: staff, groups: [one, two]}]")
        else {
            return;
        };
        context.run_handler::<Users>().unwrap();
        let ids = ["one", "two", "staff"].map(|name| context.system.group(name).unwrap().gid);
        assert!(ids.is_sorted(), "{ids:?}");
    }

    #[test]
    fn a_user_whose_group_exists_gets_it_as_its_own() {
        let tree = tempfile::tempdir().unwrap();
        let Some(mut context) = machine(tree.path(), TOOLS, "{groups: [jetty], users: [jetty]}") else { return };
        context.run_handler::<Users>().unwrap();
        assert_eq!(context.system.account("jetty").unwrap().gid, context.system.group("jetty").unwrap().gid);
    }

    #[test]
    fn without_useradd_it_fails_unless_nobody_asked_for_a_user() {
        for (user_data, key, fails) in [("{}", false, false), ("{}", true, true), ("users: [default]", false, true)] {
            let tree = tempfile::tempdir().unwrap();
            let Some(mut context) = machine(tree.path(), &[], user_data) else { return };
            if key {
                std::sync::Arc::make_mut(&mut context.instance).public_keys.push(ED25519.to_owned());
            }
            match context.run_handler::<Users>() {
                Err(failure) => {
                    assert!(fails, "{user_data}");
                    let message = "user `admin`: useradd is not installed; install the package passwd";
                    assert!(failure.message.starts_with(message), "{}", failure.message);
                    assert_eq!(failure.reason, Reason::MissingProgram);
                }
                Ok(outcome) => {
                    assert!(!fails && matches!(outcome, Outcome::Skipped(Reason::MissingProgram, _)), "{outcome:?}");
                }
            }
        }
    }
}
