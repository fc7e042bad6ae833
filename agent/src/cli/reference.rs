//! The page of all keys, `agent/REFERENCE.md`, from the types that read them. As the schema it is made by a
//! test, and is not in the program.

#![allow(clippy::disallowed_methods, reason = "the test reads and writes the file in the source")]

use std::collections::BTreeMap;

use kiln_schema::duration;
use kiln_schema::yaml::{Node, Place};
use serde_json::{Map, Value as Json};

use super::handlers::Listed;
use super::plan::often;
use super::print::wrap;
use super::schema::made::{Declared, collect, declared};
use crate::datasources::SOURCES;
use crate::handlers::{Entry, HANDLERS, not_done};

const INTRODUCTION: &str = "\
# The keys of user-data

Made from the types that read the keys. `kiln-agent validate FILE` checks a file against them, and
`kiln-agent handlers` lists the handlers of the version that you have, with those that you added.

- [Keys from A to Z](#keys-from-a-to-z)
- [Order of the boot](#order-of-the-boot)
- [Agent](#agent): keys that no handler owns
- [Not done](#not-done): keys of cloud-init, and what to do instead
- [Datasources](#datasources)

How to read it:

- A path is written as `validate` and the status write it: `[]` is each item of a list, `NAME` a name of
  your own.
- A lone value stands for a list of one. A key without a value is as good as none.
- Text is what is spelled: `0644`, `no`, `1.10`. Where true or false is asked for, `yes`, `no`, `on` and
  `off` will do.
- A failure of a handler fails the boot; that of a best-effort one degrades it. Neither stops the next.
";

/// Deeper keys are not shown; nothing that people write is so deep.
const DEEPEST: usize = 8;

/// The page. The handlers come in the order of the boot.
pub fn page(listed: &[Listed]) -> String {
    let Declared { agent, handlers, definitions } = declared();
    let mut own = Map::new();
    agent.into_iter().for_each(|(names, schema)| collect(schema, names, &mut own));
    let mut keys: Vec<Map<String, Json>> = Vec::new();
    for (names, schema) in handlers {
        let mut properties = Map::new();
        collect(schema, names, &mut properties);
        keys.push(properties);
    }
    let mut page = Page { text: INTRODUCTION.to_owned(), place: "", definitions: &definitions, shown: BTreeMap::new() };
    page.index(listed, &own);
    page.order(listed);
    for handler in listed {
        page.heading(&handler.name);
        page.text.push_str(&format!("{}.\n", handler.summary));
        if let Some(index) = HANDLERS.iter().position(|entry| entry.name == handler.name) {
            page.turn(&HANDLERS[index]);
            page.keys(&handler.name, &keys[index]);
        }
    }
    page.heading("Agent");
    page.text.push_str("The agent's own keys.\n");
    page.keys("agent", &own);
    page.not_done(listed);
    page.heading("Datasources");
    page.text.push_str("In the order in which they are asked. `datasource` names them without detection.\n\n");
    page.row(&["source", "where it looks"]);
    page.row(&["---", "---"]);
    for source in SOURCES {
        page.row(&[&format!("`{}`", source.name()), source.summary()]);
    }
    page.text.push_str("\n`none`, at the end of such a list: the image alone says what the machine is.\n");
    page.text
}

/// The page as far as it is written.
struct Page<'a> {
    text: String,
    /// The section that is being written.
    place: &'a str,
    definitions: &'a Map<String, Json>,
    /// The definitions whose keys have been shown: under which path, and in which section.
    shown: BTreeMap<&'a str, (String, &'a str)>,
}

impl<'a> Page<'a> {
    fn heading(&mut self, title: &str) {
        self.text.push_str(&format!("\n## {title}\n\n"));
    }

    fn row(&mut self, cells: &[&str]) {
        self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }

    /// Every key with a link to what reads it, a line for each letter.
    fn index(&mut self, listed: &[Listed], own: &Map<String, Json>) {
        let mut places: BTreeMap<&str, &str> = BTreeMap::new();
        places.extend(not_done::all().map(|entry| (entry.key, "not-done")));
        for handler in listed.iter().rev() {
            places.extend(handler.keys.iter().map(|key| (key.as_str(), handler.name.as_str())));
        }
        places.extend(own.keys().map(|key| (key.as_str(), "agent")));
        let mut letters: BTreeMap<&str, String> = BTreeMap::new();
        for (key, place) in places {
            letters.entry(&key[..1]).or_default().push_str(&format!("[`{key}`](#{place}) "));
        }
        self.heading("Keys from A to Z");
        for keys in letters.into_values() {
            self.text.push_str(&wrap(&keys, "- ", "  "));
        }
    }

    fn order(&mut self, listed: &[Listed]) {
        self.heading("Order of the boot");
        self.text.push_str(
            "Stages: `local` before the network, `init` with it and beside sshd, `final` when services may start.\n\n",
        );
        self.row(&["handler", "stage", "runs", "what it does"]);
        self.row(&["---", "---", "---", "---"]);
        for handler in listed {
            let name = format!("[{0}](#{0})", handler.name);
            self.row(&[&name, handler.stage.name(), handler.frequency, &handler.summary]);
        }
    }

    /// When a handler runs, and what its failure does.
    fn turn(&mut self, entry: &Entry) {
        let mut words = format!("Stage `{}`, {}", entry.stage.name(), often(entry.frequency.name()));
        if entry.always {
            words.push_str(", also without its keys");
        } else if entry.finds.is_some() {
            words.push_str(", where it finds something to do");
        }
        // What holds without any key; one of them may change it and says so.
        if let Some(run) = entry.prepare(&Node::empty_map(Place::whole(""))).run {
            words.push_str(&format!(", for at most {}", duration::show(run.timeout)));
            if run.best_effort {
                words.push_str(". Best effort");
            }
        }
        self.text.push_str(&format!("{words}.\n"));
    }

    /// The keys of one struct.
    fn keys(&mut self, place: &'a str, properties: &'a Map<String, Json>) {
        self.place = place;
        if !properties.is_empty() {
            self.text.push('\n');
        }
        for (key, schema) in properties {
            self.key(key, schema, false, 0);
        }
    }

    /// One key, what may stand there if it is one of a few words, and the keys below it.
    fn key(&mut self, path: &str, schema: &'a Json, required: bool, depth: usize) {
        let kind = self.kind(schema, 0);
        let mut text = format!("`{path}`: {kind}");
        if required {
            text.push_str(", required");
        }
        match &schema["default"] {
            Json::String(word) if !word.is_empty() => text.push_str(&format!(", default `{word}`")),
            value @ (Json::Bool(_) | Json::Number(_)) => text.push_str(&format!(", default `{value}`")),
            _ => {}
        }
        text.push('.');
        let said = schema["description"].as_str().unwrap_or_default();
        if !said.trim_end_matches('.').eq_ignore_ascii_case(&kind) {
            text.push(' ');
            text.push_str(said);
        }
        // The line is complete when it is known whether the keys below stand elsewhere.
        let mut below = Page { text: String::new(), shown: std::mem::take(&mut self.shown), ..*self };
        let elsewhere = below.below(path, schema, depth);
        self.shown = below.shown;
        if let Some((path, place)) = elsewhere {
            text.push_str(&format!(" Its keys are those of [`{path}`](#{place})."));
        }
        self.text.push_str(&wrap(&text, "- ", "  "));
        let direct = self.resolved(schema);
        for choice in choices(direct).iter().chain(choices(self.resolved(&direct["items"]))) {
            if let (Some(word), Some(meaning)) = (choice["const"].as_str(), choice["description"].as_str()) {
                self.text.push_str(&wrap(&format!("`{word}`: {meaning}"), "  - ", "    "));
            }
        }
        self.text.push_str(&below.text);
    }

    /// The keys below a value; where they are, if they have been shown before.
    fn below(&mut self, path: &str, schema: &'a Json, depth: usize) -> Option<(String, &'a str)> {
        if depth > DEEPEST {
            return None;
        }
        let meant = self.resolved(schema);
        if let Some(keys) = meant["properties"].as_object() {
            if let Some(name) = self.name(schema) {
                if let Some(before) = self.shown.get(name) {
                    return Some(before.clone());
                }
                self.shown.insert(name, (path.to_owned(), self.place));
            }
            for (key, property) in keys {
                let required = meant["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key));
                self.key(&format!("{path}.{key}"), property, required, depth + 1);
            }
        }
        let mut elsewhere = None;
        for choice in choices(meant) {
            elsewhere = elsewhere.or(self.below(path, choice, depth + 1));
        }
        for (path, below) in [(format!("{path}[]"), "items"), (format!("{path}.NAME"), "additionalProperties")] {
            if meant[below].is_object() {
                elsewhere = elsewhere.or(self.below(&path, &meant[below], depth + 1));
            }
        }
        elsewhere
    }

    /// The name of the definition that a schema refers to, also of one that may be null.
    fn name(&self, schema: &'a Json) -> Option<&'a str> {
        let meant = match choices(schema) {
            [one, null] if null["type"] == "null" => one,
            _ => schema,
        };
        meant["$ref"].as_str()?.rsplit('/').next()
    }

    /// What a schema refers to, or itself.
    fn resolved(&self, schema: &'a Json) -> &'a Json {
        self.name(schema).and_then(|name| self.definitions.get(name)).unwrap_or(schema)
    }

    /// What a value is, in a few words.
    fn kind(&self, schema: &'a Json, depth: usize) -> String {
        let meant = self.resolved(schema);
        if depth > DEEPEST {
            return "anything".to_owned();
        }
        let words = |values: &[&Json]| {
            let words: Vec<String> = values.iter().map(|value| format!("`{}`", bare(value))).collect();
            alternatives(&words)
        };
        let choices = choices(meant);
        if !choices.is_empty() && choices.iter().all(|choice| choice["const"].is_string()) {
            return words(&choices.iter().map(|choice| &choice["const"]).collect::<Vec<_>>());
        }
        // A type that is read in its own way says in its own words what it takes.
        if let Some(said) = meant["description"].as_str()
            && !std::ptr::eq(meant, schema)
            && !meant["properties"].is_object()
        {
            return lowered(said.trim_end_matches('.'));
        }
        if let Some(values) = meant["enum"].as_array() {
            return words(&values.iter().filter(|value| !value.is_null()).collect::<Vec<_>>());
        }
        if !choices.is_empty() {
            let kinds: Vec<String> = choices.iter().map(|choice| self.kind(choice, depth + 1)).collect();
            return alternatives(&kinds);
        }
        let has = |name: &str| {
            meant["type"] == name || meant["type"].as_array().is_some_and(|types| types.iter().any(|t| t == name))
        };
        let mut kinds: Vec<String> = Vec::new();
        if has("string") {
            // Numbers and words for true and false are text as well.
            kinds.push("text".to_owned());
        } else {
            kinds.extend(has("boolean").then(|| "true or false".to_owned()));
            kinds.extend((has("integer") || has("number")).then(|| "number".to_owned()));
        }
        if has("array") {
            kinds.push(match &meant["items"] {
                Json::Null => "list".to_owned(),
                items => several("list of ", "list, each ", &self.kind(items, depth + 1)),
            });
        }
        if has("object") {
            kinds.push(match &meant["additionalProperties"] {
                below @ Json::Object(_) => {
                    several("mapping of names to ", "mapping of names, each to ", &self.kind(below, depth + 1))
                }
                _ => "mapping".to_owned(),
            });
        }
        if kinds.is_empty() { "anything".to_owned() } else { alternatives(&kinds) }
    }

    fn not_done(&mut self, listed: &[Listed]) {
        self.heading("Not done");
        self.text
            .push_str("Each is told where it stands and degrades the boot, unless its value asks for nothing.\n\n");
        for own in [false, true] {
            if own {
                self.text.push_str("\nThese are about cloud-init itself: a warning, and no failure.\n\n");
            }
            self.row(&["key", "what to do instead"]);
            self.row(&["---", "---"]);
            let external = |key: &str| listed.iter().any(|handler| handler.name == key);
            for entry in not_done::all().filter(|entry| entry.own == own && !external(entry.key)) {
                self.row(&[&format!("`{}`", entry.key), entry.instead]);
            }
        }
    }
}

/// The schemas of which one is to hold.
fn choices(schema: &Json) -> &[Json] {
    let found = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
    found.map_or(&[], Vec::as_slice)
}

fn bare(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `a, b or c`, each once.
fn alternatives(words: &[String]) -> String {
    let mut all: Vec<&str> = Vec::new();
    for word in words {
        if !all.contains(&word.as_str()) {
            all.push(word);
        }
    }
    match all.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => all.concat(),
    }
}

/// Words for several of a kind; what has words of its own is told of each.
fn several(all: &str, each: &str, kind: &str) -> String {
    let (first, rest) = kind.split_at(kind.find(' ').unwrap_or(kind.len()));
    match first {
        "text" => format!("{all}{kind}"),
        "number" | "list" | "mapping" => format!("{all}{first}s{rest}"),
        _ => format!("{each}{kind}"),
    }
}

fn lowered(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

#[test]
fn the_page_beside_the_types_is_theirs() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
    let tree = tempfile::tempdir().unwrap();
    let made = page(&super::handlers::listed(&crate::system::System::new(tree.path())));
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    let told = "is out of date: run `KILN_BLESS=1 cargo test --workspace theirs` and read the difference";
    assert!(written == made, "{} {told}\nThe first line that differs: {differs:?}", path.display());
}

mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::handlers::listed;
    use crate::system::{FileOptions, System};

    /// The lines for one key of such a type.
    fn shown(definitions: &Json, schema: &Json) -> String {
        let properties = Map::from_iter([("key".to_owned(), schema.clone())]);
        let definitions = definitions.as_object().unwrap();
        let mut page = Page { text: String::new(), place: "", definitions, shown: BTreeMap::new() };
        page.keys("section", &properties);
        page.text.trim().to_owned()
    }

    #[test]
    fn every_type_has_words() {
        for (schema, words) in [
            (json!({"type": ["string", "null"], "default": null}), "text"),
            (
                json!({"type": "boolean", "default": false, "description": "Do it."}),
                "true or false, default `false`. Do it",
            ),
            (json!({"type": ["integer", "null"]}), "number"),
            (
                json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
                "list of lists of text",
            ),
            (json!({"type": "object", "additionalProperties": {"type": "string"}}), "mapping of names to text"),
            (json!({"type": ["string", "number", "array"], "items": {"type": "number"}}), "text or list of numbers"),
            (json!({"enum": [true, "x", null]}), "`true` or `x`"),
            (json!({"oneOf": [{"const": "a"}, {"const": "b"}]}), "`a` or `b`"),
            (json!({"anyOf": [{"$ref": "#/$defs/Own"}, {"type": "null"}]}), "text, or more"),
            (json!({"type": "array", "items": {"$ref": "#/$defs/Own"}}), "list, each text, or more"),
            (json!({"$ref": "#/$defs/Lacking"}), "anything"),
            (json!(true), "anything"),
        ] {
            let own = json!({"Own": {"description": "Text, or more", "oneOf": [{"type": "string"}]}});
            assert_eq!(shown(&own, &schema), format!("- `key`: {words}."), "{schema}");
        }
    }

    #[test]
    fn keys_below_have_their_path_and_stand_once() {
        let definitions = json!({
            "Item": {"type": "object", "properties": {"name": {"type": "string"}, "mode": {"$ref": "#/$defs/Mode"}}, "required": ["name"]},
            "Mode": {"oneOf": [{"const": "a", "description": "As it is."}]},
        });
        let item = json!({"$ref": "#/$defs/Item"});
        let schema = json!({"type": "object", "properties": {
            "list": {"type": "array", "items": item},
            "names": {"type": "object", "additionalProperties": item},
        }});
        let lines = [
            "- `key`: mapping.",
            "- `key.list`: list of mappings.",
            "- `key.list[].name`: text, required.",
            "- `key.list[].mode`: `a`.",
            "  - `a`: As it is.",
            "- `key.names`: mapping of names to mappings. Its keys are those of [`key.list[]`](#section).",
        ];
        assert_eq!(shown(&definitions, &schema), lines.join("\n"));
    }

    #[test]
    fn a_type_within_itself_comes_to_an_end() {
        let definitions = json!({"Tree": {"properties": {"below": {"$ref": "#/$defs/Tree"}}}, "Loop": {"$ref": "#/$defs/Loop"},
            "Deep": {"type": "array", "items": {"$ref": "#/$defs/Deep"}}});
        let text = shown(&definitions, &json!({"$ref": "#/$defs/Tree"}));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(shown(&definitions, &json!({"$ref": "#/$defs/Deep"})).contains("anything"));
        assert_eq!(shown(&definitions, &json!({"$ref": "#/$defs/Loop"})), "- `key`: anything.");
    }

    #[test]
    fn an_external_handler_is_on_the_page_and_its_key_is_done() {
        let tree = tempfile::tempdir().unwrap();
        let system = System::new(tree.path());
        assert!(page(&listed(&system)).contains("\n| `snap` | run `snap install`"));
        let program = format!("{}/snap", kiln_schema::paths::EXTERNAL_HANDLERS);
        system.write(program, "#!/bin/sh\n", FileOptions::mode(0o755)).unwrap();
        let page = page(&listed(&system));
        assert!(!page.contains("run `snap install`"), "{page}");
        assert!(page.contains("[`snap`](#snap)") && page.contains("\n## snap\n"), "{page}");
    }
}
