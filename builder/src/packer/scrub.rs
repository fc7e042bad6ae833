//! Takes secrets out of text.
//!
//! Packer before 1.15.1 prints secrets in clear on its machine-readable output, and a script of the
//! user's may print one in any version. What is known to be secret is taken out by its value, so a value
//! that is also an ordinary word would take that word out of every line: such a secret is refused.

use kiln_schema::yaml::{Node, Value, scalar};
use serde_json::json;

/// What stands in a secret's place.
const INSTEAD: &str = "<secret>";

/// A shorter value is found in every other line by chance.
const SHORTEST: usize = 4;

/// Words that every log has.
const WORDS: [&str; 18] = [
    "admin", "changeme", "debian", "default", "false", "kiln", "none", "null", "packer", "passwd", "password", "root",
    "secret", "test", "token", "true", "ubuntu", "user",
];

/// Parts of a key's name, or of a variable's, that say that its value is secret.
const TELLING: [&str; 8] = ["passw", "secret", "token", "private", "api_key", "credential", "plain_text", "hmac"];

/// Ends of a name whose value is where a secret lies and not the secret.
const PLACES: [&str; 6] = ["_file", "_path", "_dir", "_directory", "_url", "_ttl"];

/// The values to take out.
#[derive(Clone, Debug, Default)]
pub struct Scrubber(Vec<String>);

impl Scrubber {
    /// The secrets of an environment. A weak one is left alone: it is for nothing real, as an emulator's `test`.
    pub fn of_environment(variables: impl IntoIterator<Item = (String, String)>) -> Scrubber {
        let mut scrubber = Scrubber::default();
        for (name, value) in variables {
            if is_telling(&name) {
                scrubber.add(&value);
            }
        }
        scrubber
    }

    /// Adds every value of user-data whose key says that it is secret.
    #[must_use]
    pub fn and_user_data(mut self, node: Option<&Node>) -> Scrubber {
        if let Some(node) = node {
            secrets(node, "", &mut |_, _, text| self.add(text));
        }
        self
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, INSTEAD))
    }

    /// Bytes without secrets; none where there are none in them.
    pub fn clean_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut cleaned: Option<Vec<u8>> = None;
        for secret in self.0.iter().map(String::as_bytes) {
            let text = cleaned.as_deref().unwrap_or(bytes);
            if let Some(without) = replaced(text, secret) {
                cleaned = Some(without);
            }
        }
        cleaned
    }

    /// A value of many lines, such as a private key, is printed line by line.
    fn add(&mut self, value: &str) {
        for line in value.lines().map(str::trim).filter(|line| !is_weak(line) && !line.starts_with("-----")) {
            // In a report of JSON it is spelled otherwise.
            let quoted = json!(line).to_string();
            for form in [line, quoted.trim_matches('"')] {
                if !self.0.iter().any(|known| known == form) {
                    self.0.push(form.to_owned());
                }
            }
        }
        // A longer secret first, or the rest of it would stay behind the shorter one.
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
}

/// Every secret of user-data that cannot be kept out of a log: its path and its node.
pub fn weak(node: &Node) -> Vec<(String, &Node)> {
    let mut found = Vec::new();
    secrets(node, "", &mut |path, node, text| {
        // What locks an account is no secret, and neither is a placeholder for one that is made up.
        let none = text.is_empty() || text.chars().all(|c| c.is_ascii_punctuation()) || ["R", "RANDOM"].contains(&text);
        if is_weak(text) && !none {
            found.push((path.to_owned(), node));
        }
    });
    found
}

/// Whether taking it out would take out what is none.
fn is_weak(text: &str) -> bool {
    text.chars().count() < SHORTEST || WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    TELLING.iter().any(|part| name.contains(part)) && !PLACES.iter().any(|end| name.ends_with(end))
}

/// Hands on every secret below a node: its path, the node, and the text.
fn secrets<'a>(node: &'a Node, path: &str, found: &mut dyn FnMut(&str, &'a Node, &str)) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let at = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                match entry.key.as_str() {
                    // Accounts with passwords, which tell themselves; or lines of `account:password`.
                    "chpasswd" => secrets(&entry.value, &at, found),
                    "list" if path.rsplit('.').next() == Some("chpasswd") => {
                        values(&entry.value, &at, &mut |path, node, text| {
                            text.lines().filter_map(|line| line.split_once(':')).for_each(|(_, password)| {
                                found(path, node, password.trim());
                            });
                        })
                    }
                    key if is_telling(key) || key == "key" => values(&entry.value, &at, found),
                    _ => secrets(&entry.value, &at, found),
                }
            }
        }
        Value::List(items) => {
            items.iter().enumerate().for_each(|(index, item)| secrets(item, &format!("{path}[{index}]"), found));
        }
        Value::Scalar(_) => {}
    }
}

