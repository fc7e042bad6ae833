//! Tests of what is told of spellings that only this reader takes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::tests::{Service, tree};
use super::{Argv, Each, LONE, Maybe, Mode, read, read_portable};
use crate::diagnostic::Severity;

/// What `read_portable` warns of under the key `v`, as `PATH: MESSAGE`.
fn warned<T: DeserializeOwned>(spelling: &str) -> Vec<String> {
    let node = tree(&format!("v: {spelling}\n")).0;
    let quiet = read::<T>(node.get("v").unwrap(), "v");
    assert!(quiet.value.is_some() && quiet.diagnostics.is_empty(), "{spelling}: {:?}", quiet.diagnostics);
    let checked = read_portable::<T>(node.get("v").unwrap(), "v");
    assert!(checked.value.is_some() && checked.diagnostics.iter().all(|d| d.severity == Severity::Warning));
    checked.diagnostics.iter().map(|d| format!("{}: {}", d.path, d.message)).collect()
}

#[test]
fn spellings_that_other_readers_refuse_are_told_and_taken() {
    let text = |kind: &str, path: &str| {
        vec![format!("{path}: a {kind} that is taken for text as it is spelled; put it in quotes")]
    };
    assert_eq!(warned::<bool>("'yes'"), ["v: text that is taken for true or false; take the quotes away"]);
    assert_eq!(warned::<String>("1.10"), text("number", "v"));
    assert_eq!(warned::<String>("no"), text("boolean", "v"));
    assert_eq!(warned::<Vec<String>>("[a, 5]"), text("number", "v[1]"));
    assert_eq!(warned::<Mode>("0644"), text("number", "v"));
    assert_eq!(warned::<Each<String>>("a"), [format!("v: {LONE}")]);
    assert_eq!(warned::<Each<String>>("[a, ~]").len(), 1);
    assert_eq!(warned::<BTreeMap<String, String>>("{1: a, b: 2}"), text("number", "v.b"));
    assert_eq!(
        warned::<Service>("{name: a, when: off, mode: }"),
        ["v.mode: the key has no value, so it is as if it were not there"]
    );
    for quiet in ["'1.10'", "!!str 5", "12:30", "2012-09-01", "a", "''"] {
        assert_eq!(warned::<String>(quiet), Vec::<String>::new(), "{quiet}");
    }
    assert_eq!(warned::<bool>("!!bool 'on'").len() + warned::<bool>("off").len(), 0);
    assert_eq!(warned::<u8>("'5'"), ["v: text that is taken for a number; take the quotes away"]);
    assert_eq!(warned::<Each<Argv>>("[[sleep, 5], ls]"), text("number", "v[0][1]"));
    assert_eq!(
        warned::<Each<Option<String>>>("[a, ~]"),
        ["v[1]: nothing stands here, which is as if it were not there"]
    );
    assert_eq!(warned::<Each<Maybe<String>>>("[a, ~, 1]"), text("number", "v[2]"));
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tolerant {
    #[serde(deserialize_with = "super::tolerant")]
    words: Option<Vec<String>>,
    #[serde(deserialize_with = "super::tolerant")]
    word: Option<String>,
}

#[test]
fn a_tolerant_field_takes_one_value_and_any_word_and_its_items_are_told_all_the_same() {
    assert_eq!(warned::<Tolerant>("{words: a, word: no}"), Vec::<String>::new());
    assert!(warned::<Tolerant>("{words: 5, word: 5}")[0].starts_with("v.words: a number"));
    assert!(warned::<Tolerant>("{words: [a, 5]}")[0].starts_with("v.words[1]: a number"));
}

#[test]
fn base64_is_taken_as_python_takes_it() {
    for (text, bytes) in [
        ("aGVsbG8=", Some("hello")),
        ("aGVs\n bG8=\n", Some("hello")),
        ("aGVs....\nbG8=", Some("hello")),
        ("aGVsbG8=aGVsbG8=", Some("hello")),
        ("aGVsbG9=", Some("hello")),
        ("aGVs=bG8=", Some("hello")),
        ("", Some("")),
        ("aGVsbG8", None),
        ("aGVsb", None),
        ("?", None),
        ("=", None),
    ] {
        let found = super::scalar::decode_binary(text);
        assert_eq!(found.as_deref(), bytes.map(str::as_bytes), "{text:?}");
    }
}
