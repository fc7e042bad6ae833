//! Passwords of users, and whether sshd takes them.
//!
//! A password reaches chpasswd on its standard input and nothing else. One that is made here is shown
//! on the console, where cloud-init's users look for it, and in no log.

mod config;
mod random;
mod sshd;

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{Node, Value};
use serde_json::{Value as Json, json};

pub use config::{Config, one_line, stored_form};
use config::{Secret, Unusable, by_its_look, lines};

use super::{Failure, Frequency, Handled, Handler, Outcome, items, ssh_host_keys, users};
use crate::context::Context;
use crate::system::RunError;

/// Sets passwords.
pub struct SetPasswords;

/// A user, where it stands, and its password.
struct Wanted {
    /// Login name.
    user: String,
    /// The user for a message: by name, or by place where there is none.
    whose: String,
    secret: Result<Secret, Unusable>,
}

/// What became of the users.
#[derive(Default)]
struct Done {
    set: Vec<String>,
    /// Those whose password was made here, with it.
    random: Vec<(String, String)>,
    expired: Vec<String>,
}

impl Handler for SetPasswords {
    const NAME: &'static str = "set_passwords";
    const SUMMARY: &'static str = "Sets passwords, and whether sshd takes them";
    const STAGE: Stage = Stage::Init;
    const FREQUENCY: Frequency = Frequency::Instance;
    type Config = Config;

    fn check(config: &Node) -> Vec<Diagnostic> {
        let users = config.get("chpasswd").map_or(&[][..], |keys| items(keys, "users"));
        let told = users.iter().enumerate().filter_map(|(index, user)| {
            let random = user.get("type").is_some_and(|kind| kind.to_json() == "RANDOM");
            let message = match (random, user.get("password").filter(|password| !password.is_null())) {
                (true, Some(_)) => "`type: RANDOM` makes a password, so the one given here is not used; leave one out",
                (false, None) => "no password is given; for one that is made here say `type: RANDOM`",
                _ => return None,
            };
            Some(user.diagnostic(Severity::Warning, &format!("chpasswd.users[{index}]"), message))
        });
        let lines = config.get("chpasswd").map_or(&[][..], |keys| items(keys, "list"));
        let lines = lines.iter().filter(|node| match &node.value {
            Value::Scalar(scalar) => scalar.text.lines().any(|line| !line.trim().is_empty() && !line.contains(':')),
            _ => false,
        });
        let message = "a line here is `user:password`, and this has no `:`";
        told.chain(lines.map(|node| node.diagnostic(Severity::Warning, "chpasswd.list", message))).collect()
    }

    fn run(config: &Config, context: &mut Context) -> Handled {
        let context = &*context;
        let mut problems: Vec<Failure> = Vec::new();
        let mut done = Done::default();
        for wanted in wanted(config, context) {
            let result = set(&wanted, config.chpasswd.expire, context, &mut done);
            problems.extend(result.err().map(|failure| failure.under(&wanted.whose)));
        }
        problems.extend(show(&done.random, context).err());
        let mut detail = json!({});
        let random: Vec<String> = done.random.into_iter().map(|(user, _)| user).collect();
        for (key, users) in [("set", done.set), ("random", random), ("expired", done.expired)] {
            if !users.is_empty() {
                detail[key] = json!(users);
            }
        }
        if let Some(allowed) = config.ssh_pwauth.0 {
            match pwauth(allowed, context) {
                Ok(how) => detail["ssh_pwauth"] = how,
                Err(failure) => problems.push(failure),
            }
        }
        match Failure::all(problems) {
            Some(failure) => Err(failure.with_detail(detail)),
            None if detail == json!({}) => Ok(Outcome::Skipped(Reason::NothingToDo, "no password is given".to_owned())),
            None => Ok(Outcome::Ok(Some(detail))),
        }
    }
}

