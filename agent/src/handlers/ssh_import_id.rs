//! Keys that a person keeps on GitHub or Launchpad.
//!
//! They are fetched here and not by the program ssh-import-id: few images have it, it brings Python, and
//! it has no deadline. This waits for the final stage, so that a slow server never holds up sshd.

use std::borrow::Cow;
use std::time::Duration;

use kiln_schema::status::{Reason, Stage};
use kiln_schema::yaml::{self, Each};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, json};

use super::{Failure, Frequency, Handled, Handler, Outcome, users};
use crate::authorized_keys;
use crate::context::Context;
use crate::net::{Backoff, Client, Engine, Policy, Request};
use crate::ssh::PublicKey;

/// A person has a handful of keys.
const LIMIT: usize = 256 * 1024;
/// How often one id is tried.
const TRIES: u32 = 4;
const PER_TRY: Duration = Duration::from_secs(10);
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(5) };

/// Lets those keys log in.
pub struct SshImportId;

/// Keys of the keys that are fetched.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Whose keys may log in as the default user: `gh:NAME` of GitHub, `lp:NAME` of Launchpad.
    ssh_import_id: Each<KeyId>,
    /// The users, of whom each may have ids of its own.
    #[serde(deserialize_with = "yaml::tolerant")]
    users: Option<Each<users::User>>,
}

/// Somebody who keeps keys on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyId {
    server: Server,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    GitHub,
    Launchpad,
}

impl KeyId {
    /// Reads `gh:NAME`, `lp:NAME` or, as Launchpad was first, `NAME`.
    fn parse(text: &str) -> Option<Self> {
        let (server, name) = match text.split_once(':') {
            Some(("gh", name)) => (Server::GitHub, name),
            Some(("lp", name)) => (Server::Launchpad, name),
            Some(_) => return None,
            None => (Server::Launchpad, text),
        };
        // The name becomes a part of a URL.
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        let usable = !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed);
        usable.then(|| KeyId { server, name: name.to_owned() })
    }

    fn text(&self) -> String {
        let server = match self.server {
            Server::GitHub => "gh",
            Server::Launchpad => "lp",
        };
        format!("{server}:{}", self.name)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let why = "not an id of keys; write `gh:NAME` for GitHub or `lp:NAME` for Launchpad";
        KeyId::parse(text.trim()).ok_or_else(|| de::Error::custom(why))
    }
}

impl JsonSchema for KeyId {
    fn schema_name() -> Cow<'static, str> {
        "KeyId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "`gh:NAME` or `lp:NAME`", "type": "string", "pattern": "^((gh|lp):)?[A-Za-z0-9_+-][A-Za-z0-9_.+-]*$"})
    }
}

/// Where the keys are.
struct Servers {
    github: String,
    launchpad: String,
}

impl Servers {
    fn public() -> Self {
        Servers { github: "https://github.com".to_owned(), launchpad: "https://launchpad.net".to_owned() }
    }

    fn url(&self, id: &KeyId) -> String {
        match id.server {
            Server::GitHub => format!("{}/{}.keys", self.github, id.name),
            Server::Launchpad => format!("{}/~{}/+sshkeys", self.launchpad, id.name),
        }
    }
}

impl Handler for SshImportId {
    const NAME: &'static str = "ssh_import_id";
    const SUMMARY: &'static str = "Lets keys log in that people keep on GitHub or Launchpad";
    const STAGE: Stage = Stage::Final;
    const FREQUENCY: Frequency = Frequency::Instance;
    const TIMEOUT: Duration = Duration::from_secs(180);
    type Config = Config;

    fn run(config: &Config, context: &mut Context) -> Handled {
        import(config, &Servers::public(), context)
    }
}