/// Every value below a node that is text or a number: a switch, as `lock_passwd: false`, is no secret.
fn values<'a>(node: &'a Node, path: &str, found: &mut dyn FnMut(&str, &'a Node, &str)) {
    match &node.value {
        Value::Scalar(text) => {
            let meant = scalar::untyped(text);
            if !meant.is_boolean() && !meant.is_null() {
                found(path, node, &text.text);
            }
        }
        Value::List(items) => {
            items.iter().enumerate().for_each(|(index, item)| values(item, &format!("{path}[{index}]"), found));
        }
        Value::Map(entries) => {
            entries.iter().for_each(|entry| values(&entry.value, &format!("{path}.{}", entry.key), found));
        }
    }
}

fn replaced(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let mut without = Vec::new();
    let mut rest = text;
    while let Some(at) = find(rest, secret) {
        without.extend_from_slice(&rest[..at]);
        without.extend_from_slice(INSTEAD.as_bytes());
        rest = &rest[at + secret.len()..];
    }
    let any = rest.len() != text.len();
    without.extend_from_slice(rest);
    any.then_some(without)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_data(text: &str) -> Node {
        kiln_schema::yaml::parse("user-data", text).unwrap().0
    }

    fn of(text: &str) -> Scrubber {
        Scrubber::default().and_user_data(Some(&user_data(text)))
    }

    #[test]
    fn pain_15_secrets_of_the_environment_and_of_user_data_are_taken_out_and_nothing_else() {
        let node = user_data(
            "users: [{name: joe, hashed_passwd: $6$saltsalt$hash, lock_passwd: false}]\n\
             puppet: {conf: {server: puppet.example}}\nchpasswd:\n  expire: false\n  list: |\n    ann:tulip\n    \
             bob:p\"w,d\n  users: [{name: carl, password: 4711, type: text}]\n\
             ssh_keys:\n  rsa_private: |\n    -----BEGIN KEY-----\n    bGluZSBvbmU\n    bGluZSB0d28\n    -----END KEY-----\n",
        );
        let variables = [
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
            ("HOME", "/home/joe"),
            ("DB_PASSWORD", "hunter2"),
            ("VAULT_TOKEN_FILE", "/run/token"),
            ("CI_TOKEN", "test"),
        ];
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let scrubber = Scrubber::of_environment(environment).and_user_data(Some(&node));
        for (line, cleaned) in [
            ("joe in /home/joe on puppet.example: false, text", "joe in /home/joe on puppet.example: false, text"),
            ("key wJalrXUtnFEMI, hunter2", "key <secret>, <secret>"),
            ("a test of /run/token", "a test of /run/token"),
            ("ann:tulip bob:p\"w,d carl 4711", "ann:<secret> bob:<secret> carl <secret>"),
            (r#"{"line": "bob:p\"w,d"}"#, r#"{"line": "bob:<secret>"}"#),
            ("$6$saltsalt$hash bGluZSB0d28 bGluZSBvbmU", "<secret> <secret> <secret>"),
        ] {
            assert_eq!(scrubber.clean(line), cleaned);
            let bytes = scrubber.clean_bytes(line.as_bytes());
            assert_eq!(bytes.unwrap_or_else(|| line.as_bytes().to_owned()), cleaned.as_bytes());
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_cleaned_too_and_left_alone_where_nothing_is_secret() {
        let scrubber = of("token: abcdef");
        assert_eq!(scrubber.clean_bytes(b"\xff abcdef\0abcdefg"), Some(b"\xff <secret>\0<secret>g".to_vec()));
        assert_eq!(scrubber.clean_bytes(b"\xff abcde"), None);
    }

    #[test]
    fn a_secret_that_holds_another_goes_as_a_whole() {
        assert_eq!(of("a: {token: abcdefgh, secret: abcdefghijkl}").clean("abcdefghijkl"), "<secret>");
    }

    #[test]
    fn a_weak_secret_is_named_by_its_path_and_taken_out_of_no_text() {
        let weak_in = |text: &str| weak(&user_data(text)).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(weak_in("users: [{name: a, plain_text_passwd: abc}]"), ["users[0].plain_text_passwd"]);
        assert_eq!(weak_in("password: Password"), ["password"]);
        assert_eq!(weak_in("chpasswd: {list: [\"a:kiln\"]}"), ["chpasswd.list[0]"]);
        for fine in [
            "password: RANDOM",
            "users: [{name: a, passwd: '*', lock_passwd: true}]",
            "chpasswd: {expire: false, users: [{name: a, password: tulip, type: text}]}",
            "private_key_path: /a",
        ] {
            assert!(weak_in(fine).is_empty(), "{fine}");
        }
        assert_eq!(of("password: abc").clean("abc"), "abc");
    }
}
