//! What each type of field reads from each spelling, and what an error says.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Argv, Checked, Each, Mode, Named, Node, parse, read, read_rest};
use crate::diagnostic::{Diagnostic, Severity};

pub fn tree(text: &str) -> (Node, Vec<Diagnostic>) {
    parse("doc", text).unwrap_or_else(|finding| panic!("{text:?}: {}", finding.render()))
}

fn check<T: DeserializeOwned>(text: &str) -> Checked<T> {
    read(&tree(text).0, "")
}

/// The value of the key `v`, or the first error.
fn value<T: DeserializeOwned + Debug>(spelling: &str) -> Result<T, String> {
    let node = tree(&format!("v: {spelling}\n")).0;
    let checked = read::<T>(node.get("v").unwrap(), "v");
    match checked.diagnostics.first() {
        Some(finding) => Err(finding.message.clone()),
        None => Ok(checked.value.unwrap()),
    }
}

/// Every row: a spelling and what the type makes of it; an error begins with the text.
fn table<T: DeserializeOwned + Debug + PartialEq>(rows: &[(&str, Result<T, &str>)]) {
    for (spelling, expected) in rows {
        let found = value::<T>(spelling);
        match (expected, &found) {
            (Ok(expected), Ok(found)) => assert_eq!(found, expected, "{spelling:?}"),
            (Err(start), Err(message)) => assert!(message.starts_with(start), "{spelling:?}: {message}"),
            _ => panic!("{spelling:?}: expected {expected:?}, found {found:?}"),
        }
    }
}

#[test]
fn a_boolean_is_a_word_of_yaml_1_1() {
    for word in ["yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE", "'yes'", "\"on\"", "!!bool yes"] {
        assert_eq!(value::<bool>(word), Ok(true), "{word}");
    }
    for word in ["no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE", "'no'", "\"off\""] {
        assert_eq!(value::<bool>(word), Ok(false), "{word}");
    }
    table::<bool>(&[
        ("y", Err("expected true or false, found text")),
        ("oN", Err("expected true or false, found text")),
        ("1", Err("expected true or false, found a number")),
        ("[yes]", Err("expected true or false, found a list")),
        ("~", Err("expected true or false, found nothing")),
        ("''", Err("expected true or false, found text")),
    ]);
}

#[test]
fn a_whole_number_is_never_base_60_and_octal_only_with_a_zero() {
    table::<i64>(&[
        ("644", Ok(644)),
        ("0644", Ok(0o644)),
        ("0o17", Ok(0o17)),
        ("0x1F", Ok(31)),
        ("0b101", Ok(5)),
        ("1_000", Ok(1000)),
        ("-7", Ok(-7)),
        ("+7", Ok(7)),
        ("'8080'", Ok(8080)),
        ("!!int '7'", Ok(7)),
        ("12:30", Err("expected a whole number, found text")),
        ("08", Err("expected a whole number, found text")),
        ("1e3", Err("expected a whole number, found text")),
        ("1.0", Err("expected a whole number, found a number")),
        ("0x", Err("expected a whole number, found text")),
        ("_1", Err("expected a whole number, found text")),
        ("yes", Err("expected a whole number, found a boolean")),
        ("~", Err("expected a whole number, found nothing")),
        ("9223372036854775808", Err("the number is too large or too small here")),
        ("999999999999999999999999999999999999999999", Err("expected a whole number")),
    ]);
    table::<u8>(&[("255", Ok(255)), ("256", Err("the number is too large")), ("-1", Err("the number is too large"))]);
}

#[test]
fn a_float_takes_whole_numbers_and_needs_a_dot_before_an_exponent() {
    table::<f64>(&[
        ("1.5", Ok(1.5)),
        ("7", Ok(7.0)),
        ("1.0e+3", Ok(1000.0)),
        (".5", Ok(0.5)),
        ("1.", Ok(1.0)),
        ("-.inf", Ok(f64::NEG_INFINITY)),
        ("1_0.5", Ok(10.5)),
        ("1e3", Err("expected a number, found text")),
        ("1.0e3", Err("expected a number, found text")),
        ("1.2.3", Err("expected a number, found text")),
        ("12:30.5", Err("expected a number, found text")),
        (".", Err("expected a number, found text")),
    ]);
    assert!(value::<f64>(".nan").unwrap().is_nan());
}