/// Every user with the ids of its keys.
fn wanted(config: &Config, context: &Context) -> Vec<(String, Vec<KeyId>)> {
    let mut wanted: Vec<(String, Vec<KeyId>)> = users::import_ids(context);
    if let Some(default) = users::default_name(context).filter(|_| !config.ssh_import_id.is_empty()) {
        match wanted.iter_mut().find(|(user, _)| *user == default) {
            Some((_, ids)) => ids.extend(config.ssh_import_id.iter().cloned()),
            None => wanted.push((default, config.ssh_import_id.to_vec())),
        }
    }
    wanted
}

fn import(config: &Config, servers: &Servers, context: &Context) -> Handled {
    let mut problems: Vec<Failure> = Vec::new();
    let wanted = wanted(config, context);
    if wanted.is_empty() {
        if config.ssh_import_id.is_empty() {
            return Ok(Outcome::Skipped(Reason::NothingToDo, "no ids of keys are given".to_owned()));
        }
        let message =
            "these keys are for the default user, and `users` does not list `default`; give the ids to a user";
        return Err(Failure::new(Reason::Config, message));
    }
    let (client, engine) = (Client::new(&context.system), Engine::new()?);
    let mut imported = Map::new();
    for (user, ids) in wanted {
        let mut keys: Vec<PublicKey> = Vec::new();
        for id in ids {
            match fetch(&id, servers, &client, &engine, context) {
                Ok(found) => keys.extend(found),
                Err(failure) => problems.push(failure.under(&id.text())),
            }
        }
        if keys.is_empty() {
            continue;
        }
        let account = context.system.account(&user).filter(|account| account.name == user);
        let installed = match account {
            Some(account) => authorized_keys::install(&context.system, &account, &keys, None),
            None => Err(Failure::new(Reason::Config, "does not exist, so these keys let nobody in")),
        };
        match installed {
            Ok(_) => drop(imported.insert(user, json!(keys.len()))),
            Err(failure) => problems.push(failure.under(&format!("user `{user}`"))),
        }
    }
    let detail = json!({"keys": imported});
    match Failure::all(problems) {
        Some(failure) => Err(failure.with_detail(detail)),
        None => Ok(Outcome::Ok(Some(detail))),
    }
}

