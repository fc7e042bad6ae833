use std::io::Write as _;

use base64::Engine as _;
use kiln_schema::Severity;

use super::*;

/// Reads user-data where nothing is known of the instance.
pub(super) fn read(text: impl AsRef<[u8]>) -> UserData {
    parse("user-data", text.as_ref(), &Surroundings::default())
}

pub(super) fn config(data: &UserData) -> String {
    data.config.to_json().to_string()
}

pub(super) fn errors(data: &UserData) -> Vec<String> {
    data.diagnostics.iter().map(ToString::to_string).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A MIME document of parts, each with its headers.
pub(super) fn mime(boundary: &str, parts: &[&str]) -> String {
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\npreamble\n");
    for part in parts {
        text.push_str(&format!("--{boundary}\n{part}\n"));
    }
    text + &format!("--{boundary}--\nepilogue\n")
}

#[test]
fn the_header_is_taken_in_any_dress() {
    for text in [
        "#cloud-config\na: 1\n",
        "#CLOUD-CONFIG\na: 1\n",
        "\n \n\t#cloud-config\na: 1\n",
        "\u{feff}#cloud-config\na: 1\n",
        "#cloud-config v2 of monday\na: 1\n",
        "#cloud-config\r\na: 1\r\n",
    ] {
        let data = read(text);
        assert_eq!((config(&data), errors(&data).len()), (r#"{"a":1}"#.to_owned(), 0), "{text:?}");
    }
}

#[test]
fn nothing_is_nothing_and_not_an_error() {
    for text in ["", "\n\n", "\u{feff}", "#cloud-config-archive\n", "#cloud-config-jsonp\n[]", "#include\n"] {
        let data = read(text);
        assert_eq!((config(&data), errors(&data)), ("{}".to_owned(), vec![]), "{text:?}");
    }
    for text in ["#cloud-config", "#cloud-config\n# only a comment\n", "#cloud-config\n~\n", "#cloud-config\n{}\n"] {
        let data = read(text);
        assert_eq!(config(&data), "{}", "{text:?}");
        assert!(matches!(&data.diagnostics[..], [told] if told.message.starts_with("the document has no keys")));
        assert_eq!(data.diagnostics[0].severity, Severity::Warning);
    }
}

#[test]
fn the_place_of_an_error_counts_the_blank_lines_before_the_header() {
    let data = read(b"\n\n#cloud-config\na: [\n");
    assert!(data.diagnostics[0].line.is_some_and(|line| line >= 4), "{:?}", data.diagnostics);
}

#[test]
fn a_script_begins_at_its_interpreter_and_has_unix_lines() {
    let data = read(b"\xef\xbb\xbf\r\n#!/bin/sh\r\necho a\rb\r\n");
    let body = b"#!/bin/sh\necho a\rb\n".to_vec();
    assert_eq!(data.scripts, [Script { name: "part-001".into(), body, when: When::Last, of_vendor: false }]);
}

#[test]
fn a_script_whose_first_line_is_of_unix_keeps_the_cr_that_it_means() {
    let text = "#!/bin/sh\nprintf 'GET / HTTP/1.0\r\n\r\n' | nc web 80\n";
    assert_eq!(read(text).scripts[0].body, text.as_bytes());
}

#[test]
fn what_is_not_run_is_named_with_what_to_do_instead() {
    let data = read("#part-handler\nimport os\n");
    assert_eq!((config(&data).as_str(), data.scripts.len(), data.diagnostics.len()), ("{}", 0, 1));
    assert_eq!(data.diagnostics[0].severity, Severity::Error);
    let message = &data.diagnostics[0].message;
    assert!(message.contains("#part-handler") && message.contains("external handler"), "{message}");
}

#[test]
fn a_boothook_loses_its_header_and_scripts_keep_their_turn() {
    for (text, body) in [
        ("#cloud-boothook\n#!/bin/sh\r\ntrue\r\n", "#!/bin/sh\ntrue\n"),
        ("#Cloud-Boothook of mine\n\n  #!/bin/sh\n", "#!/bin/sh\n"),
        ("#cloud-boothook\necho a\n", "echo a\n"),
        ("#cloud-boothook", ""),
    ] {
        let data = read(text);
        let hook = Script { name: "part-001".into(), body: body.into(), when: When::Hook, of_vendor: false };
        assert_eq!(data.scripts, [hook], "{text:?}");
    }
    let part = |kind: &str| format!("Content-Type: text/{kind}\n\n#!/bin/sh\n");
    let kinds = ["x-shellscript-per-boot", "x-shellscript-per-instance", "x-shellscript-per-once", "x-shellscript"];
    let parts: Vec<String> = kinds.into_iter().map(part).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let turns: Vec<When> = read(mime("b", &parts)).scripts.iter().map(|script| script.when).collect();
    assert_eq!(turns, [When::EveryBoot, When::OnceAnInstance, When::OnceADisk, When::Last]);
}

#[test]
fn a_part_with_a_launch_index_is_for_the_machine_of_that_number() {
    let document = mime(
        "b",
        &[
            "Content-Type: text/cloud-config\nLaunch-Index: 0\n\na: 1",
            "Content-Type: text/cloud-config\nLaunch-Index: 1\n\nb: 1",
            "Content-Type: text/cloud-config\n\nlaunch-index: 1\nc: 1",
            "Content-Type: text/cloud-config\nLaunch-Index: first\n\nd: 1",
            "Content-Type: text/cloud-config-archive\n\n- {launch-index: 1, content: 'e: 1'}\n- {launch-index: 0, content: 'f: 1'}",
            "Content-Type: text/cloud-config\n\ng: 1",
        ],
    );
    for (own, expected) in [
        (Some(0), r#"{"a":1,"f":1,"g":1}"#),
        (Some(1), r#"{"b":1,"c":1,"e":1,"g":1}"#),
        (Some(2), r#"{"g":1}"#),
        (None, r#"{"a":1,"b":1,"c":1,"e":1,"f":1,"g":1}"#),
    ] {
        let surroundings = Surroundings { launch_index: own, ..Surroundings::default() };
        let data = parse("user-data", document.as_bytes(), &surroundings);
        assert_eq!(config(&data), expected, "{own:?}");
        let told = errors(&data);
        assert!(
            told.len() == 1 && told[0].starts_with("user-data part 4: warning: the launch index is no"),
            "{told:?}"
        );
    }
}

#[test]
fn a_patch_changes_the_configuration_so_far_or_nothing_of_it() {
    let document = |patch: &str| {
        let patch = format!("Content-Type: text/cloud-config-jsonp\n\n#cloud-config-jsonp\n{patch}");
        mime("b", &["Content-Type: text/cloud-config\n\na: [1]", &patch, "Content-Type: text/cloud-config\n\nc: 1"])
    };
    let data = read(document(
        "[\n\t{ \"op\": \"add\", \"path\": \"/a/-\", \"value\": {\"x\": true}},\n {\"op\": \"add\", \"path\": \"/b\", \"value\": 2 }\n]\n",
    ));
    assert_eq!((config(&data).as_str(), errors(&data)), (r#"{"a":[1,{"x":true}],"b":2,"c":1}"#, vec![]));
    let data = read(document("- {op: add, path: /b, value: 2}\n- {op: remove, path: /nope}\n"));
    assert_eq!(config(&data), r#"{"a":[1],"c":1}"#);
    assert!(
        errors(&data)[0].starts_with("user-data part 2:3:3: error: [1]: nothing is at `/nope`"),
        "{:?}",
        errors(&data)
    );
    assert_eq!(config(&read("#cloud-config-jsonp\n- {op: add, path: /a, value: 1}")), r#"{"a":1}"#);
}

#[test]
fn what_is_no_kind_is_told_with_what_was_meant() {
    for (text, sentence) in [
        (&b"#cloud_config\na: 1"[..], "did you mean `#cloud-config`?"),
        (b"# cloud-config\na: 1", "did you mean `#cloud-config`?"),
        (b"---\n#cloud-config\n", "not a kind of user-data"),
        (b"hostname: web", "not a kind of user-data"),
        (b"dGVzdA==", "not a kind of user-data"),
        (b"\xff\xfe#\0c\0", "UTF-16"),
        (b"\x00\xff\xc0\x80", "not UTF-8"),
        (b"#cloud-config\na: \xff", "not UTF-8"),
        (b"#cloud-config\n- a", "must be a mapping of keys, not a list"),
        (b"#cloud-config\njust text", "must be a mapping of keys, not text"),
    ] {
        let found = errors(&read(text));
        assert!(found.len() == 1 && found[0].contains(sentence), "{found:?}");
    }
}

#[test]
fn mime_parts_of_any_nesting_are_read_in_order() {
    let inner = mime("in", &["Content-Type: text/cloud-config\n\nb: 2\n", "\n#!/bin/sh\ninner\n"]);
    let encoded = base64(b"#!/bin/sh\r\nencoded\r\n");
    let script = "Content-Type: text/x-shellscript; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\
                  Content-Disposition: attachment; filename=\"../a/first.sh\"\n\n";
    let quoted = "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n#cloud-config\nc: =33\n";
    let document = mime(
        "out",
        &["Content-Type: text/plain\n\n#cloud-config\na: 1", &inner, &(script.to_owned() + &encoded), quoted],
    );
    for text in [document.clone(), document.replace('\n', "\r\n")] {
        let data = read(text);
        assert_eq!(errors(&data), Vec::<String>::new());
        assert_eq!(config(&data), r#"{"a":1,"b":2,"c":3}"#);
        let names: Vec<&str> = data.scripts.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["first.sh", "part-003"]);
        assert_eq!(data.scripts[0].body, b"#!/bin/sh\nencoded\n");
    }
}

#[test]
fn a_bad_part_hides_no_other_and_is_named() {
    let document = mime(
        "b",
        &[
            "Content-Type: text/cloud-config\n\na: 1",
            "Content-Type: text/cloud-config\n\na: [",
            "Content-Type: application/json\n\n{}",
            "Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n!!!",
            "Content-Type: text/cloud-config\nContent-Transfer-Encoding: x-zip\n\na: 2",
            "Content-Type: text/part-handler\n\nimport os",
            "Content-Type: text/plain\n\nwhat is this",
            "Content-Type: text/x-shellscript\nLaunch-Index: x\n\n#!/bin/sh\nlast",
            "Content-Type: text/x-shellscript\nLaunch-Index: 3\n\n#!/bin/sh\nlast",
        ],
    );
    let data = read(document.as_bytes());
    assert_eq!((config(&data).as_str(), data.scripts.len()), (r#"{"a":1}"#, 1));
    let sources: Vec<&str> = data.diagnostics.iter().map(|d| d.source.as_str()).collect();
    assert_eq!(sources, (2..=8).map(|n| format!("user-data part {n}")).collect::<Vec<_>>(), "{:#?}", errors(&data));
    assert_eq!(data.diagnostics[6].severity, Severity::Warning);
}

#[test]
fn a_later_part_replaces_the_top_level_keys_of_an_earlier_one() {
    let document = mime(
        "b",
        &["Content-Type: text/cloud-config\n\na: {x: 1}\nb: 1", "Content-Type: text/cloud-config\n\na: {y: 2}"],
    );
    assert_eq!(config(&read(document.as_bytes())), r#"{"a":{"y":2},"b":1}"#);
}

#[test]
fn merge_how_is_heeded_in_the_part_and_in_its_header() {
    let first = "Content-Type: text/cloud-config\n\na: [1]\nb: 1";
    let how = "list(append)+dict(recurse_list)";
    for second in [
        format!("Content-Type: text/cloud-config\n\nmerge_how: {how}\na: [2]\nb: 2"),
        format!("Content-Type: text/cloud-config\nX-Merge-Type: {how}\n\na: [2]\nb: 2"),
        "Content-Type: text/cloud-config\nMerge-Type: dict(recurse_list)+list(prepend)\n\n\
         merge_type: [{name: list, settings: [append]}]\na: [2]\nb: 2"
            .to_owned(),
    ] {
        let data = read(mime("b", &[first, &second]).as_bytes());
        assert_eq!((config(&data).as_str(), errors(&data)), (r#"{"a":[1,2],"b":1}"#, vec![]), "{second}");
    }
    let wrong = "Content-Type: text/cloud-config\nMerge-Type: set()\n\nmerge_how: [x]\na: [2]";
    let data = read(mime("b", &[first, wrong]).as_bytes());
    assert_eq!((config(&data).as_str(), data.diagnostics.len()), (r#"{"a":[2],"b":1}"#, 2), "{:?}", errors(&data));
}

#[test]
fn a_cut_off_or_broken_multipart_is_told() {
    let whole = mime("b", &["Content-Type: text/cloud-config\n\na: 1"]);
    let cut = whole.split("--b--").next().unwrap();
    let data = read(cut.as_bytes());
    assert_eq!(config(&data), r#"{"a":1}"#);
    assert!(errors(&data)[0].contains("no closing boundary"), "{:?}", errors(&data));
    let no_boundary = whole.replace("; boundary=\"b\"", "");
    assert!(errors(&read(no_boundary.as_bytes()))[0].contains("names no boundary"));
    assert!(errors(&read(mime("b", &[]).as_bytes()))[0].contains("no parts"));
}

#[test]
fn gzip_and_base64_are_opened_at_any_level() {
    let config_text = b"#cloud-config\na: 1\n";
    let part = format!(
        "Content-Type: application/x-gzip\nContent-Transfer-Encoding: base64\n\n{}",
        base64(&gzip(config_text))
    );
    let broken_lines: String =
        base64(config_text).as_bytes().chunks(8).map(|c| String::from_utf8_lossy(c) + "\r\n").collect();
    for bytes in [
        gzip(config_text),
        gzip(&gzip(config_text)),
        base64(config_text).into_bytes(),
        broken_lines.into_bytes(),
        base64(&gzip(config_text)).into_bytes(),
        mime("b", &[&part]).into_bytes(),
        gzip(mime("b", &[&part]).as_bytes()),
    ] {
        let data = read(&bytes);
        assert_eq!((config(&data).as_str(), errors(&data)), (r#"{"a":1}"#, vec![]));
    }
}

#[test]
fn what_expands_without_end_is_refused_with_a_sentence() {
    let bomb = gzip(&vec![b' '; MAX_BYTES + 1]);
    assert!(errors(&read(&bomb))[0].contains("unpacks to more than the 16 MiB"));
    let mut nested = b"#cloud-config\na: 1\n".to_vec();
    for _ in 0..MAX_DEPTH + 2 {
        nested = gzip(&nested);
    }
    assert!(errors(&read(&nested))[0].contains("deep"));
    // Two halves that fit alone do not fit together.
    let half = base64(&gzip(&vec![b' '; MAX_BYTES / 2 + 1]));
    let part = format!("Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n{half}");
    assert!(errors(&read(mime("b", &[&part, &part]).as_bytes()))[0].contains("unpacks to more"));
    let many = vec!["Content-Type: text/x-shellscript\n\n#!/bin/sh"; MAX_PARTS + 5];
    let data = read(mime("b", &many).as_bytes());
    assert_eq!(data.scripts.len(), MAX_PARTS);
    assert!(errors(&data)[0].contains("more than 1000 parts"));
    let whole = gzip(b"#cloud-config\na: 1\n");
    assert!(errors(&read(&whole[..whole.len() - 9]))[0].contains("cut off"));
}

/// xorshift: the same numbers at every run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

#[test]
fn no_document_makes_the_reader_panic() {
    let inner = mime("in", &["Content-Type: text/cloud-config\n\nb: 2\n", "\n#!/bin/sh\ninner\n"]);
    let document = mime(
        "out",
        &[
            "Content-Type: text/plain; charset=\"iso-8859-1\"\n\n#cloud-config\na: &x [1, *x]\n<<: {b: !!int 0x1}\n",
            &inner,
            &format!(
                "Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\n{}",
                base64(b"#!/bin/sh\n")
            ),
            "Content-Transfer-Encoding: quoted-printable\nContent-Disposition: attachment; filename*0=\"a\"; filename*1=b\n\n=3D=\n",
        ],
    );
    let seeds = [
        document.clone().into_bytes(),
        gzip(document.as_bytes()),
        base64(document.as_bytes()).into_bytes(),
        b"#cloud-config\nusers:\n- {name: x, sudo: [a, 'b']}\nk: |\n  text\n".to_vec(),
        b"#cloud-config-archive\n- |\n  #cloud-config\n  a: 1\n- {type: text/x-shellscript, content: \"#!/bin/sh\", launch-index: 0}\n".to_vec(),
        b"## template: jinja\n#cloud-config\na: {% for x in [1, 2] %}{{ x }}{% endfor %}\n".to_vec(),
        b"#cloud-config-jsonp\n[{op: add, path: /a, value: [1]}, {op: move, from: /a/0, path: /b}]\n".to_vec(),
        b"#include\nhttp://x/\n#include-once https://me@x/?y#z\n".to_vec(),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..4000 {
        let mut bytes = if round % 10 == 0 {
            (0..random.next(300)).map(|_| random.next(256).to_le_bytes()[0]).collect()
        } else {
            seeds[round % seeds.len()].clone()
        };
        for _ in 0..=random.next(6) {
            if bytes.is_empty() {
                break;
            }
            let at = random.next(bytes.len());
            match random.next(4) {
                0 => bytes[at] = random.next(256).to_le_bytes()[0],
                1 => bytes.truncate(at),
                2 => drop(bytes.remove(at)),
                _ => {
                    let end = (at + random.next(40)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = random.next(bytes.len());
                    bytes.splice(to..to, copy);
                }
            }
        }
        let data = read(&bytes);
        assert!(matches!(data.config.value, Value::Map(_)));
        assert!(data.scripts.iter().all(|s| !s.name.is_empty() && !s.name.contains('/') && !s.name.starts_with('.')));
    }
}
