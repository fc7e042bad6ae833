//! Documents as a whole: syntax, anchors, merge keys, limits, and what random damage does.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::{Argv, Each, Mode, parse, read};
use crate::diagnostic::Severity;

fn reads(text: &str) -> Json {
    match parse("doc", text) {
        Ok((node, _)) => node.to_json(),
        Err(finding) => panic!("{text:?}: {}", finding.render()),
    }
}

#[test]
fn untyped_values_are_those_of_yaml_1_1_but_for_base_60_and_dates() {
    for (text, expected) in [
        ("[yes, No, ON, off, y, 'yes']", json!([true, false, true, false, "y", "yes"])),
        ("[0644, 0o644, 644, 08, 0x1f, 0b11, 1_0]", json!([420, "0o644", 644, "08", 31, 3, 10])),
        ("[12:30, 1:30:45, 190:20:30.15]", json!(["12:30", "1:30:45", "190:20:30.15"])),
        ("[1e3, 1.0e+3, 1.5, .5, 1.2.3]", json!(["1e3", 1000.0, 1.5, 0.5, "1.2.3"])),
        ("[~, null, '', nUll]", json!([null, null, "", "nUll"])),
        ("[2012-09-01, '2012-09-01']", json!(["2012-09-01", "2012-09-01"])),
        ("[!!str 1, !!int '1', !!float 1, !!bool on, !!null x]", Json::Null),
        ("[!!str 1, !!int '1', !!float 1, !!bool on]", json!(["1", 1, 1.0, true])),
        ("{a: !!binary aGVs\n  bG8=}", json!({"a": "hello"})),
        ("!!set {a, b}", json!({"a": null, "b": null})),
        ("18446744073709551615", json!(u64::MAX)),
        ("99999999999999999999999", json!("99999999999999999999999")),
        ("{a: .inf, b: .nan}", json!({"a": ".inf", "b": ".nan"})),
    ] {
        match (expected, parse("doc", text)) {
            (Json::Null, Err(finding)) => assert!(finding.message.contains("tag `!!null`"), "{finding}"),
            (expected, _) => assert_eq!(reads(text), expected, "{text:?}"),
        }
    }
}

#[test]
fn a_document_is_read_however_it_is_wrapped() {
    for text in [
        "a: 1",
        "\u{feff}a: 1\n",
        "a: 1\r\n",
        "---\na: 1\n",
        "---\na: 1\n...\n",
        "%YAML 1.1\n---\na: 1\n",
        "\n\n# note\na: 1 # note\n",
        "{a: 1}",
        "{a: 1,}",
        "? a\n: 1\n",
    ] {
        assert_eq!(reads(text), json!({"a": 1}), "{text:?}");
    }
    // Nothing at all is an empty mapping, so that it takes nothing away from what it is laid over.
    for text in ["", "\n", "# nothing\n", "---\n", "---\n...\n", "~", "null"] {
        assert_eq!(reads(text), json!({}), "{text:?}");
    }
    assert_eq!(reads("a: |\r\n  x\r\n  y\r\n"), json!({"a": "x\ny\n"}));
    assert_eq!(reads("é: \u{1f600}\n"), json!({"é": "\u{1f600}"}));
}

#[test]
fn anchors_and_merge_keys_work() {
    let text = "
base: &base {a: 1, b: 2}
more: &more {b: 3, c: 4}
own: {<<: *base, b: 9}
late: {b: 9, <<: *base}
both:
  <<: [*base, *more]
  d: 5
list: &l [1]
again: *l
";
    let json = reads(text);
    assert_eq!(json["own"], json!({"b": 9, "a": 1}));
    assert_eq!(json["late"], json!({"b": 9, "a": 1}));
    assert_eq!(json["both"], json!({"d": 5, "a": 1, "b": 2, "c": 4}));
    assert_eq!(json["again"], json!([1]));
    let (node, warnings) = parse("doc", text).unwrap();
    assert!(warnings.is_empty());
    // What came through an alias stands where it was written.
    assert_eq!(node.get("own").unwrap().get("a").unwrap().place.line, 2);
}

