//! `#cloud-config-jsonp`: changes of the configuration so far, as RFC 6902 has them.
//!
//! They are made on the tree and not on JSON, so that every value keeps its spelling and its place.

use kiln_schema::diagnostic::{Diagnostic, Severity};
use kiln_schema::yaml::{Entry, Node, Value};

/// Makes all changes, or none.
///
/// # Errors
/// The first change that cannot be made, with its place.
pub fn apply(config: &Node, patch: &Node) -> Result<Node, Box<Diagnostic>> {
    let Value::List(changes) = &patch.value else {
        let message =
            format!("a patch must be a list of changes such as {{op: add, path: /a, value: b}}, not {}", patch.kind());
        return Err(Box::new(patch.diagnostic(Severity::Error, "", message)));
    };
    let mut root = config.clone();
    for (index, change) in changes.iter().enumerate() {
        make(&mut root, change).map_err(|why| {
            let message = format!("{why}; nothing of the patch is used");
            Box::new(change.diagnostic(Severity::Error, &format!("[{index}]"), message))
        })?;
    }
    if !matches!(root.value, Value::Map(_)) {
        let message =
            format!("the patch leaves {} where a mapping of keys must be; nothing of it is used", root.kind());
        return Err(Box::new(patch.diagnostic(Severity::Error, "", message)));
    }
    Ok(root)
}

fn make(root: &mut Node, change: &Node) -> Result<(), String> {
    if !matches!(change.value, Value::Map(_)) {
        return Err(format!("a change must be a mapping with `op` and `path`, not {}", change.kind()));
    }
    let word = |key: &str| match change.get(key).map(|node| &node.value) {
        Some(Value::Scalar(text)) => Ok(text.text.as_str()),
        Some(_) => Err(format!("`{key}` must be text")),
        None => Err(format!("`{key}` is missing")),
    };
    let value = || change.get("value").cloned().ok_or_else(|| "`value` is missing".to_owned());
    let operation = word("op")?;
    let path = word("path")?;
    match operation {
        "add" => add(root, path, value()?),
        "remove" => remove(root, path).map(drop),
        "replace" => {
            *find(root, path)? = value()?;
            Ok(())
        }
        "move" => {
            let from = word("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(format!("`{from}` cannot be moved into itself"));
            }
            let moved = remove(root, from)?;
            add(root, path, moved)
        }
        "copy" => {
            let copy = find(root, word("from")?)?.clone();
            add(root, path, copy)
        }
        "test" if find(root, path)?.to_json() == value()?.to_json() => Ok(()),
        // The value may be a secret.
        "test" => Err(format!("the test of `{path}` fails, as another value is there")),
        _ => Err(format!("`{operation}` is no operation; there are add, remove, replace, move, copy and test")),
    }
}

/// The words of a pointer: `/a~1b/0` is `a/b` and `0`.
fn words(pointer: &str) -> Result<Vec<String>, String> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let words = pointer.strip_prefix('/').ok_or_else(|| format!("the pointer `{pointer}` must begin with `/`"))?;
    Ok(words.split('/').map(|word| word.replace("~1", "/").replace("~0", "~")).collect())
}

/// The place of an item; of so many items, or one more where a new one may come.
fn position(word: &str, places: usize) -> Option<usize> {
    let is_number = word == "0" || (!word.starts_with('0') && word.bytes().all(|b| b.is_ascii_digit()));
    word.parse().ok().filter(|at| is_number && *at < places)
}

fn walk<'a>(root: &'a mut Node, words: &[String], pointer: &str) -> Result<&'a mut Node, String> {
    let mut node = root;
    for word in words {
        let next = match &mut node.value {
            Value::Map(entries) => entries.iter_mut().find(|entry| entry.key == *word).map(|entry| &mut entry.value),
            Value::List(items) => position(word, items.len()).and_then(|at| items.get_mut(at)),
            Value::Scalar(_) => None,
        };
        node = next.ok_or_else(|| format!("nothing is at `{pointer}` (`{word}` is not there)"))?;
    }
    Ok(node)
}

fn find<'a>(root: &'a mut Node, pointer: &str) -> Result<&'a mut Node, String> {
    walk(root, &words(pointer)?, pointer)
}

fn add(root: &mut Node, pointer: &str, value: Node) -> Result<(), String> {
    let words = words(pointer)?;
    let Some((last, folder)) = words.split_last() else {
        *root = value;
        return Ok(());
    };
    match &mut walk(root, folder, pointer)?.value {
        Value::Map(entries) => {
            let entry = Entry { key: last.clone(), place: value.place.clone(), value };
            match entries.iter_mut().find(|entry| entry.key == *last) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        }
        Value::List(items) if last == "-" => items.push(value),
        Value::List(items) => match position(last, items.len() + 1) {
            Some(at) => items.insert(at, value),
            None => return Err(format!("`{last}` of `{pointer}` is no place in a list of {}", items.len())),
        },
        Value::Scalar(_) => return Err(format!("`{pointer}` leads into a value that is no mapping and no list")),
    }
    Ok(())
}