fn fetch(
    id: &KeyId,
    servers: &Servers,
    client: &Client,
    engine: &Engine,
    context: &Context,
) -> Result<Vec<PublicKey>, Failure> {
    let request = Request::get(&servers.url(id))?.limit(LIMIT);
    let policy = Policy::until(context.deadline).per_try(PER_TRY).tries(TRIES).backoff(BACKOFF);
    let answer = engine.run(client.send(&request, &policy))?;
    let text = String::from_utf8_lossy(&answer.body);
    // What a server says is no place for options such as `command=`.
    let keys = text.lines().filter_map(|line| PublicKey::parse(line).ok()).filter(|key| key.options.is_empty());
    // The mark by which `ssh-import-id -r` finds them again.
    let marked = keys.map(|key| {
        let comment = format!("{} # ssh-import-id {}", key.comment, id.text()).trim_start().to_owned();
        PublicKey { comment, ..key }
    });
    let marked: Vec<PublicKey> = marked.collect();
    if marked.is_empty() {
        return Err(Failure::new(Reason::Refused, "there are no keys; see that the name is right and has keys there"));
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Server as Fake, answer};
    use crate::ssh::tests::{ED25519, OTHER};
    use crate::system::FileOptions;

    /// A tree with `admin` and `bob`, both of whoever runs the test.
    fn run(tree: &std::path::Path, user_data: &str, fake: &Fake) -> (Handled, Context) {
        let context = Context::for_test(tree, user_data);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let line = |name: &str| format!("{name}:x:{uid}:{gid}::/home/{name}:/bin/sh\n");
        context.system.write("/etc/passwd", line("admin") + &line("bob"), FileOptions::default()).unwrap();
        context.system.write("/etc/os-release", "ID=debian\n", FileOptions::default()).unwrap();
        for home in ["/home/admin", "/home/bob"] {
            context.system.make_dir(home, 0o755, None).unwrap();
        }
        let servers = Servers { github: fake.url(""), launchpad: fake.url("/lp") };
        let config = super::super::read_keys::<Config>(&context.config).value.unwrap();
        (import(&config, &servers, &context), context)
    }

    fn fake() -> Fake {
        Fake::start(|request, _| match request.target.as_str() {
            "/octo.keys" => answer(200, format!("{ED25519}\nnonsense\ncommand=\"x\" {OTHER}\n")),
            "/lp/~pad/+sshkeys" => answer(200, format!("{OTHER} pad@home\r\n")),
            "/empty.keys" => answer(200, ""),
            _ => answer(404, "nobody"),
        })
    }

    fn keys_of(context: &Context, user: &str) -> String {
        context.system.read_text(format!("/home/{user}/.ssh/authorized_keys")).unwrap_or_default()
    }

    #[test]
    fn keys_of_both_servers_are_installed_with_their_mark_and_never_twice() {
        let tree = tempfile::tempdir().unwrap();
        let user_data = "{ssh_import_id: [gh:octo], users: [default, {name: bob, ssh_import_id: [pad, 'gh:octo']}]}";
        let fake = fake();
        for _ in 0..2 {
            let (handled, context) = run(tree.path(), user_data, &fake);
            assert_eq!(handled, Ok(Outcome::Ok(Some(json!({"keys": {"admin": 1, "bob": 2}})))));
            let octo = format!("{ED25519} # ssh-import-id gh:octo\n");
            assert_eq!(keys_of(&context, "admin"), octo);
            assert_eq!(keys_of(&context, "bob"), format!("{OTHER} pad@home # ssh-import-id lp:pad\n{octo}"));
        }
    }

    #[test]
    fn an_id_that_nobody_has_is_told_and_the_others_count() {
        let tree = tempfile::tempdir().unwrap();
        let user_data =
            "{ssh_import_id: [gh:nobody, gh:empty, gh:octo], users: [default, {name: joe, ssh_import_id: pad}]}";
        let (handled, context) = run(tree.path(), user_data, &fake());
        let failure = handled.unwrap_err();
        for part in ["gh:nobody: ", "404", "gh:empty: there are no keys", "user `joe`: does not exist"] {
            assert!(failure.message.contains(part), "{part}: {}", failure.message);
        }
        assert_eq!(failure.detail, Some(json!({"keys": {"admin": 1}})));
        assert!(keys_of(&context, "admin").contains("gh:octo"));
    }

    #[test]
    fn ids_without_a_user_fail_and_none_is_nothing_to_do() {
        let tree = tempfile::tempdir().unwrap();
        let (handled, _) = run(tree.path(), "{ssh_import_id: [gh:octo], users: [bob]}", &fake());
        assert_eq!(handled.unwrap_err().reason, Reason::Config);
        let (handled, _) = run(tree.path(), "users: [bob]", &fake());
        assert!(matches!(handled, Ok(Outcome::Skipped(Reason::NothingToDo, _))));
    }

    #[test]
    fn what_is_no_id_is_told_at_its_place() {
        for (text, usable) in [
            ("gh:octo-cat", true),
            ("lp:a.b+c", true),
            ("smoser", true),
            ("gl:octo", false),
            ("gh:", false),
            ("gh:../x", false),
            ("gh:a/b", false),
            ("gh:a?b", false),
            ("https://github.com/octo", false),
        ] {
            assert_eq!(KeyId::parse(text).is_some(), usable, "{text}");
        }
        let (node, _) = yaml::parse("user-data", "ssh_import_id: ['gl:x', 'gh:y']").unwrap();
        let checked = super::super::read_keys::<Config>(&node);
        assert_eq!(checked.diagnostics[0].path, "ssh_import_id[0]");
        assert_eq!(checked.value.unwrap().ssh_import_id.len(), 1);
    }
}