#[test]
fn a_key_that_stands_twice_is_told_with_both_lines_and_the_last_counts() {
    let (node, warnings) = parse("doc", "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n").unwrap();
    assert_eq!(node.to_json(), json!({"a": 2, "b": {"c": 3, "d": 2}}));
    let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "doc:5:3: warning: c: the key stands twice in one mapping, first in line 3; the last one counts",
            "doc:6:1: warning: a: the key stands twice in one mapping, first in line 1; the last one counts",
        ]
    );
    assert_eq!(parse("doc", &"a: 1\n".repeat(1000)).unwrap().1.len(), 200);
}

#[test]
fn what_is_no_document_is_refused_at_its_place_with_advice() {
    for (text, told) in [
        ("a:\n\t- b\n", "2:2: not valid YAML: tabs"),
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed in this context; quote text that has `: `"),
        ("a: @x\n", "1:4: not valid YAML: unexpected character: `@'; quote text that begins with"),
        ("a: `x`\n", "1:4: not valid YAML: unexpected character"),
        ("a: %x\n", "1:4: not valid YAML: unexpected character"),
        ("a: *\n", "1:4: not valid YAML: while scanning an anchor or alias"),
        ("a: *b\n", "1:4: not valid YAML"),
        ("a: &b [*b]\n", "1:8: an alias to an anchor that is not complete yet"),
        ("a: 'x\n", "1:4: not valid YAML"),
        ("a: [1\n", "1:6: not valid YAML"),
        ("a: {b: [1}\n", "1:10: not valid YAML"),
        ("a: 1\n b: 2\n", "2:3: not valid YAML"),
        ("a\nb: 1\n", "2:2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "3:1: a second document; user-data is one YAML document a part"),
        ("a: !foo x\n", "1:4: unknown tag; quote the text if it begins with `!`"),
        ("a: !!python/object:x {}\n", "1:4: unknown tag; quote"),
        ("a: !!int x\n", "1:4: this is not what its tag `!!int` says"),
        ("a: !!binary '?'\n", "1:4: this is not what its tag `!!binary` says"),
        ("a: =\n", "1:4: a bare `=`; quote it"),
        ("[a]: 1\n", "1:1: a key must be text, not a list or a mapping"),
        ("? {a: b}\n: 1\n", "1:3: a key must be text, not a list or a mapping"),
        ("a: {<<: 1}\n", "1:9: `<<` takes a mapping or a list of mappings"),
        ("a: {<<: [{}, 1]}\n", "1:9: `<<` takes a mapping or a list of mappings"),
        ("é: 1\nb: x\u{7}y\n", "2:5: a control character"),
        ("a: \u{7f}\n", "1:4: a control character"),
        ("a: \u{0}\n", "1:4: a control character"),
        ("é: é: é\n", "1:5: not valid YAML: mapping values"),
    ] {
        let finding = parse("doc", text).expect_err(text);
        let place = format!("{}:{}: {}", finding.line.unwrap_or(0), finding.column.unwrap_or(0), finding.message);
        assert!(place.starts_with(told), "{text:?}:\n found {place}\n  want {told}");
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.excerpt.is_some(), "{text:?}");
        assert_eq!(finding.excerpt.as_deref(), text.lines().nth(finding.line.unwrap_or(1) - 1), "{text:?}");
    }
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let nested = |open: &str, close: &str, depth: usize| format!("a: {}{}", open.repeat(depth), close.repeat(depth));
    assert!(reads(&nested("[", "]", 100))["a"][0].is_array());
    let mut aliases = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, below) in "bcdefghi".chars().zip("abcdefgh".chars()) {
        aliases.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{below}"); 10].join(",")));
    }
    let anchors: String = (0..100).map(|n| format!("&a{n} [")).collect();
    let keys: String = (0..10).map(|n| format!("k{n}: 1,")).collect();
    let merges = format!("a: &a {{{keys}}}\nb:\n  <<: [{}]\n", vec!["*a"; 20_000].join(","));
    let bombs = [
        nested("[", "]", 1_000_000),
        nested("{b: ", "}", 100_000),
        "- ".repeat(1_000_000),
        "? ".repeat(1_000_000),
        aliases,
        format!("{anchors}{}{}", "x,".repeat(90_000), "]".repeat(100)),
        merges,
        format!("[{}", "a,".repeat(200_000)),
    ];
    let begun = Instant::now();
    for bomb in &bombs {
        let refused = parse("doc", bomb).is_err_and(|finding| finding.line.is_some());
        assert!(refused, "{}…", &bomb[..40]);
    }
    // Large but honest: every key is looked up, none is searched for.
    let wide: String = (0..40_000).map(|n| format!("key_{n}: 1\n")).collect();
    assert_eq!(reads(&wide).as_object().unwrap().len(), 40_000);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// A small generator, so that a failure comes again: xorshift64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