fn remove(root: &mut Node, pointer: &str) -> Result<Node, String> {
    let words = words(pointer)?;
    let Some((last, folder)) = words.split_last() else {
        return Err("the whole configuration cannot be taken away".to_owned());
    };
    let missing = || format!("nothing is at `{pointer}` (`{last}` is not there)");
    match &mut walk(root, folder, pointer)?.value {
        Value::Map(entries) => {
            let at = entries.iter().position(|entry| entry.key == *last).ok_or_else(missing)?;
            Ok(entries.remove(at).value)
        }
        Value::List(items) => Ok(items.remove(position(last, items.len()).ok_or_else(missing)?)),
        Value::Scalar(_) => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use kiln_schema::yaml;

    use super::*;

    fn patched(config: &str, patch: &str) -> Result<String, String> {
        let node = |text: &str| yaml::parse("t", text).unwrap().0;
        apply(&node(config), &node(patch)).map(|node| node.to_json().to_string()).map_err(|why| why.to_string())
    }

    #[test]
    fn every_operation_does_what_the_standard_says() {
        for (config, patch, result) in [
            (
                "{}",
                "[{op: add, path: /a, value: {b: 1}}, {op: add, path: /a/c, value: ~}]",
                r#"{"a":{"b":1,"c":null}}"#,
            ),
            ("{a: 1}", "[{op: add, path: /a, value: 2}]", r#"{"a":2}"#),
            ("{a: [1, 3]}", "[{op: add, path: /a/1, value: 2}, {op: add, path: /a/-, value: 4}]", r#"{"a":[1,2,3,4]}"#),
            ("{a: [1]}", "[{op: add, path: /a/1, value: 2}]", r#"{"a":[1,2]}"#),
            ("{a: [1, 2], b: 1}", "[{op: remove, path: /a/0}, {op: remove, path: /b}]", r#"{"a":[2]}"#),
            ("{a: 1}", "[{op: replace, path: /a, value: [x]}]", r#"{"a":["x"]}"#),
            ("{a: {b: 1}, c: []}", "[{op: move, from: /a/b, path: /c/-}]", r#"{"a":{},"c":[1]}"#),
            ("{a: {b: 1}}", "[{op: copy, from: /a, path: /a/c}]", r#"{"a":{"b":1,"c":{"b":1}}}"#),
            ("{a/b: 1, 'm~n': 2}", "[{op: remove, path: /a~1b}, {op: remove, path: /m~0n}]", "{}"),
            ("{a: 1}", "[{op: test, path: /a, value: 1}, {op: test, path: '', value: {a: 1}}]", r#"{"a":1}"#),
            ("{a: 1}", "[{op: add, path: '', value: {b: 1}}]", r#"{"b":1}"#),
            ("{a: 1}", "[]", r#"{"a":1}"#),
        ] {
            assert_eq!(patched(config, patch).as_deref(), Ok(result), "{patch}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_made_is_told_with_its_place_and_no_value() {
        for (patch, sentence) in [
            (
                "- {op: add, path: /a, value: 1}\n- {op: remove, path: /nope}",
                "t:2:3: error: [1]: nothing is at `/nope`",
            ),
            ("- {op: add, path: /x/y, value: 1}", "[0]: nothing is at `/x/y` (`x` is not there)"),
            ("- {op: add, path: /l/2, value: 1}", "`2` of `/l/2` is no place in a list of 1"),
            ("- {op: add, path: /l/01, value: 1}", "no place in a list"),
            ("- {op: replace, path: /l/-, value: 1}", "nothing is at `/l/-`"),
            ("- {op: add, path: /s/x, value: 1}", "leads into a value"),
            ("- {op: test, path: /s, value: hunter2}", "the test of `/s` fails"),
            ("- {op: move, from: /l, path: /l/0}", "cannot be moved into itself"),
            ("- {op: remove, path: ''}", "cannot be taken away"),
            ("- {op: add, path: s, value: 1}", "must begin with `/`"),
            ("- {op: add, path: /s}", "`value` is missing"),
            ("- {path: /s}", "`op` is missing"),
            ("- {op: [add], path: /s}", "`op` must be text"),
            ("- {op: merge, path: /s}", "`merge` is no operation"),
            ("- add", "must be a mapping with `op` and `path`, not text"),
            ("a: 1", "a patch must be a list of changes"),
            ("- {op: replace, path: '', value: [1]}", "the patch leaves a list"),
        ] {
            let told = patched("{l: [1], s: secret}", patch).unwrap_err();
            assert!(told.contains(sentence), "{patch}: {told}");
            assert!(!told.contains("hunter2") && !told.contains("secret"), "{told}");
        }
    }
}
