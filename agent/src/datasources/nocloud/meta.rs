//! The `meta-data` of a seed.

use kiln_schema::yaml::{self, Node, Value, scalar};

/// What a `meta-data` document tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// `instance-id`.
    pub id: Option<String>,
    /// `local-hostname`, else `hostname`.
    pub hostname: Option<String>,
    /// `public-keys`, as lines of an authorized_keys file.
    pub public_keys: Vec<String>,
    /// `launch-index`, else `ami-launch-index`.
    pub launch_index: Option<u32>,
    /// All of it.
    pub all: serde_json::Value,
}

/// Reads a document; `name` is its path, for the sentence.
///
/// # Errors
/// Why it cannot be used, with its place.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Meta, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{name}: the text is not UTF-8"))?;
    let (root, _) = yaml::parse(name, text).map_err(|finding| finding.to_string())?;
    if root.is_null() {
        return Ok(Meta::default());
    }
    if !matches!(root.value, Value::Map(_)) {
        return Err(format!("{name}: it must be a mapping of keys such as `instance-id: i-1`, not {}", root.kind()));
    }
    let text = |key: &str| root.get(key).and_then(word).filter(|text| !text.is_empty());
    // The longer names are VMware's.
    let names = ["public-keys-data", "public_keys_data", "public-keys", "public_keys"];
    let keys = names.into_iter().find_map(|key| root.get(key));
    Ok(Meta {
        id: text("instance-id").or_else(|| text("instance_id")),
        hostname: text("local-hostname").or_else(|| text("local_hostname")).or_else(|| text("hostname")),
        public_keys: keys.map_or_else(Vec::new, public_keys),
        launch_index: text("launch-index").or_else(|| text("ami-launch-index")).and_then(|index| index.parse().ok()),
        all: root.to_json(),
    })
}

/// A scalar as it is spelled: an id of digits is an id.
fn word(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(value) if !value.is_null() => Some(scalar::text(value).trim().to_owned()),
        _ => None,
    }
}

/// Keys stand in a text of lines, in a list, or in a mapping by name, also as EC2 nests them.
fn public_keys(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Scalar(_) => {
            let lines = word(node).unwrap_or_default();
            let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        }
        Value::List(items) => items.iter().flat_map(public_keys).collect(),
        Value::Map(entries) => entries.iter().flat_map(|entry| public_keys(&entry.value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_every_form() {
        for text in [
            "public-keys: [ssh-ed25519 A a, ssh-rsa B]",
            "public-keys-data: \"ssh-ed25519 A a\\nssh-rsa B\"",
            "public-keys: {me: ssh-ed25519 A a, you: [ssh-rsa B]}",
            "public-keys: {0: {openssh-key: ssh-ed25519 A a}, 1: {openssh-key: ssh-rsa B}}",
            "public-keys: |\n  # mine\n  ssh-ed25519 A a\n\n  ssh-rsa B\n",
            "{\"public-keys\": [\"ssh-ed25519 A a\\n\", \"ssh-rsa B\"]}",
        ] {
            assert_eq!(parse("m", text.as_bytes()).unwrap().public_keys, ["ssh-ed25519 A a", "ssh-rsa B"], "{text}");
        }
    }

    #[test]
    fn an_id_is_its_spelling() {
        for (text, id) in [("instance-id: 0042", Some("0042")), ("instance-id: ~", None), ("", None), ("# x", None)] {
            assert_eq!(parse("m", text.as_bytes()).unwrap().id.as_deref(), id, "{text}");
        }
    }

    #[test]
    fn a_launch_index_is_a_number() {
        for (text, index) in
            [("launch-index: 2", Some(2)), ("ami-launch-index: '0'", Some(0)), ("launch-index: x", None)]
        {
            assert_eq!(parse("m", text.as_bytes()).unwrap().launch_index, index, "{text}");
        }
    }

    #[test]
    fn what_is_no_mapping_is_told_with_its_name() {
        for (text, sentence) in [
            (&b"just text"[..], "/seed/meta-data: it must be a mapping"),
            (b"a: [", "/seed/meta-data:1:5: error: not valid YAML"),
            (b"\xff", "/seed/meta-data: the text is not UTF-8"),
        ] {
            let told = parse("/seed/meta-data", text).unwrap_err();
            assert!(told.starts_with(sentence), "{told}");
        }
    }
}