#[test]
fn text_keeps_its_spelling() {
    for spelling in
        ["no", "0644", "08", "1.10", "12:30", "1e3", "2012-09-01", "2001-12-14t21:59:43.10-05:00", "0o17", "1_000"]
    {
        assert_eq!(value::<String>(spelling).as_deref(), Ok(spelling));
    }
    table::<String>(&[
        ("'~'", Ok("~".into())),
        ("~", Ok(String::new())),
        ("", Ok(String::new())),
        ("''", Ok(String::new())),
        ("!!str 0644", Ok("0644".into())),
        ("! 0644", Ok("0644".into())),
        ("!!binary aGVsbG8=", Ok("hello".into())),
        ("\"x\\tA\\x42\\u0043\"", Ok("x\tABC".into())),
        ("'it''s'", Ok("it's".into())),
        ("a # note", Ok("a".into())),
        ("a #b", Ok("a".into())),
        ("a#b", Ok("a#b".into())),
        ("|\n  a\n   b\n\n", Ok("a\n b\n".into())),
        (">-\n  a\n  b\n", Ok("a b".into())),
        ("|+\n  a\n", Ok("a\n\n".into())),
        ("|2\n    a\n", Ok("  a\n".into())),
        ("one\n  two", Ok("one two".into())),
        ("http://a/b:80", Ok("http://a/b:80".into())),
        ("00:11:22:33:44:55", Ok("00:11:22:33:44:55".into())),
        ("[a]", Err("expected text, found a list")),
        ("{a: b}", Err("expected text, found a mapping")),
    ]);
}

#[test]
fn an_option_is_none_where_nothing_stands() {
    table::<Option<String>>(&[
        ("~", Ok(None)),
        ("", Ok(None)),
        ("null", Ok(None)),
        ("Null", Ok(None)),
        ("!!null ''", Ok(None)),
        ("nUll", Ok(Some("nUll".into()))),
        ("'null'", Ok(Some("null".into()))),
        ("''", Ok(Some(String::new()))),
    ]);
    table::<Option<bool>>(&[("~", Ok(None)), ("off", Ok(Some(false))), ("''", Err("expected true or false"))]);
}

#[test]
fn a_mode_is_octal_however_it_is_spelled() {
    for (spelling, mode) in [
        ("0644", 0o644),
        ("'0644'", 0o644),
        ("644", 0o644),
        ("\"644\"", 0o644),
        ("0o644", 0o644),
        ("'0o644'", 0o644),
        ("04755", 0o4755),
        ("0", 0),
        ("00600", 0o600),
    ] {
        assert_eq!(value::<Mode>(spelling), Ok(Mode(mode)), "{spelling}");
    }
    for spelling in ["0x1a4", "08", "-644", "6_44", "10000", "rw-r--r--", "u=rw", "420.0", "''"] {
        let message = value::<Mode>(spelling).unwrap_err();
        assert_eq!(message, "not a file mode; write octal digits such as '0644'", "{spelling}");
    }
}

#[test]
fn a_list_takes_one_item_and_nothing() {
    let texts = |items: &[&str]| Ok(Each(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>()));
    table::<Each<String>>(&[
        ("[a, 1, yes]", texts(&["a", "1", "yes"])),
        ("a", texts(&["a"])),
        ("~", texts(&[])),
        ("[]", texts(&[])),
        ("[a, ]", texts(&["a"])),
        ("\n- a\n- b", texts(&["a", "b"])),
        ("\n  - a", texts(&["a"])),
        ("{a: b}", Err("expected text, found a mapping")),
    ]);
    table::<Vec<u16>>(&[("80", Ok(vec![80])), ("[80, '443']", Ok(vec![80, 443])), ("[a]", Err("expected a whole"))]);
}

