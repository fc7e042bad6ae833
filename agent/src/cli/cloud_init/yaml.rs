//! JSON values as YAML in blocks, for `--format yaml`.

use serde_json::Value as Json;

/// The document, from its three dashes on.
pub fn document(value: &Json) -> String {
    let mut text = "---\n".to_owned();
    block(value, 0, &mut text);
    text
}

fn block(value: &Json, indent: usize, text: &mut String) {
    let blanks = " ".repeat(indent);
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                text.push_str(&format!("{blanks}{}:", word(name)));
                below(value, indent + 4, text);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for item in items {
                match item {
                    // What is nested in a list is JSON, which is YAML as well.
                    Json::String(item) => text.push_str(&format!("{blanks}- {}\n", word(item))),
                    item => text.push_str(&format!("{blanks}- {item}\n")),
                }
            }
        }
        Json::String(value) => text.push_str(&format!("{blanks}{}\n", word(value))),
        other => text.push_str(&format!("{blanks}{other}\n")),
    }
}

fn below(value: &Json, indent: usize, text: &mut String) {
    let nested = match value {
        Json::Object(fields) => !fields.is_empty(),
        Json::Array(items) => !items.is_empty(),
        _ => false,
    };
    text.push(if nested { '\n' } else { ' ' });
    block(value, if nested { indent } else { 0 }, text);
}

/// A text as it is where it can only be read as that text, and else in quotes.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/');
    let told =
        matches!(text.to_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n");
    let sound = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.ends_with(' ') && text.chars().all(plain);
    if sound && !told { text.to_owned() } else { Json::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let value = json!({
            "errors": ["users: \"x\"\nnext", "- no", "plain words", "true", ""],
            "recoverable_errors": {"WARNING": ["a #b"], "none": {}},
            "stage": null, "start": 1.5, "empty": [], "deep": {"a": {"b": [1, {"c": "d"}]}}, "on": "off", "12": "0644",
        });
        let text = document(&value);
        let (node, _) = kiln_schema::yaml::parse("status", text.strip_prefix("---\n").unwrap()).unwrap();
        assert_eq!(node.to_json(), value, "{text}");
    }
}
