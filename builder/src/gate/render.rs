//! The checks of kiln.yaml as a test file that calls the library.
//!
//! What kiln.yaml says is data here: an argument is one quoted word on one line, and a name has no character
//! that bats or the shell would take for more than a letter. Bats reads a test file line by line before the
//! shell does, puts a name between double quotes, and takes `# skip` in one for a directive.

use std::collections::HashSet;
use std::time::Duration;

use crate::images::Assertion;

/// The library, beside every image's tests as `kiln.bash`.
pub const LIBRARY: &str = include_str!("../../../packaging/bats/kiln.bash");
/// Its name there; tests say `load kiln`.
pub const LIBRARY_NAME: &str = "kiln.bash";
/// The name of the rendered file.
pub const CHECKS_NAME: &str = "kiln-checks.bats";

/// The test file of these assertions.
pub fn bats(assertions: &[Assertion]) -> String {
    let mut text = "#!/usr/bin/env bats\n# Rendered by kiln from the checks in kiln.yaml.\nload kiln\n".to_owned();
    let mut names = HashSet::new();
    for assertion in assertions {
        let plain = name(&assertion.name);
        let mut unique = plain.clone();
        // Bats refuses a file with two tests of one name.
        for number in 2.. {
            if names.insert(unique.clone()) {
                break;
            }
            unique = format!("{plain} ({number})");
        }
        let within = assertion.within.map(|within| format!("eventually {} ", time(within)));
        let arguments: String = assertion.arguments.iter().map(|argument| format!(" {}", word(argument))).collect();
        let (within, function) = (within.unwrap_or_default(), assertion.function);
        text.push_str(&format!("\n@test \"{unique}\" {{\n    {within}{function}{arguments}\n}}\n"));
    }
    text
}

/// A name without anything that means something to bats, the shell or TAP.
fn name(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ._/:@+,=?&*~-[]()".contains(c);
    text.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

/// A length of time in the units of the library.
fn time(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds % 3600 / 60, "m"),
        (seconds % 60, "s"),
        (u64::from(span.subsec_millis()), "ms"),
    ];
    parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect()
}

/// One word of bash on one line.
fn word(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\\' | '\'' => word.extend(['\\', c]),
            '\n' => word.push_str("\\n"),
            c if c.is_control() => c.to_string().bytes().for_each(|byte| word.push_str(&format!("\\x{byte:02x}"))),
            c => word.push(c),
        }
    }
    word + "'"
}

#[cfg(test)]
mod tests {
    use kiln_schema::duration;

    use super::*;
    use crate::system::files;
    use crate::system::tools::{Tool, present};

    fn assertion(name: &str, function: &'static str, arguments: &[&str]) -> Assertion {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Assertion { name: name.to_owned(), function, arguments, within: None }
    }

    #[test]
    fn checks_become_tests_that_a_person_would_write() {
        let mut port = assertion("port 80/tcp listens", "port_listens", &["80", "tcp"]);
        port.within = Some(Duration::from_secs(90));
        let text = bats(&[
            port,
            assertion("/a is 'b'", "file_is", &["/a", "it's"]),
            assertion("/a is \"b\"", "file_is", &["/a", "b\n"]),
        ]);
        assert_eq!(
            text,
            "#!/usr/bin/env bats\n# Rendered by kiln from the checks in kiln.yaml.\nload kiln\n\n\
             @test \"port 80/tcp listens\" {\n    eventually 1m30s port_listens '80' 'tcp'\n}\n\n\
             @test \"/a is _b_\" {\n    file_is '/a' 'it'\\''s'\n}\n\n\
             @test \"/a is _b_ (2)\" {\n    file_is '/a' $'b\\n'\n}\n"
        );
    }

    #[test]
    fn a_time_is_written_as_the_library_reads_it_and_whole() {
        for (milliseconds, expected) in [
            (500, "500ms"),
            (1500, "1s500ms"),
            (30_000, "30s"),
            (60_500, "1m500ms"),
            (5_415_000, "1h30m15s"),
            (90_000_000, "25h"),
        ] {
            let mut port = assertion("port", "port_listens", &["80"]);
            port.within = Some(Duration::from_millis(milliseconds));
            let text = bats(&[port]);
            assert!(text.contains(&format!("    eventually {expected} port_listens '80'\n")), "{text}");
            assert_eq!(duration::parse(expected), Ok(Duration::from_millis(milliseconds)));
        }
    }

    /// Texts that would be code, were they not data.
    const HOSTILE: [&str; 10] = [
        "$(touch pwned)",
        "`touch pwned`",
        "\"; touch pwned; \"",
        "'; touch pwned; '",
        "a\n@test \"b\" {\n touch pwned\n}\n",
        "x { # @test",
        "${HOME} \\$(touch pwned) \\",
        "# skip me # TODO",
        "tab\tbell\u{7}caf\u{e9}\u{85}\r\n\\'$(touch pwned)",
        "*",
    ];

    #[test]
    fn what_kiln_yaml_says_reaches_the_check_as_it_is_and_runs_as_nothing() {
        if !present("bats") {
            eprintln!("bats is not installed: nobody but us has read the rendered file");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut assertions = Vec::new();
        for (number, text) in HOSTILE.iter().enumerate() {
            let path = folder.path().join(number.to_string());
            files::write(&path, text.as_bytes(), 0o600).unwrap();
            assertions.push(assertion(&format!("{text} holds"), "file_is", &[path.to_str().unwrap(), text]));
        }
        assertions.push(assertion("and one $(touch pwned)", "file_is", &["/nowhere", "$(touch pwned)"]));
        files::write(&folder.path().join(LIBRARY_NAME), LIBRARY.as_bytes(), 0o600).unwrap();
        files::write(&folder.path().join(CHECKS_NAME), bats(&assertions).as_bytes(), 0o600).unwrap();
        let ran = Tool::new("bats").args(["--tap", CHECKS_NAME]).within(folder.path()).capture().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        let results: Vec<_> =
            said.lines().filter(|line| line.starts_with("ok ") || line.starts_with("not ok ")).collect();
        assert_eq!(results.len(), HOSTILE.len() + 1, "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
        assert_eq!(results.iter().filter(|line| line.starts_with("ok ")).count(), HOSTILE.len(), "{said}");
        assert!(!said.to_lowercase().contains("# skip"), "{said}");
        assert!(!folder.path().join("pwned").exists(), "text was run");
    }

    #[test]
    fn the_library_holds_its_own_tests() {
        if !present("bats") {
            eprintln!("bats is not installed: the tests of the library did not run");
            return;
        }
        let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/bats/kiln.bats");
        let ran = Tool::new("bats").args(["--tap", tests]).capture().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    }
}