#[test]
fn a_bad_item_is_told_with_its_place_and_the_others_are_kept() {
    let text = "v:\n- 1\n- x\n- 3\n- [4]\n- 5\n";
    let checked = read::<Each<u8>>(tree(text).0.get("v").unwrap(), "v");
    assert_eq!(checked.value.unwrap().0, [1, 3, 5]);
    let told: Vec<_> = checked.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "doc:3:3: error: v[1]: expected a whole number, found text",
            "doc:5:3: error: v[3]: expected a whole number, found a list"
        ]
    );
}

#[test]
fn a_bad_value_of_a_mapping_is_told_with_its_place_and_the_others_are_kept_in_their_order() {
    let text = "v:\n  z: 1\n  bad: x\n  a: 3\n  worse: {b: 4}\n  none:\n";
    let checked = read::<Named<u8>>(tree(text).0.get("v").unwrap(), "v");
    assert_eq!(checked.value.unwrap().0, [("z".to_owned(), 1), ("a".to_owned(), 3)]);
    let told: Vec<_> = checked.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "doc:3:8: error: v.bad: expected a whole number, found text",
            "doc:5:10: error: v.worse: expected a whole number, found a mapping",
            "doc:6:7: error: v.none: expected a whole number, found nothing"
        ]
    );
    let pairs = |pairs: &[(&str, &str)]| {
        Ok(Named(pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<Vec<_>>()))
    };
    table::<Named<String>>(&[
        ("{b: 0644, a: no}", pairs(&[("b", "0644"), ("a", "no")])),
        ("~", pairs(&[])),
        ("{}", pairs(&[])),
        ("[a]", Err("expected a mapping, found a list")),
        ("a", Err("expected a mapping, found text")),
        ("{a: [b]}", Err("expected text, found a list")),
    ]);
}

#[test]
fn a_bad_entry_of_a_mapping_in_a_struct_leaves_the_rest_of_the_struct() {
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Source {
        line: String,
        keep: bool,
    }
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Keys {
        sources: Named<Source>,
        conf: Option<String>,
    }
    let checked = check::<Keys>("sources:\n  a: {line: x, kep: yes}\n  b: {keep: [1]}\n  c: [y]\nconf: z\n");
    let a = Source { line: "x".to_owned(), keep: false };
    let expected = Keys { sources: Named(vec![("a".to_owned(), a)]), conf: Some("z".to_owned()) };
    assert_eq!(checked.value, Some(expected));
    let paths: Vec<_> = checked.diagnostics.iter().map(|finding| (finding.severity, finding.path.as_str())).collect();
    let error = Severity::Error;
    assert_eq!(paths, [(Severity::Warning, "sources.a.kep"), (error, "sources.b.keep"), (error, "sources.c")]);
}

