//! Documents of YAML.

use kiln_schema::yaml::scalar;
use serde_json::Value as Json;

/// A document of YAML as cloud-init writes it, which YAML 1.1 readers such as Salt take as it is meant.
pub fn of(value: &Json) -> String {
    let mut text = String::from("---\n");
    block(value, "", &mut text);
    text + "...\n"
}

/// Adds a value in lines; `indent` stands before all but the first.
fn block(value: &Json, indent: &str, text: &mut String) {
    let deeper = format!("{indent}    ");
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            for (index, name) in names.into_iter().enumerate() {
                text.push_str(if index == 0 { "" } else { indent });
                text.push_str(&word(name));
                text.push(':');
                match &fields[name] {
                    Json::Array(items) if !items.is_empty() => {
                        text.push_str(&format!("\n{indent}"));
                        block(&fields[name], indent, text);
                    }
                    Json::Object(inner) if !inner.is_empty() => {
                        text.push_str(&format!("\n{deeper}"));
                        block(&fields[name], &deeper, text);
                    }
                    scalar => {
                        text.push(' ');
                        block(scalar, indent, text);
                    }
                }
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { indent });
                let is_block = matches!(item, Json::Object(fields) if !fields.is_empty())
                    || matches!(item, Json::Array(items) if !items.is_empty());
                text.push_str(if is_block { "-   " } else { "- " });
                block(item, &deeper, text);
            }
        }
        Json::String(string) => text.push_str(&(word(string) + "\n")),
        scalar => text.push_str(&format!("{scalar}\n")),
    }
}

/// Text as it is where no reader takes it for anything else, and else in quotes.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/' | ':' | '@' | '+' | '=');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let ends = !text.ends_with([' ', ':']) && !text.contains(": ");
    let is_text = scalar::boolean(text).is_none() && !scalar::is_null(text);
    if begins && ends && is_text && text.chars().all(plain) {
        return text.to_owned();
    }
    if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    // A string of JSON is one of YAML.
    Json::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_as_it_was_meant() {
        let value = json!({
            "b": {"list": [1, "two", [true, null], {"z": "yes", "a": {"deep": "08:30"}}], "none": {}, "no": []},
            "a": "it's: #1", "lines": "x\ny\u{e9}", "url": "https://x/y?z=1", "empty": "", "12": "- x",
        });
        let text = of(&value);
        let body = text.strip_prefix("---\n").unwrap().strip_suffix("...\n").unwrap();
        assert_eq!(kiln_schema::yaml::parse("salt", body).unwrap().0.to_json(), value);
        let other: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(other).unwrap(), value);
        // As PyYAML has it with an indent of 4.
        let expected = "b:\n    list:\n    - 1\n    - two\n    -   - true\n        - null\n    -   a:\n            deep: '08:30'\n        \
            z: 'yes'\n    'no': []\n    none: {}\n";
        assert!(text.contains(expected), "{text}");
    }
}
