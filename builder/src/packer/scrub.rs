//! Takes secrets out of text.
//!
//! Packer before 1.15.1 prints secrets in clear on its machine-readable output, and a script of the
//! user's may print one in any version. What is known to be secret is taken out by its value.

use kiln_schema::yaml::{Node, Value};

/// What stands in a secret's place.
const INSTEAD: &str = "<secret>";

/// A shorter value is no secret, and to take it out would make the text unreadable.
const SHORTEST: usize = 8;

/// Variables of the environment that hold secrets.
const VARIABLES: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Parts of a key's name that say that its value is secret.
const TELLING: [&str; 8] = ["passw", "secret", "token", "private", "api_key", "credential", "plain_text", "hmac"];

/// The values to take out.
#[derive(Clone, Debug, Default)]
pub struct Scrubber(Vec<String>);

impl Scrubber {
    /// The secrets of an environment.
    pub fn of_environment(variables: impl IntoIterator<Item = (String, String)>) -> Scrubber {
        let mut scrubber = Scrubber::default();
        for (name, value) in variables {
            if VARIABLES.contains(&name.as_str()) {
                scrubber.add(&value);
            }
        }
        scrubber
    }

    /// Adds every value of user-data whose key says that it is secret.
    #[must_use]
    pub fn and_user_data(mut self, node: Option<&Node>) -> Scrubber {
        if let Some(node) = node {
            self.gather(node, false);
        }
        self
    }

    /// The text without secrets.
    pub fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, INSTEAD))
    }

    fn gather(&mut self, node: &Node, secret: bool) {
        match &node.value {
            Value::Scalar(scalar) if secret => self.add(&scalar.text),
            Value::Scalar(_) => {}
            Value::List(items) => items.iter().for_each(|item| self.gather(item, secret)),
            Value::Map(entries) => entries.iter().for_each(|entry| {
                let key = entry.key.to_ascii_lowercase().replace('-', "_");
                let told = TELLING.iter().any(|part| key.contains(part)) || key == "key";
                self.gather(&entry.value, secret || told);
            }),
        }
    }

    /// A value of many lines, such as a private key, is printed line by line.
    fn add(&mut self, value: &str) {
        for line in value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST && !line.starts_with("-----")) {
            if !self.0.iter().any(|known| known == line) {
                self.0.push(line.to_owned());
            }
        }
        // A longer secret first, or the rest of it would stay behind the shorter one.
        self.0.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_environment_and_of_user_data_are_taken_out() {
        let text = "users: [{name: joe, hashed_passwd: $6$saltsalt$hash}]\npuppet: {conf: {server: puppet.example}}\n\
                    ssh_keys:\n  rsa_private: |\n    -----BEGIN KEY-----\n    bGluZSBvbmU\n    bGluZSB0d28\n    -----END KEY-----\n";
        let (node, _) = kiln_schema::yaml::parse("user-data", text).unwrap();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = [variable("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"), variable("HOME", "/home/joe")];
        let scrubber = Scrubber::of_environment(environment).and_user_data(Some(&node));
        assert_eq!(
            scrubber.clean("joe /home/joe wJalrXUtnFEMI $6$saltsalt$hash puppet.example bGluZSB0d28 bGluZSBvbmU"),
            "joe /home/joe <secret> <secret> puppet.example <secret> <secret>"
        );
    }

    #[test]
    fn a_secret_that_holds_another_goes_as_a_whole() {
        let (node, _) = kiln_schema::yaml::parse("user-data", "a: {token: abcdefgh, secret: abcdefghijkl}").unwrap();
        assert_eq!(Scrubber::default().and_user_data(Some(&node)).clean("abcdefghijkl"), "<secret>");
    }

    #[test]
    fn a_short_word_is_left_alone() {
        let lab = [("AWS_SECRET_ACCESS_KEY".to_owned(), "lab".to_owned())];
        assert_eq!(Scrubber::of_environment(lab).clean("the lab"), "the lab");
    }
}