#[test]
fn the_rest_of_what_is_wrong_is_read_where_it_is_asked_for() {
    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Parts {
        a: u8,
        b: Option<bool>,
        c: Each<u8>,
    }
    let node = tree("{a: x, b: 7, c: [1, y, 3]}").0;
    let checked = read_rest::<Parts>(&node, "");
    assert_eq!(checked.value, Some(Parts { a: 0, b: None, c: Each(vec![1, 3]) }));
    let mut paths: Vec<_> = checked.diagnostics.iter().map(|finding| finding.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a", "b", "c[1]"]);
    assert_eq!(read::<Parts>(&node, "").value, None);
    assert_eq!(read_rest::<Parts>(&tree("[a]").0, "").value, Some(Parts::default()));
}

#[test]
fn an_item_that_its_type_refuses_after_reading_has_its_own_place() {
    let checked = read::<Each<Mode>>(tree("v: [0644, rw, '600']").0.get("v").unwrap(), "v");
    assert_eq!(checked.value.unwrap().0, [Mode(0o644), Mode(0o600)]);
    assert_eq!(
        checked.diagnostics[0].to_string(),
        "doc:1:11: error: v[1]: not a file mode; write octal digits such as '0644'"
    );
}

#[test]
fn a_command_is_a_line_or_words_and_a_colon_in_it_is_explained() {
    let text = "#cloud-config
runcmd:
  - echo a
  - echo a: b
  - [ls, -l, 1, yes, 0644, ~]
  - ~
  - []
  - 'echo c: d'
  - [ls, [a]]
  - 7
  - echo a # note
  - [ ! -f /x ]
";
    let checked = read::<Each<Argv>>(tree(text).0.get("runcmd").unwrap(), "runcmd");
    let shell = |line: &str| Argv::Shell(line.to_owned());
    let words = |words: &[&str]| Argv::Words(words.iter().map(|word| (*word).to_owned()).collect());
    assert_eq!(
        checked.value.unwrap().0,
        [
            shell("echo a"),
            words(&["ls", "-l", "1", "yes", "0644"]),
            shell("echo c: d"),
            shell("7"),
            shell("echo a"),
            words(&["-f /x"]),
        ]
    );
    let told: Vec<_> = checked.diagnostics.iter().map(ToString::to_string).collect();
    let command = "expected a command (text, or a list of a program and its arguments)";
    let colon = "put a command that has `: ` in it in quotes";
    assert_eq!(
        told,
        [
            format!("doc:4:5: error: runcmd[1]: {command}, found a mapping; {colon}"),
            format!("doc:6:5: error: runcmd[3]: {command}, found nothing"),
            "doc:7:5: error: runcmd[4]: an empty command".to_owned(),
            "doc:9:10: error: runcmd[6][1]: expected text, found a list".to_owned(),
        ]
    );
    assert_eq!(checked.diagnostics[0].excerpt.as_deref(), Some("  - echo a: b"));
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Service {
    name: String,
    mode: Option<Mode>,
    #[serde(alias = "restarts")]
    tries: u8,
    when: When,
    env: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    #[default]
    Never,
    OnError,
    Off,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Port {
    Http,
    Https,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Needs {
    name: String,
    ports: BTreeMap<Port, bool>,
}

#[test]
fn an_enumeration_takes_its_words_and_suggests_the_nearest() {
    table::<When>(&[
        ("on_error", Ok(When::OnError)),
        ("'off'", Ok(When::Off)),
        ("off", Ok(When::Off)),
        ("on_eror", Err("unknown value; expected one of never, on_error, off")),
        ("[never]", Err("expected a word, found a list")),
        ("{on_error: 1}", Err("expected a word, found a mapping")),
    ]);
    let finding = &check::<Service>("when: on_eror").diagnostics[0];
    assert_eq!((finding.suggestion.as_deref(), finding.column), (Some("on_error"), Some(7)));
}

#[test]
fn a_mapping_keeps_every_key_as_spelled() {
    let checked = check::<BTreeMap<String, String>>("1: a\nyes: b\n~: c\n1.5: d\n0644: e\n'<<': f\n'': g\n");
    let keys: Vec<_> = checked.value.unwrap().into_keys().collect();
    assert_eq!(keys, ["", "0644", "1", "1.5", "<<", "yes", "~"]);
    assert_eq!(check::<BTreeMap<String, u8>>("~").value, Some(BTreeMap::new()));
    let told = check::<BTreeMap<String, u8>>("- a").diagnostics[0].to_string();
    assert_eq!(told, "doc:1:1: error: expected a mapping, found a list");
}

#[test]
fn a_field_without_a_value_has_its_default_and_an_unknown_one_is_told() {
    let checked = check::<Service>("name: web\nmode:\ntries: ~\nenv:\nwehn: never\nzebra: 1\n");
    assert_eq!(checked.value.unwrap(), Service { name: "web".into(), ..Service::default() });
    let told: Vec<_> = checked.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["doc:5:1: warning: wehn: unknown key; did you mean `when`?", "doc:6:1: warning: zebra: unknown key"]
    );
    assert_eq!(check::<Service>("[a]").diagnostics[0].message, "expected a mapping, found a list");
    assert_eq!(check::<Service>("a").diagnostics[0].message, "expected a mapping, found text");
}

#[test]
fn an_error_stands_at_the_value_and_not_at_the_mapping_around_it() {
    for (text, told) in [
        ("services:\n- name: a\n  mode: rw\n", "doc:3:9: error: services[0].mode: not a file mode"),
        ("services:\n- env:\n    A: [1]\n", "doc:3:8: error: services[0].env.A: expected text, found a list"),
        ("services:\n- {name: a, tries: 300}", "doc:2:20: error: services[0].tries: the number is too large"),
        ("services:\n- tries: 1\n  restarts: 2\n", "doc:2:3: error: services[0]: the key `tries` is given twice"),
    ] {
        let checked = read::<Each<Service>>(tree(text).0.get("services").unwrap(), "services");
        assert!(checked.diagnostics[0].to_string().starts_with(told), "{}", checked.diagnostics[0]);
        assert_eq!(checked.value.unwrap().len(), 0);
    }
    assert_eq!(check::<Needs>("ports: {}").diagnostics[0].to_string(), "doc:1:1: error: the key `name` is missing");
    let told = check::<Needs>("name: a\nports:\n  https: yes\n  htpt: no\n").diagnostics[0].to_string();
    assert_eq!(
        told,
        "doc:4:3: error: ports.htpt: the key: unknown value; expected one of http, https; did you mean `http`?"
    );
}

#[test]
fn one_wrong_field_hides_no_other() {
    let text = "name: [a]\nmode: rw\nwehn: never\ntries: 300\nenv: {A: [1], B: b, C: {}}\n";
    let checked = check::<Service>(text);
    assert_eq!(checked.value, None);
    let mut told: Vec<_> = checked.diagnostics.iter().map(|f| (f.line.unwrap(), f.path.as_str())).collect();
    told.sort_unstable();
    assert_eq!(told, [(1, "name"), (2, "mode"), (3, "wehn"), (4, "tries"), (5, "env.A"), (5, "env.C")]);
    // A key that is required and missing is told once, and so is a list whose item cannot be nothing.
    assert_eq!(check::<Needs>("ports: x").diagnostics.len(), 2);
    assert_eq!(check::<Vec<u8>>("[a, b, 1]").diagnostics.len(), 1);
}

#[test]
fn no_message_tells_a_value() {
    for (text, told) in [
        ("[hunter2]", value::<char>("hunter2").unwrap_err()),
        ("when", check::<Service>("when: hunter2").diagnostics[0].to_string()),
        ("mode", check::<Service>("mode: hunter2").diagnostics[0].to_string()),
        ("map", check::<Service>("env: hunter2").diagnostics[0].to_string()),
        ("any", value::<std::net::IpAddr>("hunter2").unwrap_err()),
        ("list", value::<Vec<u8>>("[hunter2]").unwrap_err()),
    ] {
        assert!(!told.contains("hunter2"), "{text}: {told}");
    }
}

#[test]
fn what_one_reading_failed_at_never_shows_up_in_the_next() {
    assert_eq!(check::<Service>("tries: x").diagnostics.len(), 1);
    let checked = read::<Each<Mode>>(&tree("[rw]").0, "modes");
    assert_eq!(checked.diagnostics[0].to_string().split(": ").nth(2), Some("modes[0]"));
}

#[test]
fn thousands_of_findings_of_one_kind_are_cut_and_errors_are_not_lost_among_warnings() {
    let mut text: String = (0..5000).map(|n| format!("unknown_{n}: 1\n")).collect();
    text.push_str("tries: x\n");
    let findings = check::<Service>(&text).diagnostics;
    assert_eq!(findings.len(), 202);
    assert!(findings[200].message.starts_with("more of this kind"));
    assert_eq!((findings[201].severity, findings[201].line), (Severity::Error, Some(5001)));
}
