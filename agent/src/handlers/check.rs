//! Findings that a type cannot have: words of a small vocabulary, and lists that are none.

use kiln_schema::Severity;
use kiln_schema::diagnostic::{Diagnostic, nearest};
use kiln_schema::yaml::{Node, Value};

use super::items;

/// That a key which holds a list holds one value, which is taken for a list of one, or an empty list.
pub fn list(config: &Node, key: &str) -> Option<Diagnostic> {
    let node = config.get(key)?;
    let message = match &node.value {
        Value::List(items) if items.is_empty() => "the list is empty",
        Value::Scalar(_) if !node.is_null() => "a list is expected here; the value is taken for its only item",
        _ => return None,
    };
    Some(node.diagnostic(Severity::Warning, key, message))
}

/// Those of the values at a key which are none of `words`, whatever their case.
pub fn words(config: &Node, key: &str, words: &[&str]) -> Vec<Diagnostic> {
    items(config, key).iter().filter_map(|node| word(node, key, words)).collect()
}

/// That a value is none of `words`, whatever its case; what is no word at all is the type's to tell.
pub fn word(node: &Node, path: &str, words: &[&str]) -> Option<Diagnostic> {
    let Value::Scalar(scalar) = &node.value else { return None };
    let text = scalar.text.trim().to_lowercase();
    if node.is_null() || words.contains(&text.as_str()) {
        return None;
    }
    let mut finding =
        node.diagnostic(Severity::Warning, path, format!("`{}` is none of {}", scalar.text, words.join(", ")));
    finding.suggestion = nearest(&text, words.iter().copied());
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        kiln_schema::yaml::parse("doc", text).unwrap().0
    }

    #[test]
    fn one_value_and_none_are_told_where_a_list_is_expected() {
        for (text, told) in [
            ("a: [x]", None),
            ("a:", None),
            ("b: 1", None),
            ("a: []", Some("the list is empty")),
            ("a: x", Some("a list is expected here; the value is taken for its only item")),
        ] {
            assert_eq!(list(&read(text), "a").map(|finding| finding.message).as_deref(), told, "{text}");
        }
    }

    #[test]
    fn a_word_outside_of_the_vocabulary_is_told_with_the_nearest_one() {
        let told = words(&read("a: [RSA, ed25591]"), "a", &["rsa", "ed25519"]);
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["doc:1:10: warning: a: `ed25591` is none of rsa, ed25519; did you mean `ed25519`?"]);
        assert!(words(&read("a:"), "a", &["rsa"]).is_empty());
    }
}
