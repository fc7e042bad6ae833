//! What the user-data says of passwords.

use std::borrow::Cow;
use std::fmt;

use kiln_schema::yaml::{self, Each, scalar};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

/// Keys of the passwords.
#[derive(Default, serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Whether sshd takes passwords: true, false, or `unchanged`, as without this key.
    pub ssh_pwauth: PasswordLogin,
    /// The default user's password, as text or as a hash, where `chpasswd` names no users.
    pub password: Option<String>,
    /// Passwords of users that exist by then.
    pub chpasswd: Passwords,
}

/// Passwords of several users.
#[derive(serde::Deserialize, JsonSchema)]
#[serde(default)]
pub struct Passwords {
    /// Each user who gets a password here must change it at the first login.
    pub expire: bool,
    /// The users with their passwords.
    pub users: Each<Entry>,
    /// An older spelling: lines `user:password`. `R` or `RANDOM` is a random password.
    #[serde(deserialize_with = "yaml::tolerant")]
    pub list: Each<String>,
}

impl Default for Passwords {
    fn default() -> Self {
        Passwords { expire: true, users: Each::default(), list: Each::default() }
    }
}

/// One user's password.
#[derive(serde::Deserialize, JsonSchema)]
pub struct Entry {
    /// Login name.
    pub name: String,
    /// The password; none where it is to be random.
    pub password: Option<String>,
    /// What `password` is.
    #[serde(default, rename = "type")]
    pub kind: Kind,
}

/// What a password is given as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
pub enum Kind {
    /// As it is typed.
    #[serde(rename = "text")]
    Text,
    /// As /etc/shadow keeps it, such as mkpasswd makes it.
    #[default]
    #[serde(rename = "hash")]
    Hash,
    /// Made here, and shown on the console once.
    #[serde(rename = "RANDOM")]
    Random,
}

/// Whether sshd takes passwords, if the user-data says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PasswordLogin(pub Option<bool>);

impl<'de> Deserialize<'de> for PasswordLogin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word: String = yaml::tolerant(deserializer)?;
        match scalar::boolean(&word) {
            Some(wanted) => Ok(PasswordLogin(Some(wanted))),
            None if word.is_empty() || word.eq_ignore_ascii_case("unchanged") => Ok(PasswordLogin(None)),
            None => Err(de::Error::custom("expected true, false or `unchanged`")),
        }
    }
}

impl JsonSchema for PasswordLogin {
    fn schema_name() -> Cow<'static, str> {
        "PasswordLogin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "true, false or `unchanged`", "type": ["boolean", "string", "null"]})
    }
}

/// A password to set. It has no `Debug`, so that no message can show it.
pub enum Secret {
    /// As it is typed.
    Text(String),
    /// As /etc/shadow keeps it.
    Hash(String),
    /// To be made.
    Random,
}

/// Why an entry cannot be used; never with its password.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Entry {
    /// The password, checked as far as it can be without the machine.
    ///
    /// # Errors
    /// Why it is none.
    pub fn secret(&self) -> Result<Secret, Unusable> {
        let text = self.password.as_deref().filter(|text| !text.is_empty());
        match (self.kind, text) {
            (Kind::Random, _) => Ok(Secret::Random),
            (_, None) => Err(Unusable("no password is given; for one that is made here say `type: RANDOM`".to_owned())),
            (Kind::Text, Some(text)) => one_line(text).map(Secret::Text),
            (Kind::Hash, Some(hash)) => stored_form(hash)
                .map(Secret::Hash)
                .map_err(|Unusable(why)| Unusable(format!("{why}; for the password itself say `type: text`"))),
        }
    }
}

/// A password of the older spellings, where its look tells what it is.
///
/// # Errors
/// Why it is none.
pub fn by_its_look(password: &str) -> Result<Secret, Unusable> {
    match password {
        "" => Err(Unusable("no password is given".to_owned())),
        "R" | "RANDOM" => Ok(Secret::Random),
        hash if is_hash(hash) => one_line(hash).map(Secret::Hash),
        text => one_line(text).map(Secret::Text),
    }
}

/// The lines `user:password` of the older list, each with its place for messages. A line is the user's
/// name with what is behind the first colon, or none where it has no colon.
pub fn lines(list: &[String]) -> impl Iterator<Item = (String, Option<(&str, &str)>)> {
    let lines = list.iter().flat_map(|item| item.lines()).map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(index, line)| (format!("chpasswd.list[{index}]"), line.split_once(':')))
}

/// chpasswd reads lines, so a password of two would set another user's.
///
/// # Errors
/// That it has several lines.
pub fn one_line(password: &str) -> Result<String, Unusable> {
    if password.contains(['\n', '\r', '\0']) {
        return Err(Unusable("its password has more than one line".to_owned()));
    }
    Ok(password.to_owned())
}

