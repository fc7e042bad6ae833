//! A tree as YAML in block style.

use kiln_schema::yaml::{Node, Scalar, Value, scalar};

/// The text of a tree. Plain scalars keep their spelling; others are quoted where they must be.
pub fn emit(node: &Node) -> String {
    let mut text = String::new();
    write(node, 0, &mut text);
    text
}

fn write(node: &Node, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match &node.value {
        Value::Scalar(scalar) => text.push_str(&format!("{indent}{}\n", word(scalar))),
        Value::Map(entries) => {
            for entry in entries {
                let key = Scalar { text: entry.key.clone(), plain: false, tag: None };
                text.push_str(&format!("{indent}{}:", word(&key)));
                value(&entry.value, depth, text);
            }
        }
        Value::List(items) => {
            for item in items {
                let before = text.len();
                write(item, depth + 1, text);
                if text.len() == before {
                    text.push_str(&format!("{indent}- {}\n", empty(item)));
                } else {
                    // The first line of the item begins with its indent, and the dash stands in that.
                    text.replace_range(before + 2 * depth..before + 2 * depth + 2, "- ");
                }
            }
        }
    }
}

/// What follows the colon of a key.
fn value(node: &Node, depth: usize, text: &mut String) {
    match &node.value {
        Value::Scalar(scalar) => text.push_str(&format!(" {}\n", word(scalar))),
        Value::Map(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => text.push_str(" []\n"),
        _ => {
            text.push('\n');
            write(node, depth + 1, text);
        }
    }
}

fn empty(node: &Node) -> &'static str {
    if matches!(node.value, Value::Map(_)) { "{}" } else { "[]" }
}

fn word(scalar: &Scalar) -> String {
    if scalar.is_null() {
        return "null".to_owned();
    }
    let text = scalar::text(scalar);
    if scalar.plain && scalar.tag.is_none() && !text.contains('\n') {
        return text;
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let plain = Scalar { text: text.clone(), plain: true, tag: None };
    let typed = matches!(scalar.tag.as_deref(), Some("int" | "float" | "bool"));
    let bare = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(safe)
        && (typed || scalar::untyped(&plain).is_string());
    if bare { text } else { serde_json::Value::String(text).to_string() }
}

#[cfg(test)]
mod tests {
    use kiln_schema::yaml::parse;

    use super::*;

    #[test]
    fn what_is_written_reads_as_what_was_read() {
        let text = "a: &x {n: 1, yes: 'yes', '1': \"0x1\", m: '52:54:00:12:34:00'}\nb: [[], {}, [1, [2, 3]], {c: ~, d: [e]}]\n\
            c:\n  - <<: *x\n    t: !!str 12\n    w: \"a\\nb: c\"\n    i: !!int '7'\nd: on\ne: []\nf: {}\ng: a plain, text\nh: 10.0.0.1/24\n";
        let node = parse("in", text).unwrap().0;
        let written = emit(&node);
        assert_eq!(parse("out", &written).unwrap().0.to_json(), node.to_json(), "{written}");
        for line in ["  \"yes\": \"yes\"", "  n: 1", "  m: \"52:54:00:12:34:00\"", "d: on", "h: 10.0.0.1/24", "  - []"]
        {
            assert!(written.lines().any(|l| l == line), "{line} in {written}");
        }
    }
}