/// Every user who is to get a password: those of `chpasswd`, or else the default user.
fn wanted(config: &Config, context: &Context) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for entry in config.chpasswd.users.iter() {
        wanted.push(Wanted { user: entry.name.clone(), whose: named(&entry.name), secret: entry.secret() });
    }
    for (place, line) in lines(&config.chpasswd.list) {
        wanted.push(match line {
            Some((user, password)) => {
                Wanted { user: user.to_owned(), whose: named(user), secret: by_its_look(password) }
            }
            None => {
                let why = Unusable("the line is not `user:password`".to_owned());
                Wanted { user: String::new(), whose: place, secret: Err(why) }
            }
        });
    }
    if let (true, Some(password)) = (wanted.is_empty(), config.password.as_deref().filter(|text| !text.is_empty())) {
        wanted.push(match users::default_name(context) {
            Some(user) => Wanted { whose: named(&user), user, secret: by_its_look(password) },
            None => {
                let why = "it is for the default user, and `users` does not list `default`; see `chpasswd.users`";
                Wanted { user: String::new(), whose: "password".to_owned(), secret: Err(Unusable(why.to_owned())) }
            }
        });
    }
    wanted
}

fn named(user: &str) -> String {
    format!("user `{user}`")
}

fn config_failure(message: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::Config, message.to_string())
}

fn set(wanted: &Wanted, expire: bool, context: &Context, done: &mut Done) -> Result<(), Failure> {
    let secret = wanted.secret.as_ref().map_err(config_failure)?;
    let user = &wanted.user;
    // A name that is in /etc/passwd has no colon and no newline in it; an account is also found by number.
    if context.system.account(user).is_none_or(|account| account.name != *user) {
        return Err(config_failure("there is no such user; `users` makes users"));
    }
    match secret {
        Secret::Text(password) => change(user, password, false, context)?,
        Secret::Hash(hash) => change(user, hash, true, context)?,
        Secret::Random => {
            if !context.system.has_console() {
                let message = "there is no /dev/console to show a random password on; give a password or a hash";
                return Err(config_failure(message));
            }
            let password = random::password()?;
            change(user, &password, false, context)?;
            done.random.push((user.clone(), password));
        }
    }
    done.set.push(user.clone());
    if expire {
        self::expire(user, context)?;
        done.expired.push(user.clone());
    }
    Ok(())
}

/// Gives an existing user a password, as typed or as /etc/shadow keeps it.
///
/// # Errors
/// What chpasswd says, which never holds the password.
pub fn change(user: &str, password: &str, is_hash: bool, context: &Context) -> Result<(), Failure> {
    let command = context.command("chpasswd").args(is_hash.then_some("-e"));
    users::shadow(command.input(format!("{user}:{password}\n")), context)
}

/// Has the user change the password at the next login.
fn expire(user: &str, context: &Context) -> Result<(), Failure> {
    match context.run(&context.command("passwd").args(["--expire", user])) {
        // Some images have the tools of accounts without that of users.
        Err(RunError::Missing(_)) => users::shadow(context.command("chage").args(["--lastday", "0", user]), context),
        Err(error) => Err(error.into()),
        Ok(finished) if finished.success() => Ok(()),
        Ok(finished) => {
            let said = finished.last_lines(2).join("; ");
            let message = format!("the password is set and not expired: passwd {}: {said}", finished.ending());
            Err(Failure::new(Reason::CommandFailed, message))
        }
    }
}

/// Shows the passwords that were made here, in cloud-init's words, which people's scripts look for.
fn show(random: &[(String, String)], context: &Context) -> Result<(), Failure> {
    if random.is_empty() {
        return Ok(());
    }
    let mut text = "Set the following 'random' passwords\n".to_owned();
    for (user, password) in random {
        text.push_str(&format!("{user}:{password}\n"));
    }
    let shown = context.system.print_to_console(&text);
    shown.map_err(|error| {
        let failure = Failure::from(error);
        let message =
            format!("random passwords are set and could not be shown, so nobody knows them: {}", failure.message);
        Failure { message, ..failure }
    })
}

fn pwauth(allowed: bool, context: &Context) -> Result<Json, Failure> {
    if ssh_host_keys::has_sshd(&context.system) {
        return sshd::set(allowed, context).map(|file| json!({"allowed": allowed, "file": file}));
    }
    if allowed {
        let message = "ssh_pwauth: this image has no sshd; put the package openssh-server into the image";
        return Err(Failure::new(Reason::MissingProgram, message));
    }
    Ok(json!("this image has no sshd"))
}

#[cfg(test)]
mod tests;