/// What may stand in /etc/shadow. Anything else would be stored for all to see who see that file, and
/// match no password.
///
/// # Errors
/// That it is no hash.
pub fn stored_form(text: &str) -> Result<String, Unusable> {
    if is_stored_form(text) {
        one_line(text)
    } else {
        Err(Unusable("it is no hash such as `mkpasswd` prints".to_owned()))
    }
}

/// `$ID$SALT$HASH`, with the ids of crypt(5).
fn is_hash(text: &str) -> bool {
    let parts: Vec<&str> = text.split('$').collect();
    let ids = ["1", "2a", "2b", "2y", "5", "6", "7", "gy", "y"];
    matches!(parts[..], ["", id, _, _, ..] if ids.contains(&id)) && !parts[2..].iter().any(|part| part.is_empty())
}

/// What may stand in /etc/shadow: a hash of any kind, or what matches no password.
fn is_stored_form(text: &str) -> bool {
    let bare = text.trim_start_matches('!');
    let old = || bare.len() == 13 && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'));
    (bare.is_empty() && !text.is_empty()) || bare == "*" || bare.starts_with(['$', '_']) || old()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::read_keys;

    fn read(user_data: &str) -> (Option<Config>, Vec<String>) {
        let (node, _) = yaml::parse("user-data", user_data).unwrap();
        let checked = read_keys::<Config>(&node);
        (checked.value, checked.diagnostics.iter().map(|d| format!("{}: {}", d.path, d.message)).collect())
    }

    #[test]
    fn password_logins_are_true_false_or_as_they_are() {
        for (word, wanted) in
            [("true", Some(true)), ("'yes'", Some(true)), ("no", Some(false)), ("unchanged", None), ("", None)]
        {
            let (config, messages) = read(&format!("ssh_pwauth: {word}"));
            assert_eq!(config.unwrap().ssh_pwauth.0, wanted, "{word} {messages:?}");
        }
        let (_, messages) = read("ssh_pwauth: maybe");
        assert_eq!(messages, ["ssh_pwauth: expected true, false or `unchanged`"]);
    }

    #[test]
    fn passwords_keep_their_spelling() {
        let (config, messages) = read(
            "{password: 12:30:45, chpasswd: {users: [{name: a, password: 0644, type: text}], list: \"b:R\\n c:1:2 \\n\"}}",
        );
        let config = config.unwrap();
        let number = "a number that is taken for text as it is spelled; put it in quotes";
        assert_eq!(messages, [format!("chpasswd.users[0].password: {number}")]);
        assert_eq!(config.password.as_deref(), Some("12:30:45"));
        assert!(matches!(config.chpasswd.users[0].secret(), Ok(Secret::Text(text)) if text == "0644"));
        let lines: Vec<_> = lines(&config.chpasswd.list).map(|(place, line)| (place, line.unwrap())).collect();
        assert_eq!(lines[0], ("chpasswd.list[0]".to_owned(), ("b", "R")));
        assert_eq!(lines[1], ("chpasswd.list[1]".to_owned(), ("c", "1:2")));
        assert!(config.chpasswd.expire);
    }

    #[test]
    fn a_bad_entry_is_told_and_the_others_count() {
        let user_data = "chpasswd: {users: [{name: a, password: x, type: plain}, {password: s3cret}, {name: b, type: RANDOM}], \
            list: [c: s3cret, 'd:x']}";
        let (config, messages) = read(user_data);
        let config = config.unwrap();
        assert_eq!((config.chpasswd.users.len(), config.chpasswd.list.len()), (1, 1));
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(messages[0].starts_with("chpasswd.users[0].type: ") && messages[0].contains("RANDOM"), "{messages:?}");
        assert!(!messages.concat().contains("s3cret"), "{messages:?}");
    }

    #[test]
    fn what_would_be_stored_as_it_is_must_be_a_hash() {
        let entry = |kind, password: &str| Entry { name: "a".to_owned(), password: Some(password.to_owned()), kind };
        for (password, usable) in [
            ("$6$salt$hash", true),
            ("$y$j9T$salt$hash", true),
            ("*", true),
            ("!", true),
            ("!$6$s$h", true),
            ("abJnggxhB/yWI", true),
            ("password1", false),
            ("", false),
            ("$6$a\nroot:$6$b$c", false),
        ] {
            assert_eq!(entry(Kind::Hash, password).secret().is_ok(), usable, "{password}");
        }
        assert!(entry(Kind::Text, "a\nroot:b").secret().is_err());
    }

    #[test]
    fn an_older_spelling_is_told_by_its_look() {
        assert!(matches!(by_its_look("R"), Ok(Secret::Random)) && matches!(by_its_look("RANDOM"), Ok(Secret::Random)));
        assert!(matches!(by_its_look("$6$cTpht$Z2pSYxleRWK8"), Ok(Secret::Hash(_))));
        for text in ["Rx", "$1000", "$6$", "$9$a$b", "a$6$b$c"] {
            assert!(matches!(by_its_look(text), Ok(Secret::Text(_))), "{text}");
        }
        assert!(by_its_look("").is_err());
    }
}