const SEEDS: &[&str] = &[
    "#cloud-config\nusers:\n  - name: a\n    groups: [b, c]\n  - &d {name: d}\nruncmd:\n  - echo 'x'\n  - [ls, -l]\n",
    "a: &a {b: 1, c: [2, 3]}\nd:\n  <<: *a\n  e: |\n    text\n    more\nf: >-\n  folded\n",
    "write_files:\n- path: /x\n  permissions: '0644'\n  content: !!binary aGVsbG8=\n- {path: /y, content: \"a\\tb\"}\n",
    "%YAML 1.1\n---\n? key\n: - 1\n  - ~\n  - 2012-09-01\n...\n",
];

const SPICE: &[&str] = &[
    ":",
    ": ",
    "- ",
    "\n",
    "\n\n",
    "\t",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "!x ",
    "|\n",
    ">\n",
    "'",
    "\"",
    "#",
    "?",
    "<<: ",
    "\\",
    "%",
    "@",
    "---\n",
    "...\n",
    "\u{feff}",
    "\r",
    "\u{85}",
    "\u{2028}",
    "é",
    "\u{1f600}",
    "\0",
    "~",
];

#[test]
fn damaged_documents_neither_panic_nor_hang_and_every_error_has_a_place() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for round in 0..20_000 {
        let mut text: Vec<char> = SEEDS[dice.below(SEEDS.len())].chars().collect();
        for _ in 0..=dice.below(6) {
            let at = dice.below(text.len() + 1);
            let end = (at + dice.below(8)).min(text.len());
            match dice.below(4) {
                0 => drop(text.drain(at..end)),
                1 => {
                    let copy = text[at..end].to_vec();
                    text.splice(at..at, copy);
                }
                2 => text.truncate(at.max(1)),
                _ => drop(text.splice(at..at, SPICE[dice.below(SPICE.len())].chars())),
            }
        }
        let text: String = text.into_iter().collect();
        let begun = Instant::now();
        match parse("doc", &text) {
            Ok((node, warnings)) => {
                node.to_json();
                let typed = [
                    read::<Each<Argv>>(&node, "").diagnostics,
                    read::<std::collections::BTreeMap<String, Option<Each<Mode>>>>(&node, "").diagnostics,
                ];
                for finding in typed.iter().flatten().chain(&warnings) {
                    assert!(finding.line.is_some() && finding.column.is_some(), "round {round}, {text:?}: {finding}");
                    finding.render();
                }
            }
            Err(finding) => {
                refused += 1;
                assert!(finding.line.is_some_and(|line| line > 0), "round {round}, {text:?}: {finding}");
                finding.render();
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "round {round}, {text:?}");
    }
    // The damage is neither so small nor so great that one side is never tried.
    assert!((2_000..18_000).contains(&refused), "{refused} of 20000 refused");
}
